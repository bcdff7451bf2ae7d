"""One worker among several: replicas (DDP) or parts (FSDP2) of the modules, and sums over all workers."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from pipeline.store.moments import ChannelMoments
from pipeline.training.config import ParallelFlags

Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parallel:
    """This worker's place."""

    rank: int
    world_size: int
    device: torch.device
    strategy: Strategy

    def divided(self, module: nn.Module, *, layers: type[nn.Module]) -> nn.Module:
        """The module as this worker runs it by the strategy, on its device.

        Args:
            module: With FSDP2 changed in place; else as it was, and inside what is returned.
            layers: Class of the submodules that FSDP2 gathers one at a time.
        """
        if self.strategy == "ddp":
            return self.replicated(module)
        module.to(self.device)
        for layer in module.modules():
            if isinstance(layer, layers):
                fully_shard(layer)
        fully_shard(module)
        return module

    def replicated(self, module: nn.Module) -> nn.Module:
        """The module, whole on every worker, as this worker runs it, on its device."""
        module.to(self.device)
        if self.world_size == 1 or not any(parameter.requires_grad for parameter in module.parameters()):
            return module
        return DistributedDataParallel(module)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all workers, in place, of a tensor of one shape on each."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Mean over all workers, in place."""
        return self.sum(values) / self.world_size

    def merge(self, moments: ChannelMoments) -> ChannelMoments:
        """Moments of all workers together, merged in the order of their ranks."""
        if self.world_size == 1:
            return moments
        mine = torch.from_numpy(np.stack([np.full_like(moments.mean, moments.count), moments.mean, moments.m2]))
        parts = [torch.empty_like(mine, device=self.device) for _ in range(self.world_size)]
        dist.all_gather(parts, mine.to(self.device))
        each = [part.cpu().numpy() for part in parts]
        return ChannelMoments.merge_all(
            (ChannelMoments(count=int(count[0]), mean=mean, m2=m2) for count, mean, m2 in each), len(moments.mean)
        )

    def wait(self) -> None:
        """Until every worker is here."""
        if self.world_size > 1:
            dist.barrier()

    @contextmanager
    def last_part(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """Backward passes inside sum gradients over workers only in the last part of an accumulated step."""
        silent: AbstractContextManager[object] = nullcontext()
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(last)
        elif isinstance(module, DistributedDataParallel) and not last:
            silent = module.no_sync()
        with silent:
            yield


def this_worker(flags: ParallelFlags) -> Parallel:
    """The place of the worker that asks, its threads set; under Ray Train."""
    import ray.train
    import ray.train.torch

    torch.set_num_threads(flags.threads_per_worker)
    context = ray.train.get_context()
    return Parallel(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        strategy=flags.strategy,
    )


def whole(tensor: Tensor) -> Tensor:
    """A tensor, or the whole of one whose parts lie with several workers; every worker must ask at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor on the device of a pattern, and divided among workers as the pattern is."""
    moved = tensor.to(pattern.device)
    if isinstance(pattern, DTensor):
        divided: Tensor = distribute_tensor(moved, pattern.device_mesh, pattern.placements)
        return divided
    return moved
