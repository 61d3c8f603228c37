"""UR4Rec: SASRec with a text retriever (after Zhang, Zhu and Dou, COLING 2025, main.45).

Three experts score the next service y for a context with state h (from SASRec) and last node f:

    identity:  p(y) = softmax_y(<E_y, h> + b_y), over the services that are targets in training
    text:      p(y) = softmax_y(k(h) cos(W_q [h; t_f], W_t t_y)),    k(h) = 20 sigmoid(w . h + c)
    graph:     p(y) = (1 - u_f) N(f, y) / N(f) + u_f pi(y), in training without the example's own link

t: frozen text vectors, centred and of length 1; N: counts of links in training; u_f: their unseen mass
(``ServiceGraph.unseen_mass``, 1 if nothing followed f); pi(y) ~ N(y) + 1. A gate weights the experts
for each context:

    s(y) = log sum_e g_e p_e(y),   g = softmax(W [h; log(1 + N(f)); f has a text] + bias)

The retriever of the paper reads texts about users that a language model wrote; its code is not public.
This file keeps the idea of texts that are encoded once, a retriever with a contrastive loss, and joint
training at the end. The design:

- The mixture is of probabilities, not of scores. Training lowers the identity scores of services that
  are never targets, and in a sum of scores this would dominate their text scores. In the mixture their
  identity probability is 0, and the text expert alone determines their rank.
- Both vectors of the text product have length 1 and k is initially 1, so the loss starts near log C;
  otherwise it can start as high as 90, and then only weight 0 works. k is learned, because no fixed
  value suits both early and late training. W_t is initialised orthogonally, which preserves the angles
  between texts.
- The contrastive loss (InfoNCE) is over all C services, because most in-batch negatives would be
  duplicates. Its weight is ``text_weight``. Its gradient stops at h, as do those of the gate and of the
  text expert in the mixture, so the text does not change the encoder. Without an identity expert, the
  text expert trains the encoder.
- A model that is trained only on known services learns that new ones do not occur. Therefore a share of
  the services (``cold_share``) is treated as new in each batch: only the text expert can score them, as
  in DropoutNet (Volkovs, Yu and Poutanen 2017). Services that are never targets do not compete in
  training, because their absence is no evidence against their texts.
- Training has three stages. Sequence: only the loss of the identity expert is optimised. Text: the
  contrastive loss is added. Joint: the scores are those of the mixture, which is optimised together
  with the loss of each expert; otherwise the gate would suppress experts that learn more slowly than
  counts. All losses are included in the reported loss from the start, so that it is comparable between
  stages. The stage is part of the state: early stopping may restore an epoch in which only identity
  scores.

With only the identity expert, the model is SASRec. Vectors of a sentence encoder are computed once with

    safetensors.numpy.save_file(dict(zip(keys, encoder.encode(texts))), "vectors.safetensors")

and passed as ``texts = "vectors.safetensors"``. They become part of the stored model. A changed file
needs a new name, because finished runs and checkpoints are identified by the name.

In: padded paths. Out: scores [R, C], log-probabilities if there are several experts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from dagrec.data.vocabulary import FIRST_SERVICE, Contexts, Vocabulary
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
from dagrec.models.text import key_texts, normalise_rows, project, text_features
from dagrec.training.data import TrainingData
from dagrec.types import Floats

TFIDF = "tfidf"
INITIAL_GATE = {"identity": 0.0, "text": -2.0, "graph": -2.0}
"""Initial logits of the gate: text and graph get weight 0.11 each, enough for all to be trained."""


class UR4RecConfig(TransformerOptions):
    """Experts, texts and stages, in addition to the hyperparameters of SASRec."""

    identity: bool = Field(True, description="use the expert of learned embeddings, as in SASRec")
    text: bool = Field(True, description="use the expert of texts")
    graph: bool = Field(True, description="use the expert of counts of what followed the last node")
    texts: str = Field(
        TFIDF,
        pattern=r"^tfidf$|\.safetensors$",
        description="text vectors; tfidf: of keys and texts; or a safetensors file of key -> vector",
    )
    text_dimensions: int = Field(64, ge=1, description="maximum dimension of the text vectors")
    text_weight: float = Field(
        1.0, ge=0, description="weight of the contrastive loss of the text expert"
    )
    shuffled: bool = Field(
        False,
        description="give each service the text of a random other service, as a control experiment",
    )
    cold_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the services, drawn anew per batch, that only the text expert scores",
    )
    sequence_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the epochs of the first stage, which trains only the sequence",
    )
    text_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the epochs of the second stage, which also trains the text expert",
    )

    @model_validator(mode="after")
    def _has_a_trainable_expert(self) -> Self:
        if not self.identity and not self.text:
            raise ValueError(
                "identity or text must be true: the graph expert has no parameters, use markov"
            )
        if self.sequence_share + self.text_share > 1:
            raise ValueError(
                "sequence_share and text_share must sum to at most 1, found "
                f"{self.sequence_share:g} and {self.text_share:g}"
            )
        return self


class UR4RecNetwork(AttentionNetwork):
    """Padded paths -> scores [R, C]. A state is h and the id of the last node as a float32."""

    support: Tensor
    targets: Tensor
    joint: Tensor

    def __init__(self, config: UR4RecConfig, graph: ServiceGraph, rows: Floats | None) -> None:
        """rows: [V, D] text vectors if there is a text expert, otherwise None."""
        super().__init__()
        vocabulary, width = graph.vocabulary, config.width
        self.encoder = CausalTransformer(config, len(vocabulary), len(vocabulary.services))
        if not config.identity:
            del self.encoder.head
        self.experts = tuple(name for name in INITIAL_GATE if getattr(config, name))
        self.identity = config.identity
        self.text = TextExpert(rows, width, len(vocabulary.services)) if rows is not None else None
        self.graph = GraphExpert(graph) if config.graph else None
        self.gate: nn.Linear | None = None
        if len(self.experts) > 1:
            self.gate = nn.Linear(width + 2, len(self.experts))
            nn.init.zeros_(self.gate.weight)
            with torch.no_grad():
                self.gate.bias.copy_(torch.tensor([INITIAL_GATE[name] for name in self.experts]))
        self.text_weight = config.text_weight
        self.cold_share = config.cold_share if self.text is not None else 0.0
        self.sequence_ends = config.sequence_share * config.epochs
        self.text_ends = (config.sequence_share + config.text_share) * config.epochs
        self.trains_text = True
        self.register_buffer("joint", torch.ones(1))  # 0: only the identity expert scores
        support = graph.frontier_counts.astype(np.float32)
        self.register_buffer("support", torch.from_numpy(support), persistent=False)
        self.register_buffer("targets", torch.from_numpy(graph.popularity > 0), persistent=False)

    def begin_epoch(self, number: int) -> None:
        staged = self.gate is not None and self.identity
        self.trains_text = number >= self.sequence_ends
        self.joint.fill_(0.0 if staged and number < self.text_ends else 1.0)

    def attend(self, inputs: RowInputs) -> tuple[Tensor, list[Tensor]]:
        return self.encoder.attend(inputs)

    def states(self, inputs: RowInputs) -> Tensor:
        h = self.encoder.states(inputs)
        last = inputs.nodes[inputs.rows, inputs.positions]
        return torch.cat([h, last[:, None].float()], dim=1)

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        h, last = _split(states)
        if self.gate is None:
            # A single expert needs no mixture; with identity alone the scores are those of SASRec.
            if self.identity:
                return self.encoder.scores(h, columns)
            return _select(self._text(h, last), columns)
        log_p = []
        cold = self._cold()
        if self.identity:
            logits = self.encoder.scores(h).float()
            log_p.append(log_softmax(logits.masked_fill(cold | ~self.targets, -torch.inf), dim=1))
        if self.text is not None:
            log_p.append(self._text(h, last))
        if self.graph is not None:
            log_p.append(self.graph(last).masked_fill(cold, -torch.inf))
        gates = self.log_gates(h, last).T[:, :, None]  # [experts, R, 1]
        mixture = torch.logsumexp(torch.stack(log_p) + gates, dim=0)
        if self.identity:
            mixture = torch.lerp(log_softmax(logits, dim=1), mixture, self.joint)
        return _select(mixture, columns)

    def log_gates(self, h: Tensor, last: Tensor) -> Tensor:
        """Return the log weights of the experts [R, experts]."""
        assert self.gate is not None
        support = self.support[last].log1p()
        has_text = self.text.rows[last].any(dim=1) if self.text else torch.zeros_like(support)
        inputs = [self._detached(h), support[:, None], has_text[:, None].to(h.dtype)]
        return log_softmax(self.gate(torch.cat(inputs, dim=1)).float(), dim=1)

    def penalty(
        self, inputs: RowInputs, states: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor | None:
        """Return the losses of the single experts [P]; None without a gate or outside training."""
        if self.gate is None or not self.training:
            return None
        h, last = _split(states)
        losses = []
        if self.text is not None and self.text_weight:
            log_p = self.text(h.detach(), last, self.targets)[rows, columns]
            losses.append(_with_gradient(-self.text_weight * log_p, self.trains_text))
        if self.identity:
            log_p = log_softmax(self.encoder.scores(h).float(), dim=1)[rows, columns]
            losses.append(_with_gradient(-log_p, bool(self.joint)))
        return torch.stack(losses).sum(dim=0) if losses else None

    def embeddings(self) -> dict[str, Tensor]:
        tables = self.encoder.embeddings()
        if self.text is not None:
            identity = [tables["services"]] if "services" in tables else []
            tables["services"] = torch.cat([*identity, self.text.vectors()], dim=1)
        return tables

    def _text(self, h: Tensor, last: Tensor) -> Tensor:
        """Return the log-probabilities of the text expert [R, C]."""
        assert self.text is not None
        candidates = self.targets if self.training else None
        log_p: Tensor = self.text(self._detached(h), last, candidates)
        return log_p

    def _cold(self) -> Tensor:
        """Return [C], True for services treated as new: a random share in training, otherwise none."""
        share = self.cold_share if self.training else 0.0
        cold = torch.rand(len(self.targets), device=self.targets.device) < share if share else None
        if cold is None or not (self.targets & ~cold).any():
            return torch.zeros_like(self.targets)
        return cold

    def _detached(self, h: Tensor) -> Tensor:
        """Return h for text expert and gate; detached if there is an identity expert."""
        return h.detach() if self.identity else h


class UR4Rec(AttentionRecommender):
    """A gated mixture of SASRec, a text retriever and counts.

    Use it if services have texts and new services without training examples must be ranked.
    """

    name = "ur4rec"
    paper = "Zhang, Zhu and Dou 2025, COLING main.45"
    Config = UR4RecConfig
    traits = Traits(order_aware=True, graph_aware=True, needs_text=True, gradient_trained=True)
    config: UR4RecConfig
    _stored_text_rows: Floats | None = None

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> UR4RecNetwork:
        rows = None
        if self.config.text:
            rows = self._fitted(self._stored_text_rows) if data is None else self.text_rows(data)
        return UR4RecNetwork(self.config, self.graph, rows)

    def units(self, contexts: Contexts, *, training: bool) -> PathRows:
        return PathRows.of(contexts, shared=training)

    def gates(self, contexts: Contexts) -> dict[str, Floats]:
        """Return the weight of each expert [B] in each context."""
        network = self._fitted(self._network)
        assert isinstance(network, UR4RecNetwork)
        units = self.units(self.read(contexts, self.graph.vocabulary), training=False)
        with torch.inference_mode():
            inputs, context_rows = units.take(np.arange(len(contexts)))
            states = network.states(inputs)
            gates = torch.ones(len(states), 1)
            if network.gate is not None:
                gates = network.log_gates(*_split(states)).exp()
        weights = np.empty(gates.shape)
        weights[context_rows] = gates.numpy()
        return dict(zip(network.experts, weights.T, strict=True))

    def text_rows(self, data: TrainingData) -> Floats:
        """Return the centred text vectors [V, D] of length 1; 0 for nodes without text."""
        vocabulary, dimensions = data.vocabulary, self.config.text_dimensions
        if self.config.texts == TFIDF:
            texts = key_texts(data)
            rows = text_features(vocabulary, texts, dimensions)
        else:
            rows = project(read_vectors(Path(self.config.texts), vocabulary), dimensions)
        has_text = rows.any(axis=1)
        # The common component of all texts carries no information and makes them all similar.
        rows[has_text] -= rows[has_text].mean(axis=0)
        services = slice(FIRST_SERVICE, FIRST_SERVICE + len(vocabulary.services))
        if self.config.shuffled:
            rng = np.random.default_rng(self.seed % 2**64)
            rows[services] = rng.permutation(rows[services])
        return normalise_rows(rows)

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        if self.config.text:
            self._stored_text_rows = state["text.rows"].astype(np.float64)
            if self._stored_text_rows.ndim != 2 or len(self._stored_text_rows) != len(vocabulary):
                raise ValueError(
                    f"text vectors of {len(self._stored_text_rows)} nodes, not {len(vocabulary)}"
                )
        super()._restore(state, vocabulary, graph)


def _split(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return h [R, H] and the ids of the last nodes [R]."""
    return states[:, :-1], states[:, -1].long()


def _with_gradient(losses: Tensor, enabled: bool) -> Tensor:
    """Return the losses; if not enabled, the gradients of their parameters exist but are 0."""
    return losses if enabled else losses.detach() + 0 * losses


def _select(scores: Tensor, columns: Tensor | None) -> Tensor:
    """Return the scores of ``columns``, or of all services; a softmax needs all in any case."""
    return scores if columns is None else scores[:, columns]
