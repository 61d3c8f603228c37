"""Checkpoints, from which an interrupted training is resumed with the same result.

A checkpoint is one safetensors file per training, named by a hash of everything that determines the
result. Weights, best weights, optimiser state and generator states are tensors; epoch and history are
JSON in the header. The file is replaced atomically, so a crash leaves the previous checkpoint, and it
has a hash of its content, so that a damaged file is not used.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dagrec.errors import DagrecError
from dagrec.output.files import remove_drafts, replace_file
from dagrec.training.data import TrainingData
from dagrec.training.distributed import Processes
from dagrec.training.network import Learner
from dagrec.training.runtime import Epoch

FORMAT = "3"
Weights = dict[str, Tensor]


@dataclass
class TrainingState:
    """The state of a training besides the current weights and the optimiser.

    best: the weights with the best validation value, or None without a held-out part.
    """

    history: list[Epoch] = field(default_factory=list)
    best_value: float | None = None
    best_epoch: int = 0
    best: Weights | None = None
    done: bool = False


@dataclass
class Checkpoint:
    """The checkpoint file of one training. It is written at most every ``seconds``, and at the end."""

    path: Path
    seconds: float
    _written: float = field(default_factory=time.monotonic)

    @classmethod
    def of(
        cls,
        folder: Path,
        learner: Learner,
        data: TrainingData,
        device: torch.device,
        processes: Processes,
        seconds: float,
    ) -> Checkpoint:
        identity = {
            "format": FORMAT,
            "dagrec": version("dagrec"),
            "torch": torch.__version__,
            "device": device.type,
            "recommender": learner.name,
            "config": learner.config.model_dump(mode="json"),
            "seed": learner.seed,
            "data": data.fingerprint,
            "processes": processes.count,
        }
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        return cls(folder / f"{learner.name}-{name}.safetensors", seconds)

    def due(self, done: bool) -> bool:
        """Whether to write now. A training that takes less than ``seconds`` writes no checkpoint."""
        elapsed = time.monotonic() - self._written >= self.seconds
        return elapsed or (done and self.path.exists())

    def write(
        self,
        state: TrainingState,
        weights: Weights,
        optimiser: torch.optim.Optimizer,
        generators: Tensor,
    ) -> None:
        """Write the file. Raises :class:`DagrecError` if it cannot be written.

        generators: [processes, ...] states of the random generators, one row per process.
        """
        tensors = {f"weights/{name}": tensor for name, tensor in weights.items()}
        tensors |= {f"best/{name}": tensor for name, tensor in (state.best or {}).items()}
        tensors["generators"] = generators
        scalars: dict[str, dict[str, Any]] = {}
        for number, values in optimiser.state_dict()["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser/{number}/{key}"] = value
                else:
                    scalars.setdefault(str(number), {})[key] = value
        metadata = {
            "history": [astuple(epoch) for epoch in state.history],
            "best_value": state.best_value,
            "best_epoch": state.best_epoch,
            "done": state.done,
            "optimiser": scalars,
        }
        # safetensors does not store tensors that share memory.
        copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        state_json = json.dumps(metadata)
        try:
            header = {"state": state_json, "digest": self._digest(state_json, copies)}
            replace_file(self.path, save(copies, header))
        except (OSError, SafetensorError) as error:
            raise DagrecError(
                f"{self.path}: a checkpoint must be written, found {error}; make room, or choose "
                "another folder for checkpoints"
            ) from None
        self._written = time.monotonic()

    def read(
        self, network: torch.nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[TrainingState, Tensor] | None:
        """Restore weights and optimiser, and return the training state and the generator states.

        Returns None if there is no valid checkpoint; training then starts from the beginning.
        """
        remove_drafts(self.path)
        content = self._content()
        if content is None:
            return None
        metadata, tensors = content
        parts: dict[str, Weights] = {"weights": {}, "best": {}, "optimiser": {}}
        generators = tensors.pop("generators")
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        if _shapes(parts["weights"]) != _shapes(network.state_dict()):
            return None  # written by another version of the network's code
        network.load_state_dict(parts["weights"])
        moments: dict[int, dict[str, Any]] = {
            int(number): dict(values) for number, values in metadata["optimiser"].items()
        }
        for name, tensor in parts["optimiser"].items():
            number, _, key = name.partition("/")
            moments.setdefault(int(number), {})[key] = tensor
        optimiser.load_state_dict(
            {"state": moments, "param_groups": optimiser.state_dict()["param_groups"]}
        )
        state = TrainingState(
            [Epoch(*fields) for fields in metadata["history"]],
            metadata["best_value"],
            metadata["best_epoch"],
            parts["best"] or None,
            metadata["done"],
        )
        return state, generators

    def _content(self) -> tuple[dict[str, Any], Weights] | None:
        """The metadata and the tensors of the file, or None if it is missing or damaged."""
        try:
            with safe_open(self.path, "pt") as file:
                header = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header["digest"] != self._digest(header["state"], tensors):
                return None
            return json.loads(header["state"]), tensors
        except (OSError, SafetensorError, KeyError, TypeError):
            return None

    def _digest(self, state_json: str, tensors: Mapping[str, Tensor]) -> str:
        """A SHA-256 over the content and the file name, which identifies the training."""
        digest = hashlib.sha256(f"{self.path.name} {state_json}".encode())
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}
