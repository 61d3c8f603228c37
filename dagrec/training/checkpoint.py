"""Checkpoints: everything that a training needs to go on as if it had never stopped.

One safetensors file a training, named by a hash of all that decides its result: weights, the best
weights, the optimiser's state and the generators as tensors; epoch and history as JSON in the header.
It is written under another name and renamed, so a crash leaves the checkpoint before it; and it holds
a hash of its content, so that a file which the disk has damaged is not taken for one.
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
from dagrec.files import remove_drafts, replace_file
from dagrec.training.data import TrainingData
from dagrec.training.distributed import Processes
from dagrec.training.network import Learner
from dagrec.training.runtime import Epoch

FORMAT = "3"
Weights = dict[str, Tensor]


@dataclass
class TrainingState:
    """How far a training has come.

    best: the weights with the best validation value, None where nothing is held out.
    """

    history: list[Epoch] = field(default_factory=list)
    best_value: float | None = None
    best_epoch: int = 0
    best: Weights | None = None
    done: bool = False


@dataclass
class Checkpoint:
    """The file of one training. It is written every ``seconds`` at most, and at the end."""

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
        decides = {
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
        name = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
        return cls(folder / f"{learner.name}-{name}.safetensors", seconds)

    def due(self, done: bool) -> bool:
        """Whether it is time to write; a training that took less than ``seconds`` is never written."""
        waited = time.monotonic() - self._written >= self.seconds
        return waited or (done and self.path.exists())

    def write(
        self,
        state: TrainingState,
        weights: Weights,
        optimiser: torch.optim.Optimizer,
        generators: Tensor,
    ) -> None:
        """Replace the file. Raises :class:`DagrecError` where it cannot be written.

        generators: [processes, ...] states of the random generators, one row a process.
        """
        tensors = {f"weights/{name}": tensor for name, tensor in weights.items()}
        tensors |= {f"best/{name}": tensor for name, tensor in (state.best or {}).items()}
        tensors["generators"] = generators
        plain: dict[str, dict[str, Any]] = {}
        for number, values in optimiser.state_dict()["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser/{number}/{key}"] = value
                else:
                    plain.setdefault(str(number), {})[key] = value
        about = {
            "history": [astuple(epoch) for epoch in state.history],
            "best_value": state.best_value,
            "best_epoch": state.best_epoch,
            "done": state.done,
            "optimiser": plain,
        }
        # Tensors that share memory cannot be stored together; copies are.
        copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        header = json.dumps(about)
        try:
            metadata = {"state": header, "digest": self._digest(header, copies)}
            replace_file(self.path, save(copies, metadata))
        except (OSError, SafetensorError) as error:
            raise DagrecError(
                f"{self.path}: a checkpoint must be written, found {error}; make room, or choose "
                "another folder for checkpoints"
            ) from None
        self._written = time.monotonic()

    def read(
        self, network: torch.nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[TrainingState, Tensor] | None:
        """Put weights and optimiser back to where the file was written; its state and generators.

        None where there is no file, or one that is damaged: then training starts from the beginning.
        """
        remove_drafts(self.path)
        content = self._content()
        if content is None:
            return None
        about, tensors = content
        parts: dict[str, Weights] = {"weights": {}, "best": {}, "optimiser": {}}
        generators = tensors.pop("generators")
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        if _shapes(parts["weights"]) != _shapes(network.state_dict()):
            return None  # of a network that another version of its code made
        network.load_state_dict(parts["weights"])
        moments: dict[int, dict[str, Any]] = {
            int(number): dict(values) for number, values in about["optimiser"].items()
        }
        for name, tensor in parts["optimiser"].items():
            number, _, key = name.partition("/")
            moments.setdefault(int(number), {})[key] = tensor
        optimiser.load_state_dict(
            {"state": moments, "param_groups": optimiser.state_dict()["param_groups"]}
        )
        state = TrainingState(
            [Epoch(*line) for line in about["history"]],
            about["best_value"],
            about["best_epoch"],
            parts["best"] or None,
            about["done"],
        )
        return state, generators

    def _content(self) -> tuple[dict[str, Any], Weights] | None:
        """What was written, if all of it is there and nothing else."""
        try:
            with safe_open(self.path, "pt") as file:
                about = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about["digest"] != self._digest(about["state"], tensors):
                return None
            return json.loads(about["state"]), tensors
        except (OSError, SafetensorError, KeyError, TypeError):
            return None

    def _digest(self, header: str, tensors: Mapping[str, Tensor]) -> str:
        """A hash of the content and of the training that it is of."""
        total = hashlib.sha256(f"{self.path.name} {header}".encode())
        for name, tensor in sorted(tensors.items()):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return total.hexdigest()


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}
