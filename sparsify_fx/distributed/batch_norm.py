"""Batch norm on several processes: statistics of all their batches, or running statistics that all of them agree on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsify_fx.distributed.replicas import group
from sparsify_fx.errors import DistributedError

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SynchronizedNorm(_BatchNorm):
    """What torch's SyncBatchNorm is, on the CPU, where torch and its DistributedDataParallel refuse that class."""

    def forward(self, input: Tensor) -> Tensor:
        """x ↦ (x − mean) / √(var + ε) · weight + bias, with mean and variance over the batches of all ranks."""
        ranks = group()
        if not self.training or ranks is None:
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        along = (1, -1, *(1 for _ in axes[1:]))
        count = input.numel() // input.shape[1] * dist.get_world_size(ranks)
        # In two passes: the difference of mean squares and squared means would lose the digits of small variances.
        mean: Tensor = _Sum.apply(input.sum(axes), ranks) / count
        centered = input - mean.view(along)
        var: Tensor = _Sum.apply(centered.square().sum(axes), ranks) / count
        self._follow(mean.detach(), var.detach() * (count / max(count - 1, 1)))
        normal: Tensor = centered * (var + self.eps).rsqrt().view(along)
        if self.affine:
            normal = normal * self.weight.view(along) + self.bias.view(along)
        return normal

    def _check_input_dim(self, input: Tensor) -> None:
        """All numbers of dimensions are right; what was here before has checked its own."""

    def _follow(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics by this batch."""
        if self.track_running_stats and self.running_mean is not None:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            factor = _factor(self)
            self.running_mean.lerp_(mean, factor)
            self.running_var.lerp_(var, factor)  # type: ignore[union-attr]


class _Sum(torch.autograd.Function):
    """The sum over the ranks, and of its gradients over the ranks."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: dist.ProcessGroup) -> Tensor:
        ctx.ranks = ranks
        total = part.clone()
        dist.all_reduce(total, group=ranks)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # Every rank's loss depends on the sum, so a part of it has the gradients of all.
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.ranks)
        return total, None


def synchronize(model: nn.Module) -> None:
    """Let the batch norms of the model normalize by the batches of all ranks, in place; names and values stay.

    Raises DistributedError for a batch norm with code of its own, before anything changes.
    """
    norms = [(name, m) for name, m in model.named_modules() if _is_norm(m)]
    for name, norm in norms:
        # A class with a forward of its own, such as timm's BatchNormAct2d, does more than normalize.
        if type(norm) not in (*_PLAIN, nn.SyncBatchNorm, SynchronizedNorm):
            raise DistributedError(
                f"{name} is a {type(norm).__name__}, a batch norm with code of its own, which cannot be synchronized; "
                "set sync_batch_norm to false (each process normalizes by its own part of the batch), or accumulate to "
                "a multiple of the number of processes"
            )
    for _, norm in norms:
        # By its class and not by another module in its place: hooks and whoever holds the module keep it.
        cpu = all(tensor.device.type == "cpu" for tensor in norm.state_dict().values())
        norm.__class__ = SynchronizedNorm if cpu else nn.SyncBatchNorm
        norm.__dict__.setdefault("process_group", group())


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm)


def _factor(norm: _BatchNorm) -> float:
    """How far running statistics move towards those of a batch that is counted already."""
    if norm.momentum is not None:
        return norm.momentum
    assert norm.num_batches_tracked is not None
    return 1 / max(int(norm.num_batches_tracked), 1)


@dataclass
class RunningStatistics:
    """Running statistics of batch norms as after all micro-batches of all ranks, in their order.

    Each micro-batch is normalized by itself; one after the other moves the running statistics, as in a single process
    that has all of them, so they are equal on every rank.

    Attributes:
        norms: the batch norms that keep running statistics.
        seen: means and variances of the micro-batches of this rank so far, each [2 · channels of all norms].
    """

    norms: list[_BatchNorm]
    seen: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, model: nn.Module) -> RunningStatistics:
        """Those of a model."""
        found = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        return cls([norm for norm in found if norm.running_mean is not None])

    @contextmanager
    def following(self) -> Iterator[None]:
        """The micro-batches of one batch; call `note` after the forward of each."""
        # Norms in evaluation mode are frozen: they read their statistics and must see the real ones.
        active = [norm for norm in self.norms if norm.training]
        if not active:
            yield
            return
        before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in active]
        old = _held(active)
        counts = [None if count is None else count.clone() for _, _, count in before]
        self.seen.clear()
        try:
            # With a momentum of one, what a norm keeps after a forward are the statistics of that micro-batch.
            for norm in active:
                norm.momentum = 1.0
            yield
        finally:
            for (norm, momentum, _), count in zip(before, counts, strict=True):
                norm.momentum = momentum
                if count is not None:
                    norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr]
            _write(active, old)
        self._move(active)

    def note(self) -> None:
        """The statistics of the micro-batch whose forward is done."""
        active = [norm for norm in self.norms if norm.training]
        if active:
            self.seen.append(_held(active))

    @torch.no_grad()
    def _move(self, active: list[_BatchNorm]) -> None:
        for row in _of_all_ranks(self.seen):
            at = 0
            for norm in active:
                if norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.add_(1)
                factor = _factor(norm)
                for running in (norm.running_mean, norm.running_var):
                    assert running is not None
                    part = row[at : at + running.numel()].to(running.dtype)
                    running.lerp_(part, factor)
                    at += running.numel()
        self.seen.clear()


def _of_all_ranks(rows: list[Tensor]) -> list[Tensor]:
    """The rows of all ranks in their order."""
    ranks = group()
    if ranks is None:
        return rows
    own = torch.stack(rows)
    every = [torch.empty_like(own) for _ in range(dist.get_world_size(ranks))]
    dist.all_gather(every, own, group=ranks)
    return list(torch.cat(every))


def _held(norms: list[_BatchNorm]) -> Tensor:
    """Running means and variances of all norms, one after the other, copied."""
    parts: list[Tensor] = []
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        parts += [norm.running_mean, norm.running_var]
    return torch.cat([part.detach().float() for part in parts])


@torch.no_grad()
def _write(norms: list[_BatchNorm], held: Tensor) -> None:
    at = 0
    for norm in norms:
        for running in (norm.running_mean, norm.running_var):
            assert running is not None
            running.copy_(held[at : at + running.numel()])
            at += running.numel()
