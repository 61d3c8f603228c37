"""BERT4Rec: bidirectional self-attention over the path and an appended mask (Sun et al., CIKM 2019,
arXiv 1904.06690).

    x = drop(sqrt(D) [E[v_1], ..., E[v_L], m] (+ P)),  h = LN(Blocks(x))
    s(y) = E_y . LN(gelu(W h_{L+1} + c)) + b_y

m is the vector of [MASK], a separate parameter: it is not a row of the embedding, so it is neither a
node nor a candidate. The mask is always appended after the last node, no node is dropped to make room
for it, and the scores are computed from its state, in training and in serving. The training loss also
includes the paper's cloze loss with weight ``cloze``:

    each service in a context of at least two nodes is masked with probability ``mask_share``; mean over
    the masked services of -log softmax(s at its position)[the service], with the final mask kept

The cloze uses a second forward pass, so the next service is always learned from the unmasked context,
as in serving. In the paper one pass serves both purposes and often masks the frontier. Only masked
positions contribute to the loss.

Further choices: the blocks are those of SASRec without the causal mask; learned positions are counted
backwards from the mask, so the end of every context has the same positions. Every context is a separate
row, because all its states depend on its last node; an epoch therefore costs several times as much as
one of SASRec.

In: padded paths. Out: scores [R, C].
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.examples import MAX_CONTEXT_LENGTH
from dagrec.data.vocabulary import FIRST_SERVICE, Contexts, Vocabulary
from dagrec.models.base import Traits
from dagrec.models.sequence.attention import (
    Activation,
    AttentionNetwork,
    AttentionRecommender,
    Blocks,
    TransformerOptions,
)
from dagrec.models.sequence.paths import PathRows, RowInputs
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, NodeEmbedding

MASK = "[MASK]"


class BERT4RecConfig(TransformerOptions):
    """Hyperparameters of the network and of training."""

    activation: Activation = Field(
        "gelu", description="activation function of the feed-forward network"
    )
    batch_size: int = Field(512, ge=1, description="contexts per step")
    epochs: int = Field(80, ge=1, description="maximum number of epochs")
    cloze: float = Field(0.2, ge=0, description="weight of the cloze loss; 0 disables it")
    mask_share: float = Field(
        0.2, gt=0, lt=1, description="probability with which the cloze masks a service"
    )


class BERTNetwork(AttentionNetwork):
    """Padded paths -> scores [R, C]."""

    def __init__(self, config: BERT4RecConfig, nodes: int, services: int) -> None:
        super().__init__()
        width = config.width
        self.scale = width**0.5
        self.services, self.cloze, self.mask_share = services, config.cloze, config.mask_share
        self.embed = NodeEmbedding(nodes, width)
        with torch.no_grad():
            self.embed.weight *= width**-0.5
        self.mask = nn.Parameter(torch.randn(width) * width**-0.5)
        self.position = None
        if config.positions == "absolute":
            self.position = nn.Parameter(torch.zeros(MAX_CONTEXT_LENGTH + 1, width))
        self.blocks = Blocks(config, MAX_CONTEXT_LENGTH + 1, causal=False)
        self.project = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.head = Head(width, services, self.embed if config.tied else None)

    def attend(self, inputs: RowInputs, hidden: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return states and weights as in the base class, for L + 1 positions including the mask.

        hidden: [B, L], True for nodes that are masked in addition to the final mask.
        """
        nodes = nn.functional.pad(inputs.nodes, (0, 1))
        position, end = torch.arange(nodes.shape[1], device=nodes.device), inputs.lengths[:, None]
        masked = position == end
        if hidden is not None:
            masked = masked | nn.functional.pad(hidden, (0, 1))
        x = torch.where(masked[..., None], self.mask, self.embed(nodes)) * self.scale
        if self.position is not None:
            x = x + self.position[(end - position).clamp(min=0)]
        result: tuple[Tensor, list[Tensor]] = self.blocks(x, position <= end)
        return result

    def states(self, inputs: RowInputs) -> Tensor:
        h, _ = self.attend(inputs)
        states: Tensor = self.project(h[inputs.rows, inputs.positions + 1])
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores

    def penalty(
        self, inputs: RowInputs, states: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor | None:
        """Return the weighted cloze loss; None outside training or if no service is masked."""
        if not self.training or self.cloze == 0:
            return None
        nodes = inputs.nodes
        services = (
            (nodes >= FIRST_SERVICE)
            & (nodes < FIRST_SERVICE + self.services)
            & (inputs.lengths[:, None] > 1)
        )
        hidden = services & (torch.rand(nodes.shape, device=nodes.device) < self.mask_share)
        rows = hidden.any(dim=1)
        if not rows.any():
            return None
        masked_rows = inputs._replace(nodes=nodes[rows], lengths=inputs.lengths[rows])
        h, _ = self.attend(masked_rows, hidden[rows])
        scores = self.scores(self.project(h[:, :-1][hidden[rows]]))
        return self.cloze * nn.functional.cross_entropy(scores.float(), nodes[hidden] - FIRST_SERVICE)


class BERT4Rec(AttentionRecommender):
    """Bidirectional self-attention over the path, scored at an appended mask token.

    Use it to compare with SASRec: it may gain from context on both sides of a node, and an epoch takes
    several times as long.
    """

    name = "bert4rec"
    paper = "Sun et al. 2019, arXiv 1904.06690"
    Config = BERT4RecConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    appended = (MASK,)
    config: BERT4RecConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> BERTNetwork:
        return BERTNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def units(self, contexts: Contexts, *, training: bool) -> PathRows:
        return PathRows.of(contexts, shared=False)
