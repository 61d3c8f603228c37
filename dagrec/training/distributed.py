"""Training in several processes or on several machines, with ``torch.distributed``.

``torchrun --nproc-per-node 2 -m dagrec.cli train DATA --store STORE`` runs the same command in several
processes. Each of them does all of the work, except that the batches of gradient descent are divided
among them and DistributedDataParallel averages the gradients. Only the first process writes files.
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
"""How long a process waits for the others before it fails."""


@dataclass(frozen=True)
class Processes:
    """The rank of this process, and the number of processes."""

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls) -> Processes:
        """Read the environment variables of torchrun. Without them there is one process."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def broadcast(self, value: float, device: torch.device) -> float:
        """Return the value of the first process."""
        if self.count == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=device)
        torch.distributed.broadcast(tensor, 0)
        return float(tensor)

    def gather(self, values: Tensor) -> Tensor:
        """Return [count, ...], the tensors of all processes."""
        if self.count == 1:
            return values[None]
        gathered = [torch.empty_like(values) for _ in range(self.count)]
        torch.distributed.all_gather(gathered, values)
        return torch.stack(gathered)


def connect_processes(device: torch.device) -> Processes:
    """Connect the processes that train together, until they exit.

    The backend is gloo for CPUs and NCCL for GPUs. If a process fails, torchrun stops the others.
    """
    processes = Processes.from_environment()
    if processes.count > 1 and not torch.distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=TIMEOUT)
        # The group is not destroyed after each training. A new group could use stale addresses, and
        # destroying it while an exception still references the network can deadlock.
        atexit.register(torch.distributed.destroy_process_group)
    return processes


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process if several processes run on a machine, else ``device``."""
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device
