"""Training on several processes or machines, by PyTorch's own engine.

``torchrun --nproc-per-node 2 -m dagrec.cli train DATA --store STORE`` starts the same command in
several processes. Each does the whole job, but for the training of networks: there every batch is
divided among them, and DistributedDataParallel averages the gradients. Only the first process writes.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed
from torch import Tensor

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others before it gives up."""


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is."""

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls) -> Processes:
        """As torchrun says it in the environment; one process where nothing does."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in each of them."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def broadcast(self, value: float, device: torch.device) -> float:
        """The first process's value, in each of them."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64, device=device)
        torch.distributed.broadcast(told, 0)
        return float(told)

    def gather(self, values: Tensor) -> Tensor:
        """[count, ...]: the tensor of each process, in each of them."""
        if self.count == 1:
            return values[None]
        found = [torch.empty_like(values) for _ in range(self.count)]
        torch.distributed.all_gather(found, values)
        return torch.stack(found)


def connect_processes(device: torch.device) -> Processes:
    """The processes that train together, connected until they end.

    gloo connects CPUs, NCCL GPUs. A process that fails leaves, torchrun ends the others.
    """
    processes = Processes.from_environment()
    if processes.count > 1 and not torch.distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=TIMEOUT)
        # Not after each training: a process that connects again can meet the addresses of the time
        # before, and one that leaves while an exception holds its network can wait for itself.
        atexit.register(torch.distributed.destroy_process_group)
    return processes


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process where there are several processes a machine."""
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device
