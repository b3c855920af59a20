"""One optimizer step: the batch as one, or as micro-batches on one or several processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from sparsify_fx.distributed.batch_norm import RunningStatistics, synchronize
from sparsify_fx.distributed.living_hook import has_products, living_hook
from sparsify_fx.distributed.ranks import group
from sparsify_fx.distributed.replicas import same_batches
from sparsify_fx.distributed.trees import (
    PartialSums,
    block_length,
    trained,
    tree_hook,
)
from sparsify_fx.randomness import seed_of
from sparsify_fx.scheduler.current_batch import score_on_batches
from sparsify_fx.train.generators import seed_all
from sparsify_fx.train.processes import synchronizes
from sparsify_fx.train.session import Session


@dataclass
class Steps:
    """Makes the steps of a training, after which every process holds the same weights.

    Attributes:
        called: the model as it is called in training: wrapped, compiled.
        partial: gradients of micro-batches that wait to be added.
        running: the running statistics of batch norms that normalize micro-batches.
    """

    session: Session
    called: nn.Module
    partial: PartialSums
    running: RunningStatistics = field(default_factory=lambda: RunningStatistics([]))

    def __call__(self, x: Tensor, y: Tensor, epoch: int, step: int) -> Tensor:
        """Forward, backward and optimizer step on this process's part of a batch.

        Returns (loss · samples, correct, samples) of that part, on its device.
        """
        session = self.session
        if session.processes.pieces == 1:
            totals = self._backward(x, y, 1)
        else:
            with self.running.following():
                totals = self._micro_batches(x, y, epoch, step)
        if (most := session.config.clip_grad_norm) is not None:
            nn.utils.clip_grad_norm_(session.model.parameters(), most)
        session.optimizer.step()
        session.optimizer.zero_grad()
        # Before the scheduler's step, which may prune: the average is of the weights that are evaluated.
        if session.average is not None:
            session.average.update(session.model, session.scheduler.run)
        return totals

    def score(self, x: Tensor, y: Tensor) -> contextlib.AbstractContextManager[Any]:
        """Within this context the scheduler makes its step; scores are those of one process with the whole batch."""
        scheduler, processes = self.session.scheduler, self.session.processes
        # Scores of regrown weights are gradients, and RigL takes those of the batch of its step, not of a fixed one.
        if scheduler.needs_batch:
            if processes.pieces == 1:
                scheduler.score_on(x, y)
            elif processes.fixed:
                score_on_batches(scheduler, self._whole(x, y))
            else:
                # Each process scores its own part, and the scores are averaged.
                scheduler.score_on(x, y)
                return contextlib.nullcontext()
        return same_batches()

    def _whole(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        """All micro-batches of the batch."""
        ranks = group()
        if ranks is not None:
            x, y = (_gathered(ranks, tensor) for tensor in (x, y))
        return self.session.processes.micro_batches([(x, y)])

    def _micro_batches(self, x: Tensor, y: Tensor, epoch: int, step: int) -> Tensor:
        session, numbers = self.session, self.session.processes.own
        each, block = len(x) // len(numbers), block_length(len(numbers))
        pairs = zip(torch.split(x, each), torch.split(y, each), strict=True)
        totals = torch.zeros(3, dtype=torch.float64, device=x.device)
        # The mean over the processes is taken by DistributedDataParallel where the number of pieces is not fixed.
        parts = session.processes.pieces if session.processes.fixed else 1
        for done, (number, (images, labels)) in enumerate(
            zip(numbers, pairs, strict=True), start=1
        ):
            # By the number of the micro-batch: dropout is the same whichever process has it.
            seed_all(seed_of(f"{session.config.seed}/{epoch}/{step}/{number}") >> 1)
            last = done == len(numbers)
            with contextlib.nullcontext() if last else self._unsent():
                totals += self._backward(images, labels, parts)
            if done % block == 0 and not last:
                self.partial.keep()
        if session.processes.count == 1:
            self.partial.finish()
        return totals

    def _backward(self, x: Tensor, y: Tensor, parts: int) -> Tensor:
        session = self.session
        with session.autocast():
            outputs = self.called(x)
        self.running.note()
        loss = session.loss(outputs, y) + session.scheduler.penalty()
        (loss / parts if parts > 1 else loss).backward()  # type: ignore[no-untyped-call]
        return counts(loss, outputs, y)

    def _unsent(self) -> contextlib.AbstractContextManager[Any]:
        """No gradients travel within this context."""
        no_sync: Callable[[], Any] = getattr(
            self.called, "no_sync", contextlib.nullcontext
        )
        return cast(contextlib.AbstractContextManager[Any], no_sync())


def build_steps(session: Session) -> Steps:
    """The steps of a session whose states are loaded: they are wrapped, synchronized and compiled as it asks for."""
    config, processes, model = session.config, session.processes, session.model
    partial = PartialSums(trained(model.parameters()))
    running = RunningStatistics([])
    if synchronizes(config, processes):
        synchronize(model)
    elif processes.pieces > 1:
        running = RunningStatistics.of(model)
    called: nn.Module = model
    if processes.count > 1:
        called = _wrapped(model, partial, fixed=processes.fixed)
    if config.compile:
        # Without its type, which would hide `no_sync` of the wrapper inside.
        called = cast(nn.Module, torch.compile(called))
    return Steps(session, called, partial, running)


def _wrapped(
    model: nn.Module, partial: PartialSums, *, fixed: bool
) -> DistributedDataParallel:
    """The model in DistributedDataParallel, with the hook that adds as the configuration asks for."""
    wrapped = DistributedDataParallel(
        model, process_group=group(), **_without_buffers(model)
    )
    if fixed:
        wrapped.register_comm_hook(partial, tree_hook)
    elif has_products(model):
        wrapped.register_comm_hook(model, living_hook)
    return wrapped


def _without_buffers(model: nn.Module) -> dict[str, Any]:
    """Options that leave out buffers where all ranks have the same: they would be sent before every forward."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    known: set[int] = set()
    for norm in norms:
        known |= {id(buffer) for buffer in norm.buffers()}
    ignored = set(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
    if any(
        id(buffer) not in known
        for name, buffer in model.named_buffers(remove_duplicate=False)
        if name not in ignored
    ):
        return {}
    # `broadcast_buffers` has this name since torch 2.14, and the old one warns there.
    new = "forward_sync_buffers" in DistributedDataParallel.__init__.__annotations__
    return {"forward_sync_buffers" if new else "broadcast_buffers": False}


def _gathered(ranks: torch.distributed.ProcessGroup, part: Tensor) -> Tensor:
    """The parts of all ranks, one after the other."""
    part = part.contiguous()
    size = torch.distributed.get_world_size(ranks)
    parts = [torch.empty_like(part) for _ in range(size)]
    torch.distributed.all_gather(parts, part, group=ranks)
    return torch.cat(parts)


def counts(loss: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """(loss · samples, correct, samples) of a batch, on its device and without waiting for it."""
    # Mixed images have shares of classes as their label, of which the largest counts.
    labels = targets.argmax(1) if targets.dim() > 1 else targets
    correct = (outputs.argmax(1) == labels).sum()
    samples = torch.full_like(correct, len(targets))
    return torch.stack([loss.detach() * len(targets), correct, samples])
