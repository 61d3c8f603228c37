"""BERT4Rec: attention in both directions, read at an appended mask (Sun et al., CIKM 2019,
arXiv 1904.06690).

    x = drop(sqrt(D) [E[v_1], ..., E[v_L], m] (+ P)),  h = LN(Blocks(x))
    s(y) = E_y . LN(gelu(W h_{L+1} + c)) + b_y

m is the vector of [MASK], a parameter of its own: it stands in no table, so it is neither a node nor a
candidate. It is always appended behind the last node, nothing is dropped for it, and the answer is read
there, in training as in serving. On top of the loss there comes the paper's cloze, times ``cloze``:

    each service of a context of two nodes or more is masked with probability ``mask_share``
    mean over these of -log softmax(s at its place)[the service], the mask at the end being there too

It is a second pass, so that the answer is always learned from the whole context, as it is asked for. In
the paper one pass serves both, and often hides the frontier itself. Only masked places have a loss.

Other choices: the blocks are those of SASRec without the causal mask; learned places are counted from
the mask backwards, so that they say the same of a short context as of the end of a long one. Every
context is a row of its own, since all of its states depend on where it ends: an epoch costs several
times one of SASRec.

In: padded paths. Out: scores [R, C].
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.examples import MAX_CONTEXT_LENGTH
from dagrec.data.vocabulary import FIRST, Contexts, Vocabulary
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
    """Hyperparameters of the network; those of the optimisation come with them."""

    activation: Activation = Field("gelu", description="of the feed-forward net")
    batch_size: int = Field(512, ge=1, description="units a step: contexts")
    epochs: int = Field(80, ge=1, description="passes over the training units, at most")
    cloze: float = Field(0.2, ge=0, description="weight of the loss at masked services; 0: no cloze")
    mask_share: float = Field(0.2, gt=0, lt=1, description="share of the services that the cloze masks")


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
        """hidden: [B, L], True where a node is masked besides the end."""
        nodes = nn.functional.pad(inputs.nodes, (0, 1))
        place, end = torch.arange(nodes.shape[1], device=nodes.device), inputs.lengths[:, None]
        masked = place == end
        if hidden is not None:
            masked = masked | nn.functional.pad(hidden, (0, 1))
        x = torch.where(masked[..., None], self.mask, self.embed(nodes)) * self.scale
        if self.position is not None:
            x = x + self.position[(end - place).clamp(min=0)]
        found: tuple[Tensor, list[Tensor]] = self.blocks(x, place <= end)
        return found

    def states(self, inputs: RowInputs) -> Tensor:
        found, _ = self.attend(inputs)
        states: Tensor = self.project(found[inputs.rows, inputs.places + 1])
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores

    def penalty(
        self, inputs: RowInputs, states: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor | None:
        """The cloze, in training; None where no service is masked."""
        if not self.training or self.cloze == 0:
            return None
        nodes = inputs.nodes
        services = (nodes >= FIRST) & (nodes < FIRST + self.services) & (inputs.lengths[:, None] > 1)
        hidden = services & (torch.rand(nodes.shape, device=nodes.device) < self.mask_share)
        some = hidden.any(dim=1)
        if not some.any():
            return None
        part = inputs._replace(nodes=nodes[some], lengths=inputs.lengths[some])
        found, _ = self.attend(part, hidden[some])
        scores = self.scores(self.project(found[:, :-1][hidden[some]]))
        return self.cloze * nn.functional.cross_entropy(scores.float(), nodes[hidden] - FIRST)


class BERT4Rec(AttentionRecommender):
    """Attention in both directions, a mask behind the path, and a linear score for each service."""

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
