"""Transformers: a callback that makes the model sparse, follows the Trainer's steps and is in its checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsify_fx.api import dense_state_dict
from sparsify_fx.errors import CheckpointError, MethodError
from sparsify_fx.integrations.budget import Budget, rewinds_rate
from sparsify_fx.integrations.packages import missing
from sparsify_fx.integrations.penalties import add_at_steps
from sparsify_fx.integrations.trainer_rates import TrainerCurve, hand_over
from sparsify_fx.integrations.training import SparseTraining, describe, mark
from sparsify_fx.scheduler.scheduler import Scheduler

if TYPE_CHECKING:
    # Type checkers need not read all of Transformers for a few hooks.
    class TrainerCallback:
        """That of Transformers."""
else:
    try:
        from transformers import TrainerCallback
    except ModuleNotFoundError as error:
        raise missing("transformers") from error

FILE = "sparsify_fx.pt"


class SparsifyCallback(TrainerCallback):
    """Makes the model of a Trainer sparse while it trains: `Trainer(model, ..., callbacks=[SparsifyCallback("gmp")])`.

    The whole training is the schedule: `num_train_epochs` or `max_steps`, accumulation counted, and divided where the
    method has several runs. The penalty of the method is added right before each optimizer step, however the loss is
    computed. Every checkpoint gets a file `sparsify_fx.pt`, from which `train(resume_from_checkpoint=...)` goes on.
    `load_best_model_at_end` and early stopping judge only what has the sparsity.

    Args:
        method: as `sparsify_fx.apply` takes it.
        module: the name of the part of the model that is made sparse; "" for all of it.
        learning_rate: "trainer" leaves the rate to the Trainer, and begins its schedule anew at each run of methods
            that rewind it (`lrr`, `imp`); or a curve, as the Scheduler takes it, in place of the Trainer's.
        merge: make plain weights with zeros of it when the training ends, and say in `model.config` what was done.
        resume_from: the checkpoint from which the training goes on, where that is not in `output_dir`.
        options: everything else that `apply` takes: sparsity, batches, loss_fn, include, exclude, seed, axes.

    Attributes:
        scheduler: the Scheduler, from the start of the training on.

    Raises:
        MethodError: a model that was prepared already, or that the callback was not given (`model_init`).
        SchedulerError: an optimizer that was built before, or a training too short for the method.
        CheckpointError: a checkpoint without this callback's file, or with that of another training.

    >>> callback = SparsifyCallback("gmp", sparsity=0.9)
    >>> callback.scheduler is None
    True
    """

    def __init__(
        self,
        method: str = "signin",
        *,
        module: str = "",
        learning_rate: Any = "trainer",
        merge: bool = False,
        resume_from: str | Path | None = None,
        **options: Any,
    ) -> None:
        self._training = SparseTraining("the Trainer", method, options, module)
        self._rate, self._merge, self._resume_from = learning_rate, merge, resume_from
        self._handles: list[RemovableHandle] = []

    @property
    def scheduler(self) -> Scheduler | None:
        """The Scheduler of the training; None before it starts."""
        return self._training.scheduler

    def on_init_end(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **others: Any,
    ) -> None:
        """Before the Trainer makes its optimizer: `apply`."""
        if optimizer is not None:
            raise MethodError(
                "Trainer(optimizers=...) was given an optimizer that was built before the callback makes the model "
                "sparse: leave it to the Trainer (optim=, optimizer_cls_and_kwargs=), or call sparsify_fx.apply and "
                "build a Scheduler by hand (docs/trainers.md, by hand)"
            )
        if model is not None:
            self._training.prepare(model)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        train_dataloader: Any = None,
        **others: Any,
    ) -> None:
        """Weights and optimizer are loaded: build the Scheduler."""
        root = self._training.check_trained(model)
        budget = Budget(state.max_steps, _per_epoch(args, state, train_dataloader))
        rate = self._rate
        if rate == "trainer":
            rate = (
                TrainerCurve.of(args, state.max_steps) if rewinds_rate(root) else None
            )
        self._training.learning_rate = rate
        if state.global_step:
            self._training.saved = self._load(args, state)
        else:
            self._training.check_unfinished()
            self._training.saved = None
        if rate is not None:
            hand_over(lr_scheduler)
        scheduler = self._training.begin([optimizer], budget, state.global_step > 0)
        self._handles = add_at_steps(scheduler)
        self._forget_best(state)

    def on_step_begin(self, args: Any, state: Any, *_: Any, **others: Any) -> None:
        """What was judged the best after the last step is forgotten where it is not finished."""
        self._forget_best(state)

    def on_step_end(self, *_: Any, **others: Any) -> None:
        """After the optimizer step, before the Trainer evaluates and saves."""
        self._training.step()

    def on_save(self, args: Any, state: Any, *_: Any, **others: Any) -> None:
        """Put the state of the schedule into the checkpoint, beside the Trainer's."""
        self._forget_best(state)
        if args.should_save and self._training.root is not None:
            content = {
                "scheduler": self._training.state_dict(),
                "mark": mark(self._training.root),
            }
            torch.save(content, _folder(args.output_dir, state) / FILE)

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **others: Any
    ) -> None:
        """A training that ended early is told; `merge`."""
        while self._handles:
            self._handles.pop().remove()
        self._training.end()
        if self._merge:
            _note(model)
            self._training.merge()

    def _forget_best(self, state: Any) -> None:
        """Scores of states without the sparsity are of another thing: none of them is the best, and none stops."""
        if state.best_metric is not None and not self._training.at_sparsity:
            state.best_metric = state.best_model_checkpoint = None
            # From which newer versions find the checkpoint again.
            state.best_global_step = None

    def _load(self, args: Any, state: Any) -> dict[str, Any]:
        """The saved schedule that belongs to the loaded weights."""
        given = self._resume_from or args.resume_from_checkpoint
        folders = [Path(given)] if isinstance(given, str | Path) else []
        folders.append(_folder(args.output_dir, state))
        for folder in folders:
            if (folder / FILE).is_file():
                content = torch.load(folder / FILE, weights_only=True)
                # The Trainer does not tell from where it has loaded, and others may have a checkpoint of this step.
                if content["mark"] == mark(self._training.check_trained()):
                    saved: dict[str, Any] = content["scheduler"]
                    return saved
        told = " or ".join(str(folder / FILE) for folder in folders)
        raise CheckpointError(
            f"the weights that the Trainer has loaded are those after {state.global_step} steps, and {told} is not "
            "there or belongs to other weights: give the callback resume_from=, the folder of that checkpoint"
        )


def save_pretrained(model: Any, folder: str | Path, **options: Any) -> None:
    """Save plain weights with zeros and the config, as `merge` would make them; the model is not touched.

    `from_pretrained` reads the folder as any other, and `config.json` tells the method, the sparsity and the counts.

    Args:
        model: a model of Transformers, prepared by `apply` or a callback.
        options: for the model's own `save_pretrained`, such as push_to_hub.
    """
    _note(model)
    model.save_pretrained(folder, state_dict=dense_state_dict(model), **options)


def _note(model: Any) -> None:
    """Tell the model's config, if it has one, what was done."""
    if hasattr(model, "config"):
        model.config.sparsify_fx = describe(model)


def _per_epoch(args: Any, state: Any, loader: Any) -> int | None:
    """Optimizer steps in an epoch, from the Trainer's own numbers where it counts epochs."""
    if args.max_steps <= 0:
        of_epoch: int = max(int(state.max_steps / args.num_train_epochs), 1)
        return of_epoch
    try:
        batches = len(loader)
    except TypeError:
        return None  # data of unknown length
    steps: int = math.ceil(batches / args.gradient_accumulation_steps)
    return steps


def _folder(output_dir: str, state: Any) -> Path:
    return Path(output_dir) / f"checkpoint-{state.global_step}"
