"""One sparse training within the trainer of somebody else: prepared, begun, stepped, saved, ended."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sparsify_fx.api import apply, merge
from sparsify_fx.distributed.collectives import take_from_first
from sparsify_fx.distributed.data_parallel import refuse_sharded
from sparsify_fx.distributed.replicas import group
from sparsify_fx.errors import (
    CheckpointError,
    LayerError,
    MethodError,
    SchedulerError,
    UnfinishedWarning,
    warn,
)
from sparsify_fx.integrations.budget import Budget, check_rate, length_of_run
from sparsify_fx.integrations.penalties import held_by
from sparsify_fx.learning_rate import find_curve
from sparsify_fx.plan import plans_of, require_plan
from sparsify_fx.programs.owner_kinds import kind_of
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.selection import Selection, select_layers
from sparsify_fx.scheduler.guards import unwrapped
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.scheduler.unfinished import unfinished

_LOG = logging.getLogger(__name__)
MARKED = 64  # entries of a parameter


class SparseTraining:
    """What every integration does, in the order of its methods.

    Args:
        trainer: what messages call the one that trains: "Lightning".
        method, options: as `apply` takes them.
        module: the name of the part of the model that is made sparse; "" for all of it.
        learning_rate: as the Scheduler takes it; None leaves the rate to the trainer.
    """

    def __init__(
        self,
        trainer: str,
        method: str,
        options: dict[str, Any],
        module: str = "",
        learning_rate: Any = None,
    ) -> None:
        self.trainer, self.method, self.options = trainer, method, options
        self.module, self.learning_rate = module, learning_rate
        self.root: nn.Module | None = None
        self.scheduler: Scheduler | None = None
        self.saved: dict[str, Any] | None = None
        self._known: set[str] = set()

    def prepare(self, model: nn.Module) -> nn.Module:
        """Call `apply` on the part of the model that is to become sparse, and return that part."""
        root = self._part(model)
        if self.root is root:
            self.check_unfinished()
        if self.root is root and plans_of(root):
            # A training that goes on: from a checkpoint, which brings its own state, or from where it was interrupted.
            self.saved = None if self.scheduler is None else self.scheduler.state_dict()
            return root
        # Of the whole model: a second callback, or a part that was prepared by hand, needs the same Scheduler.
        plans = plans_of(model)
        if plans:
            raise MethodError(
                f"the model was prepared by sparsify_fx.apply already ({plans[0].method}), by another callback or by "
                "hand: give it to one callback as a plain model; a Scheduler of your own needs no callback "
                "(docs/trainers.md, by hand)"
            )
        _equal_weights(model)
        apply(root, self.method, **self.options)
        self.root, self.scheduler, self.saved = root, None, None
        self._known = {name for name, _ in root.named_modules()}
        return root

    def begin(
        self,
        optimizers: Sequence[Optimizer],
        budget: Budget,
        resumed: bool,
    ) -> Scheduler:
        """Build the Scheduler for the trainer's steps, and load what was saved.

        Raises SchedulerError and CheckpointError.
        """
        root = self._prepared()
        curve = find_curve(self.learning_rate)
        check_rate(root, curve, self.trainer)
        epochs, steps_per_epoch = length_of_run(root, budget, curve)
        if resumed and self.saved is None:
            raise CheckpointError(
                "the checkpoint holds no state of sparsify_fx: it was saved by a training without this callback. "
                "Load its weights into the plain model and train from the start, or resume from another one"
            )
        scheduler = Scheduler(
            root,
            self._training(optimizers),
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            learning_rate=self.learning_rate,
        )
        self.scheduler = scheduler
        if self.saved is not None:
            self.load(self.saved)
        _LOG.info(
            "%s: %d epochs of %d steps, of %d steps that the trainer makes",
            self.method,
            scheduler.epochs,
            steps_per_epoch,
            budget.steps,
        )
        return scheduler

    def step(self) -> None:
        """Call after each optimizer step; what the trainer makes beyond the schedule trains on."""
        if self.scheduler is None or self.scheduler.finished:
            return
        self.scheduler.step()
        # Steps beyond it change nothing of the schedule, and a state that is taken then shall be that of its end.
        if self.scheduler.step_count == self.scheduler.steps:
            self.saved = self.scheduler.state_dict()

    @property
    def at_sparsity(self) -> bool:
        """Whether the masks keep the number of weights that was asked for: only such states compare."""
        return self.root is None or not unfinished(self.root)

    def state_dict(self) -> dict[str, Any]:
        """The Scheduler's; that of its end, or the one that waits to be loaded, where there is one; or nothing."""
        if self.scheduler is not None and self.saved is None:
            return self.scheduler.state_dict()
        return self.saved or {}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` gave into the Scheduler, which is there."""
        if self.scheduler is None:
            raise SchedulerError("there is no Scheduler yet to load the state into")
        self.scheduler.load_state_dict(state)
        self.saved = state if self.scheduler.finished else None

    def end(self) -> None:
        """Say so when the training ended before its schedule, by an UnfinishedWarning."""
        told = unfinished(self._prepared())
        if told:
            warn(
                f"{self.trainer} has ended the training before its schedule: {'; '.join(told)}. Let it go on to the "
                "end, or apply the method with the sparsity that you want to have",
                UnfinishedWarning,
            )

    def merge(self) -> None:
        """Make the model a plain one, with zeros."""
        if self.root is not None and plans_of(self.root):
            merge(self.root)

    def check_unfinished(self) -> None:
        """Raise MethodError when the schedule of this callback has ended: another training needs another one."""
        if self.scheduler is not None and self.scheduler.finished:
            raise MethodError(
                f"this callback has trained the model already, to the end of its schedule ({self.scheduler.steps} "
                "steps): call sparsify_fx.merge(model), and train again with a new callback"
            )

    def check_complete(self) -> None:
        """Raise MethodError for layers that were made after `prepare`, which would stay dense unnoticed."""
        # With include= the user has named what is pruned, and `apply` has found it.
        if self.options.get("include") is not None:
            return
        root, exclude = self._prepared(), self.options.get("exclude")
        late = [
            name
            for name, module in root.named_modules()
            if name not in self._known and _is_usual(module)
        ]
        if late and _left(root, late, exclude):
            raise MethodError(
                f"{len(late)} layers were made after the callback was set up, for instance {late[0]}: make them in "
                "__init__, or leave them out with exclude="
            )

    def check_trained(self, model: nn.Module | None = None) -> nn.Module:
        """The part that was prepared, if it is the one within `model`; MethodError for another."""
        root = self._prepared()
        if model is not None and all(root is not module for module in model.modules()):
            raise MethodError(
                f"{self.trainer} trains another model than the one that the callback has prepared: with model_init, or "
                "a callback that was added later, call sparsify_fx.apply yourself (docs/trainers.md, by hand)"
            )
        return root

    def _part(self, model: nn.Module) -> nn.Module:
        try:
            return model.get_submodule(self.module)
        except AttributeError as error:
            known = ", ".join(name for name, _ in model.named_children())
            raise MethodError(
                f"module={self.module!r} is no module of {type(model).__name__}, which has {known or 'none'}"
            ) from error

    def _prepared(self) -> nn.Module:
        if self.root is None or not plans_of(self.root):
            raise MethodError(
                f"the model that {self.trainer} trains was not prepared: it is another one than the callback was "
                "given, or it was merged since"
            )
        return self.root

    def _training(self, given: Sequence[Optimizer]) -> list[Optimizer]:
        """The optimizers that train weights of the part; a discriminator's, say, is no business of the Scheduler."""
        root = self._prepared()
        factors: set[int] = set()
        for program in programs(root).values():
            factors.update(map(id, program.parameters()))
        found = [
            optimizer
            for optimizer in given
            if not factors.isdisjoint(map(id, held_by(unwrapped(optimizer))))
        ]
        if not found:
            raise SchedulerError(
                "no optimizer trains the rewritten weights: build it after the callback has prepared the model, in "
                "configure_optimizers for instance, or leave it to the trainer"
            )
        return found


def _equal_weights(model: nn.Module) -> None:
    """Give every process the weights of the first one.

    Trainers let each process make its own, and DistributedDataParallel makes them equal when it wraps the model; that
    is after `apply`, which chooses masks by them.
    """
    ranks = group()
    if ranks is None:
        return
    refuse_sharded(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.numel() and not tensor.is_meta:
            take_from_first(ranks, tensor)


def describe(model: nn.Module) -> dict[str, Any]:
    """What was done to a model, in plain values: method, sparsity, weights, nonzeros and the version.

    >>> model = apply(nn.Linear(10, 10), "random", sparsity=0.75)
    >>> describe(model)["weights"], describe(model)["nonzeros"]
    (100, 25)
    """
    plan = require_plan(model)
    found = programs(model).values()
    return {
        "method": plan.method,
        "sparsity": plan.sparsity,
        "weights": sum(program.full_shape().numel() for program in found),
        "nonzeros": sum(int((p.effective() != 0).sum()) for p in found),
        "version": version("sparsify_fx"),
    }


def mark(model: nn.Module) -> str:
    """A short text that tells the weights of two trainings apart: a digest of the first entries of each program."""
    digest = hashlib.blake2b(digest_size=8)
    for name, program in sorted(programs(model).items()):
        digest.update(name.encode())
        for parameter in program.parameters():
            first = parameter.detach().flatten()[:MARKED].cpu()
            digest.update(first.to(torch.float64).numpy().tobytes())
    return digest.hexdigest()


def _is_usual(module: nn.Module) -> bool:
    """Whether `apply` prunes modules of this kind when nobody says what."""
    kind = kind_of(module)
    return kind is not None and kind.default


def _left(root: nn.Module, names: list[str], exclude: Selection) -> bool:
    """Whether any of these modules is left when `exclude` is taken away."""
    try:
        return bool(select_layers(root, names, exclude))
    except LayerError:
        return False
