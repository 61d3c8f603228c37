"""Training on several processes or machines, by PyTorch's own engine.

``torchrun --nproc-per-node 2 -m dagrec.cli train DATA --store STORE`` starts the same command in
several processes. Each does the whole job, but for the training of networks: there every batch is
divided among them, and DistributedDataParallel averages the gradients. Only the first process writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others before it gives up."""
_connections = count()
"""Numbers of the connections; every process makes the same ones."""


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is."""

    rank: int = 0
    count: int = 1

    @classmethod
    def of_environment(cls) -> Processes:
        """As torchrun says it in the environment; one process where nothing does."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in each of them."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def agree(self, value: float, device: torch.device) -> float:
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


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that train together, connected as long as it lasts.

    gloo connects CPUs, NCCL GPUs. A process that fails leaves, torchrun ends the others.
    """
    processes = Processes.of_environment()
    if processes.count == 1 or torch.distributed.is_initialized():
        yield processes
        return
    # A connection that kept the name of the one before would find addresses that nobody answers.
    store = PrefixStore(f"dagrec-{next(_connections)}", _store())
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=PATIENCE,
        store=store,
        rank=processes.rank,
        world_size=processes.count,
    )
    try:
        yield processes
    finally:
        torch.distributed.destroy_process_group()


@cache
def _store() -> Store:
    """Where the processes leave their addresses for each other."""
    store: Store = next(rendezvous("env://", timeout=PATIENCE))[0]
    return store


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process where there are several processes a machine."""
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device
