"""A trained GRU over paths in numpy: five times as fast as torch for a single path, because the
overhead around the matrix products is smaller.

    r = sigmoid(x_r + U_r h),  z = sigmoid(x_z + U_z h),  n = tanh(x_n + r * (U_n h + b_u))
    h' = n + z * (h - n),      x = W v + b

The x of the first layer and the states after the first node depend on a single node; they are computed
once for every node and then looked up. The sigmoid is computed as (1 + tanh(a / 2)) / 2, which cannot
overflow; the factor 1 / 2 of a is folded into the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dagrec.types import Ids, Scores

Array = NDArray[np.float32]
ROWS_PER_PASS = 64
"""Number of paths that are computed together; it bounds memory."""


def ignore_overflow() -> np.errstate:
    """Suppress warnings about NaN and infinity; ``Recommender.score`` checks the scores."""
    return np.errstate(over="ignore", invalid="ignore")


@dataclass(frozen=True)
class Layer:
    """One GRU layer with the gates in PyTorch's order: reset, update, new.

    inputs: [D, 3H] W; bias: [3H] b, including the bias of U for r and z; states: [H, 3H] U; inner: [H]
    b_u, which is multiplied by r. The columns of r and z are halved.
    """

    inputs: Array
    bias: Array
    states: Array
    inner: Array

    @classmethod
    def of(cls, inputs: Array, states: Array, input_bias: Array, state_bias: Array) -> Layer:
        """Return the layer from PyTorch's arrays [3H, D], [3H, H], [3H] and [3H]."""
        hidden = states.shape[1]
        gates = slice(0, 2 * hidden)
        bias = input_bias.copy()
        bias[gates] += state_bias[gates]
        half = np.ones(3 * hidden, dtype=np.float32)
        half[gates] = 0.5
        return cls(
            np.ascontiguousarray(inputs.T) * half,
            bias * half,
            np.ascontiguousarray(states.T) * half,
            state_bias[2 * hidden :].copy(),
        )

    def gates(self, x: Array) -> Array:
        """Return the input part of the gates [..., 3H] for inputs [..., D]."""
        return x @ self.inputs + self.bias

    def next_state(self, x: Array, h: Array) -> Array:
        """Return the next states [..., H] from the input gates x [..., 3H] and states h [..., H]."""
        hidden = len(self.inner)
        gates = h @ self.states
        r_and_z = np.tanh(x[..., : 2 * hidden] + gates[..., : 2 * hidden])
        r_and_z += 1
        r_and_z *= 0.5
        n = gates[..., 2 * hidden :] + self.inner
        n *= r_and_z[..., :hidden]
        n += x[..., 2 * hidden :]
        np.tanh(n, out=n)
        result: Array = h - n
        result *= r_and_z[..., hidden:]
        result += n
        return result


@dataclass(frozen=True)
class NumpyGRU:
    """A GRU network that maps paths of node ids to scores.

    input_gates: [V, 3H] input part of the first layer's gates for each node; first_states: [layers, V,
    H] states after a path of one node; layers: all layers; weights: [H, C] and bias: [C] of the head.
    """

    input_gates: Array
    first_states: Array
    layers: tuple[Layer, ...]
    weights: Array
    bias: Array

    @classmethod
    def of(cls, embedding: Array, layers: tuple[Layer, ...], weights: Array, bias: Array) -> NumpyGRU:
        """Return the GRU from embedding: [V, D]; weights: [H, C]; bias: [C]."""
        with ignore_overflow():
            input_gates = x = layers[0].gates(embedding)
            states: list[Array] = []
            for layer in layers:
                x = layer.gates(states[-1]) if states else x
                states.append(
                    layer.next_state(x, np.zeros((len(x), len(layer.inner)), dtype=np.float32))
                )
            return cls(input_gates, np.stack(states), layers, weights, bias)

    def scores(self, nodes: Ids, lengths: Ids) -> Scores:
        """Return [B, C] scores of right-padded paths [B, L] with ``lengths`` [B] of at least 1."""
        if len(lengths) == 1:
            with ignore_overflow():
                state = self._state(nodes[0, : lengths[0]].tolist())
                row: Scores = (state @ self.weights + self.bias)[None]
            return row
        scores = np.empty((len(lengths), len(self.bias)), dtype=np.float32)
        # With the longest paths first, the paths that reach a position are the first rows.
        order = np.argsort(-lengths, kind="stable")
        with ignore_overflow():
            for start in range(0, len(order), ROWS_PER_PASS):
                rows = order[start : start + ROWS_PER_PASS]
                scores[rows] = self._states(nodes[rows], lengths[rows]) @ self.weights + self.bias
        return scores

    def _state(self, path: list[int]) -> Array:
        """Return the last layer's state [H] after a single path, without the overhead of a batch."""
        states: list[Array] = list(self.first_states[:, path[0]])
        for node in path[1:]:
            x = self.input_gates[node]
            for number, layer in enumerate(self.layers):
                states[number] = layer.next_state(x, states[number])
                if layer is not self.layers[-1]:
                    x = self.layers[number + 1].gates(states[number])
        return states[-1]

    def _states(self, nodes: Ids, lengths: Ids) -> Array:
        """Return the last layer's states [B, H] after each path, sorted by falling length."""
        positions = np.arange(1, int(lengths[0]))
        active = (lengths > positions[:, None]).sum(axis=1).tolist()
        x = states = self.input_gates[nodes[:, positions].T]  # [L - 1, B, 3H]
        for layer, first_states in zip(self.layers, self.first_states, strict=True):
            if layer is not self.layers[0]:  # the gates of all positions at once
                x = layer.gates(states[1:].reshape(-1, states.shape[2])).reshape(x.shape)
            states = np.zeros((len(positions) + 1, len(nodes), len(layer.inner)), dtype=np.float32)
            states[0] = h = first_states[nodes[:, 0]]
            for position, count in enumerate(active, start=1):
                h = layer.next_state(x[position - 1, :count], h[:count])
                states[position, :count] = h
        last_states: Array = states[lengths - 1, np.arange(len(nodes))]
        return last_states
