"""SASRec with a text retriever, after UR4Rec (Zhang, Zhu and Dou, COLING 2025, main.45).

Experts say which service y follows a context with the state h (SASRec's) and the last node f:

    identity:  p(y) = softmax_y(<E_y, h> + b_y), over the services that were targets in training
    text:      p(y) = softmax_y(k(h) cos(W_q [h; t_f], W_t t_y)),    k(h) = 20 sigmoid(w . h + c)
    graph:     p(y) = (1 - u_f) N(f, y) / N(f) + u_f pi(y), where training leaves the example's link out

t: frozen text vectors, centred and of length 1; N: counts of links in training, u_f their unseen mass
(``ServiceGraph.unseen_mass``, 1 where nothing followed f), pi(y) ~ N(y) + 1. A gate weighs them, for
each context by itself:

    s(y) = log sum_e g_e p_e(y),   g = softmax(W [h; log(1 + N(f)); f has a text] + bias)

The paper's retriever reads what a language model wrote of users; no code of it is public. What is kept
of it: text that is encoded once, a retriever with a contrastive loss, and joint training at the end.
The choices:

- Probabilities are mixed, not scores. The score of a service that was never a target is what training
  pushed it down to, and in a sum it would drown the text's. Here it has identity probability 0, and the
  text alone gives it a rank.
- Both sides of the text's product have length 1, and k starts at 1: the loss starts near log C. Without
  that it stood at 90 elsewhere, and only the weight 0 worked. k is learned, since a fixed one is wrong
  either for the first steps or for the last; W_t starts orthogonal, which keeps the texts' angles.
- The contrastive loss (InfoNCE) is over all C services: in a batch most negatives would be duplicates.
  It has weight ``text_weight``, and its gradient ends at h, as that of the gate and of the text in the
  mixture does: text never disturbs the encoder. Where there is no identity expert, h is the text's.
- Who learns from known services alone learns that new ones do not occur. So in each batch a share of
  the services (``cold_share``) is taken for new: the text alone may answer with them, as in DropoutNet
  (Volkovs, Yu and Poutanen 2017). Services that never were targets are not among the C in training:
  that they did not follow is no evidence against their texts.
- Training has three stages. Sequence: the identity expert's loss alone teaches. Text: the contrastive
  loss teaches too. Joint: the mixture is answered with and learned; each expert keeps its own loss, or
  the gate would starve those that are slower than counts. The losses are counted from the start, so
  that the stages compare. The stage is stored: early stopping may go back to an earlier one, where
  identity answers alone.

With the identity expert alone, it is SASRec. Vectors of a sentence encoder are made once, by

    safetensors.numpy.save_file(dict(zip(keys, encoder.encode(texts))), "vectors.safetensors")

and given as ``texts = "vectors.safetensors"``. They become part of what is stored. A changed file needs
a new name: finished cells and checkpoints are found again by the name.

In: padded paths. Out: scores [R, C], logarithms of probabilities where there are two experts or more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from dagrec.data.vocabulary import FIRST, Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import State, Traits
from dagrec.models.hybrid.experts import GraphExpert, TextExpert, read_vectors
from dagrec.models.sequence.attention import (
    AttentionNetwork,
    AttentionRecommender,
    CausalTransformer,
    TransformerOptions,
)
from dagrec.models.sequence.paths import PathRows, RowInputs
from dagrec.models.text import key_texts, projected, text_features, unit
from dagrec.training.data import TrainingData
from dagrec.types import Floats

TFIDF = "tfidf"
FIRST_GATE = {"identity": 0.0, "text": -2.0, "graph": -2.0}
"""The first scores of the experts: the others have 0.11 each beside identity, which trains both."""


class UR4RecConfig(TransformerOptions):
    """Experts, texts and stages, beside the options of SASRec."""

    identity: bool = Field(True, description="expert: services by their embeddings, as in SASRec")
    text: bool = Field(True, description="expert: services by their texts")
    graph: bool = Field(True, description="expert: counts of what followed the last node")
    texts: str = Field(
        TFIDF,
        pattern=r"^tfidf$|\.safetensors$",
        description="tfidf: of keys and texts; or a safetensors file with a vector for each key",
    )
    text_dimensions: int = Field(64, ge=1, description="of the text vectors, at most")
    text_weight: float = Field(
        1.0, ge=0, description="weight of the text's own loss beside that of the mixture"
    )
    shuffled: bool = Field(
        False, description="give each service the text of another, at random: what text is not worth"
    )
    cold_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="of the services, drawn anew for each batch, that the text alone may answer with",
    )
    sequence_share: float = Field(
        0.5, ge=0, le=1, description="of the epochs, in which the sequence alone is taught"
    )
    text_share: float = Field(
        0.1, ge=0, le=1, description="of the epochs after these, in which the text is taught beside it"
    )

    @model_validator(mode="after")
    def _has_something_to_learn(self) -> Self:
        if not self.identity and not self.text:
            raise ValueError(
                "identity or text must be true: the graph alone learns nothing, use markov"
            )
        if self.sequence_share + self.text_share > 1:
            raise ValueError(
                "sequence_share and text_share add up to 1 at most, found "
                f"{self.sequence_share:g} and {self.text_share:g}"
            )
        return self


class UR4RecNetwork(AttentionNetwork):
    """Padded paths -> scores [R, C]. A state is h and the id of the last node, which float32 holds."""

    support: Tensor
    targets: Tensor
    joint: Tensor

    def __init__(self, config: UR4RecConfig, graph: ServiceGraph, rows: Floats | None) -> None:
        """rows: the text vectors [V, D] where there is a text expert."""
        super().__init__()
        vocabulary, width = graph.vocabulary, config.width
        self.encoder = CausalTransformer(config, len(vocabulary), len(vocabulary.services))
        if not config.identity:
            del self.encoder.head
        self.experts = tuple(name for name in FIRST_GATE if getattr(config, name))
        self.identity = config.identity
        self.text = TextExpert(rows, width, len(vocabulary.services)) if rows is not None else None
        self.graph = GraphExpert(graph) if config.graph else None
        self.gate: nn.Linear | None = None
        if len(self.experts) > 1:
            self.gate = nn.Linear(width + 2, len(self.experts))
            nn.init.zeros_(self.gate.weight)
            with torch.no_grad():
                self.gate.bias.copy_(torch.tensor([FIRST_GATE[name] for name in self.experts]))
        self.text_weight = config.text_weight
        self.cold_share = config.cold_share if self.text is not None else 0.0
        self.sequence_ends = config.sequence_share * config.epochs
        self.text_ends = (config.sequence_share + config.text_share) * config.epochs
        self.teaches_text = True
        self.register_buffer("joint", torch.ones(1))  # 0: the identity expert answers alone
        support = graph.continued.astype(np.float32)
        self.register_buffer("support", torch.from_numpy(support), persistent=False)
        self.register_buffer("targets", torch.from_numpy(graph.popularity > 0), persistent=False)

    def begin_epoch(self, number: int) -> None:
        staged = self.gate is not None and self.identity
        self.teaches_text = number >= self.sequence_ends
        self.joint.fill_(0.0 if staged and number < self.text_ends else 1.0)

    def attend(self, inputs: RowInputs) -> tuple[Tensor, list[Tensor]]:
        return self.encoder.attend(inputs)

    def states(self, inputs: RowInputs) -> Tensor:
        h = self.encoder.states(inputs)
        last = inputs.nodes[inputs.rows, inputs.places]
        return torch.cat([h, last[:, None].float()], dim=1)

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        h, last = _parts(states)
        if self.gate is None:
            # An expert alone needs no mixture, and identity alone is SASRec to the last bit.
            return (
                self.encoder.scores(h, columns) if self.identity else _of(self._text(h, last), columns)
            )
        said = []
        cold = self._cold()
        if self.identity:
            logits = self.encoder.scores(h).float()
            said.append(log_softmax(logits.masked_fill(cold | ~self.targets, -torch.inf), dim=1))
        if self.text is not None:
            said.append(self._text(h, last))
        if self.graph is not None:
            said.append(self.graph(last).masked_fill(cold, -torch.inf))
        gates = self.log_gates(h, last).T[:, :, None]  # [experts, R, 1]
        mixed = torch.logsumexp(torch.stack(said) + gates, dim=0)
        if self.identity:
            mixed = torch.lerp(log_softmax(logits, dim=1), mixed, self.joint)
        return _of(mixed, columns)

    def log_gates(self, h: Tensor, last: Tensor) -> Tensor:
        """[R, experts]"""
        assert self.gate is not None
        support = self.support[last].log1p()
        written = self.text.rows[last].any(dim=1) if self.text else torch.zeros_like(support)
        read = torch.cat([self._read(h), support[:, None], written[:, None].to(h.dtype)], dim=1)
        return log_softmax(self.gate(read).float(), dim=1)

    def penalty(
        self, inputs: RowInputs, states: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor | None:
        if self.gate is None or not self.training:
            return None
        h, last = _parts(states)
        own = []
        if self.text is not None and self.text_weight:
            said = self.text(h.detach(), last, self.targets)[rows, columns]
            own.append(_taught(-self.text_weight * said, self.teaches_text))
        if self.identity:
            said = log_softmax(self.encoder.scores(h).float(), dim=1)[rows, columns]
            own.append(_taught(-said, bool(self.joint)))
        return torch.stack(own).sum(dim=0) if own else None

    def embeddings(self) -> dict[str, Tensor]:
        found = self.encoder.embeddings()
        if self.text is not None:
            own = [found["services"]] if "services" in found else []
            found["services"] = torch.cat([*own, self.text.vectors()], dim=1)
        return found

    def _text(self, h: Tensor, last: Tensor) -> Tensor:
        assert self.text is not None
        found: Tensor = self.text(self._read(h), last, self.targets if self.training else None)
        return found

    def _cold(self) -> Tensor:
        """[C], True for services that are taken for new: in training, a share of those that are not."""
        share = self.cold_share if self.training else 0.0
        cold = torch.rand(len(self.targets), device=self.targets.device) < share if share else None
        if cold is None or not (self.targets & ~cold).any():
            return torch.zeros_like(self.targets)
        return cold

    def _read(self, h: Tensor) -> Tensor:
        """h as text and gate read it: without a way back, where the identity expert teaches it."""
        return h.detach() if self.identity else h


class UR4Rec(AttentionRecommender):
    """Services by identity, by text and by counts, mixed for each context by itself."""

    name = "ur4rec"
    paper = "Zhang, Zhu and Dou 2025, COLING main.45"
    Config = UR4RecConfig
    traits = Traits(order_aware=True, graph_aware=True, needs_text=True, gradient_trained=True)
    config: UR4RecConfig
    _stored: Floats | None = None

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> UR4RecNetwork:
        rows = None
        if self.config.text:
            rows = self._fitted(self._stored) if data is None else self.text_rows(data)
        return UR4RecNetwork(self.config, self.graph, rows)

    def units(self, contexts: Contexts, *, training: bool) -> PathRows:
        return PathRows.of(contexts, shared=training)

    def gates(self, contexts: Contexts) -> dict[str, Floats]:
        """Expert -> [B], its weight in each of these contexts."""
        network = self._fitted(self._network)
        assert isinstance(network, UR4RecNetwork)
        units = self.units(self.read(contexts, self.graph.vocabulary), training=False)
        with torch.inference_mode():
            inputs, answered = units.take(np.arange(len(contexts)))
            states = network.states(inputs)
            gates = torch.ones(len(states), 1)
            if network.gate is not None:
                gates = network.log_gates(*_parts(states)).exp()
        found = np.empty(gates.shape)
        found[answered] = gates.numpy()
        return dict(zip(network.experts, found.T, strict=True))

    def text_rows(self, data: TrainingData) -> Floats:
        """[V, D]: the text vectors less their mean, of length 1; 0 where nothing is written."""
        vocabulary, dimensions = data.vocabulary, self.config.text_dimensions
        if self.config.texts == TFIDF:
            texts = key_texts(data)
            rows = text_features(vocabulary, texts, dimensions)
        else:
            rows = projected(read_vectors(Path(self.config.texts), vocabulary), dimensions)
        written = rows.any(axis=1)
        # What all texts share says nothing, and would make all of them look alike.
        rows[written] -= rows[written].mean(axis=0)
        services = slice(FIRST, FIRST + len(vocabulary.services))
        if self.config.shuffled:
            rng = np.random.default_rng(self.seed % 2**64)
            rows[services] = rng.permutation(rows[services])
        return unit(rows)

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        if self.config.text:
            self._stored = state["text.rows"].astype(np.float64)
            if self._stored.ndim != 2 or len(self._stored) != len(vocabulary):
                raise ValueError(f"text vectors of {len(self._stored)} nodes, not {len(vocabulary)}")
        super()._restore(state, vocabulary, graph)


def _parts(states: Tensor) -> tuple[Tensor, Tensor]:
    """h [R, H], and the ids of the last nodes [R]."""
    return states[:, :-1], states[:, -1].long()


def _taught(losses: Tensor, now: bool) -> Tensor:
    """The losses, for the parameters of which there are gradients; of 0, where it is not time yet."""
    return losses if now else losses.detach() + 0 * losses


def _of(scores: Tensor, columns: Tensor | None) -> Tensor:
    """A softmax needs all services: chosen ones cost as much."""
    return scores if columns is None else scores[:, columns]
