"""Processes and devices: one process, or `torchrun` with DDP or FSDP2, on gloo (CPU) or NCCL
(CUDA)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from avssl.errors import UserError
from avssl.train.optimizer import transformer_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from avssl.graph import Graph
    from avssl.train.config import TrainConfig

T = TypeVar("T")
PATIENCE = timedelta(hours=12)  # the others wait while rank 0 scans or renders the data
Mode = Literal["single", "ddp", "fsdp"]


@dataclass(frozen=True)
class World:
    """This process among all of them.

    Attributes:
        rank, size: number of this process, and how many there are.
        device: where its part of the model lives.
        mode: how the model is spread.
    """

    rank: int
    size: int
    device: torch.device
    mode: Mode

    @property
    def main(self) -> bool:
        """True on the process that writes and prints."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values = values / self.size
        return values

    def most(self, value: int) -> int:
        """The largest `value` of all processes."""
        if self.size == 1:
            return value
        box = torch.tensor(value, device=self.device)
        dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return int(box.item())

    def gather(self, items: list[T]) -> list[T]:
        """The items of all processes, in rank order; costs next to nothing when there are none."""
        if self.size == 1 or not self.most(len(items)):
            return items
        boxes: list[Any] = [None] * self.size
        dist.all_gather_object(boxes, items)
        return [item for box in boxes for item in box]

    def agree(self, value: str | None) -> str | None:
        """The value that rank 0 holds, on every rank."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def first(self, work: Callable[[], T]) -> T | None:
        """Do something on rank 0 while the others wait; gives its result there, None elsewhere.

        Raises:
            Exception: on rank 0, what the work raised; the other processes end silently.
        """
        result: T | None = None
        error: Exception | None = None
        if self.main:
            try:
                result = work()
            except Exception as found:  # the others must hear of it, whatever it is
                error = found
        failed = self.agree("failed" if error else None)
        if error is not None:
            raise error
        if failed:
            raise SystemExit(2)
        return result


def share_cores(world: World, workers: int, *, threads: int | None = None) -> None:
    """Leave one core to each loader process when the model runs on the CPU.

    Threads that wait for a core which the loader holds make a step slower than fewer threads do.
    `threads`, where they are given, are taken instead. OMP_NUM_THREADS, where it is set, has the
    say.
    """
    if world.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) // world.size
        torch.set_num_threads(threads or max(1, cores - workers))


def start(config: TrainConfig, batch: int | None) -> World:
    """Join the process group that `torchrun` announced, if it did.

    batch: clips of a global batch, None where they differ.

    Raises:
        UserError: the global batch cannot be split evenly, or a device was asked for that is not
        there.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "train.device is cuda, but torch sees no CUDA device: set train.device to auto or cpu."
        )
    cuda = config.device != "cpu" and torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        if config.parallel == "fsdp":
            raise UserError(
                "train.parallel is fsdp, but there is one process: start it with torchrun."
            )
        return World(0, 1, device, "single")
    if batch is not None and batch % size:
        raise UserError(f"data.batch is {batch} clips, which {size} processes cannot share evenly.")
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            device_id=device if cuda else None,
            timeout=PATIENCE,
        )
    return World(rank, size, device, "fsdp" if config.parallel == "fsdp" else "ddp")


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def spread(graph: Graph, world: World, config: TrainConfig) -> nn.Module:
    """Prepare a graph for training, in this order: activation checkpointing, compile, shard.

    Returns:
        What to call in a step. The graph's own modules and state-dict keys stay as they are.
    """
    graph.to(world.device)
    if config.checkpoint_activations:
        for module in graph.modules():
            if hasattr(module, "checkpoint_activations"):
                module.checkpoint_activations = True
    if config.compile:
        # FSDP's hooks cut a graph compiled as a whole into pieces, so there the blocks are compiled
        for module in list(trained_blocks(graph)) if world.mode == "fsdp" else [graph]:
            module.compile()
    if world.mode == "fsdp":
        return _shard(graph, world)
    if world.mode == "ddp":
        # static_graph: parameters without a gradient and blocks that are recomputed are both fine
        return nn.parallel.DistributedDataParallel(graph, static_graph=True)
    return graph


def trained_blocks(graph: Graph) -> Iterator[nn.Module]:
    """Transformer blocks of the modules that are trained."""
    for name, blocks in transformer_blocks(graph):
        if name.split(".", 1)[0] not in graph.frozen:
            yield from blocks


def _shard(graph: Graph, world: World) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for _, blocks in transformer_blocks(graph):
        for block in blocks:
            fully_shard(block, mesh=mesh)
    for module in graph.children():
        if any(True for _ in module.parameters()):
            fully_shard(module, mesh=mesh)
    fully_shard(graph, mesh=mesh)
    nothing = dict.fromkeys(graph.inputs, torch.empty(0))
    graph(nothing, [])  # FSDP2 wants the first call to be the root's, and probes call towers
    return graph
