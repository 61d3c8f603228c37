"""A trained GRU over paths, in numpy: what torch computes, for one path in a fifth of the time, most of
which is spent around the products.

    r = sigmoid(x_r + U_r h),  z = sigmoid(x_z + U_z h),  n = tanh(x_n + r * (U_n h + b_u))
    h' = n + z * (h - n),      x = W v + b

In the first layer, x depends on the node alone, and so do the states after the first node: they are
computed once for every node, and then looked up.
Of sigmoid(a) = (1 + tanh(a / 2)) / 2, which no a overflows, the inner half is in the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dagrec.types import Ids, Scores

Array = NDArray[np.float32]
ROWS_PER_PASS = 64
"""Paths that are computed together; a bound on memory."""


def quiet() -> np.errstate:
    """No warnings of weights that are no numbers, as in torch: scores are looked at in any case."""
    return np.errstate(over="ignore", invalid="ignore")


@dataclass(frozen=True)
class Layer:
    """One GRU layer, gates in PyTorch's order: reset, update, new.

    inputs: [D, 3H] W of the input; bias: [3H] b, with that of U in it for r and z; states: [H, 3H] U;
    inner: [H] b_u, which is inside the product with r. The columns of r and z are halved.
    """

    inputs: Array
    bias: Array
    states: Array
    inner: Array

    @classmethod
    def of(cls, inputs: Array, states: Array, input_bias: Array, state_bias: Array) -> Layer:
        """From PyTorch's [3H, D], [3H, H], [3H] and [3H]."""
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
        """[..., 3H] of inputs [..., D]."""
        return x @ self.inputs + self.bias

    def step(self, x: Array, h: Array) -> Array:
        """[..., H] states after one more node; x: [..., 3H] its gates, h: [..., H] those before."""
        hidden = len(self.inner)
        gates = h @ self.states
        opened = np.tanh(x[..., : 2 * hidden] + gates[..., : 2 * hidden])
        opened += 1
        opened *= 0.5
        n = gates[..., 2 * hidden :] + self.inner
        n *= opened[..., :hidden]
        n += x[..., 2 * hidden :]
        np.tanh(n, out=n)
        found: Array = h - n
        found *= opened[..., hidden:]
        found += n
        return found


@dataclass(frozen=True)
class TrainedGRU:
    """From paths of node ids to scores.

    first: [V, 3H] the first layer's gates of each node; starts: [layers, V, H] the states after a path
    of this node alone; layers: all layers; weights: [H, C] and bias: [C] of the scores.
    """

    first: Array
    starts: Array
    layers: tuple[Layer, ...]
    weights: Array
    bias: Array

    @classmethod
    def of(cls, embedding: Array, layers: tuple[Layer, ...], weights: Array, bias: Array) -> TrainedGRU:
        """embedding: [V, D]; weights: [H, C]; bias: [C]."""
        with quiet():
            first = x = layers[0].gates(embedding)
            starts: list[Array] = []
            for layer in layers:
                x = layer.gates(starts[-1]) if starts else x
                starts.append(layer.step(x, np.zeros((len(x), len(layer.inner)), dtype=np.float32)))
            return cls(first, np.stack(starts), layers, weights, bias)

    def scores(self, nodes: Ids, lengths: Ids) -> Scores:
        """[B, C] of right-padded paths [B, L] of ``lengths`` [B], each at least 1."""
        if len(lengths) == 1:
            with quiet():
                state = self._state(nodes[0, : lengths[0]].tolist())
                one: Scores = (state @ self.weights + self.bias)[None]
            return one
        found = np.empty((len(lengths), len(self.bias)), dtype=np.float32)
        # The longest first: those that still go on are then the first rows.
        order = np.argsort(-lengths, kind="stable")
        with quiet():
            for start in range(0, len(order), ROWS_PER_PASS):
                rows = order[start : start + ROWS_PER_PASS]
                found[rows] = self._states(nodes[rows], lengths[rows]) @ self.weights + self.bias
        return found

    def _state(self, path: list[int]) -> Array:
        """[H] the state of the last layer after one path: what arrays of several cost is saved."""
        states: list[Array] = list(self.starts[:, path[0]])
        for node in path[1:]:
            x = self.first[node]
            for number, layer in enumerate(self.layers):
                states[number] = layer.step(x, states[number])
                if layer is not self.layers[-1]:
                    x = self.layers[number + 1].gates(states[number])
        return states[-1]

    def _states(self, nodes: Ids, lengths: Ids) -> Array:
        """[B, H] states of the last layer after each path, the longest first."""
        places = np.arange(1, int(lengths[0]))
        going = (lengths > places[:, None]).sum(axis=1).tolist()
        x = states = self.first[nodes[:, places].T]  # [L - 1, B, 3H]
        for layer, starts in zip(self.layers, self.starts, strict=True):
            if layer is not self.layers[0]:  # the gates of all places at once
                x = layer.gates(states[1:].reshape(-1, states.shape[2])).reshape(x.shape)
            states = np.zeros((len(places) + 1, len(nodes), len(layer.inner)), dtype=np.float32)
            states[0] = h = starts[nodes[:, 0]]
            for place, count in enumerate(going, start=1):
                h = layer.step(x[place - 1, :count], h[:count])
                states[place, :count] = h
        found: Array = states[lengths - 1, np.arange(len(nodes))]
        return found
