"""Lightning: a callback that makes the module sparse, follows its optimizer steps and is saved with it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from sparsify_fx.errors import MethodError, SchedulerError
from sparsify_fx.integrations.best_checkpoint import Judges
from sparsify_fx.integrations.budget import Budget
from sparsify_fx.integrations.packages import missing
from sparsify_fx.integrations.penalties import add_gradient
from sparsify_fx.integrations.training import SparseTraining
from sparsify_fx.scheduler.scheduler import Scheduler

if TYPE_CHECKING:
    # Type checkers need not read all of Lightning for two hooks.
    class Callback:
        """The base class of callbacks."""
else:
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError as error:
        # The same code under its older name.
        try:
            from pytorch_lightning import Callback
        except ModuleNotFoundError:
            raise missing("lightning") from error


class SparsifyCallback(Callback):
    """Makes a LightningModule sparse while `Trainer.fit` trains it: `Trainer(callbacks=[SparsifyCallback("gmp")])`.

    The whole training is the schedule: `max_epochs` or `max_steps`, accumulation and `limit_train_batches` counted, and
    divided where the method has several runs. The penalty of the method is added before gradients are clipped. The
    state is in Lightning's checkpoints: `fit(ckpt_path=...)` goes on. EarlyStopping and the best-k of ModelCheckpoint
    judge only what has the sparsity.

    Args:
        method: as `sparsify_fx.apply` takes it.
        module: the name of the part of the LightningModule that is made sparse; "" for all of it.
        learning_rate: None leaves the rate as `configure_optimizers` makes it; or a curve, as the Scheduler takes it,
            which methods with several runs (`lrr`, `imp`) need.
        merge: make plain weights with zeros of it when the training ends.
        steps: optimizer steps of the whole training, where the Trainer does not tell them.
        options: everything else that `apply` takes: sparsity, batches, loss_fn, include, exclude, seed, axes.

    Attributes:
        scheduler: the Scheduler, from the start of the training on.

    Raises, when fit starts:
        MethodError: a module that was prepared already, or that makes its layers too late.
        SchedulerError: a training without an end or too short for the method; two schedules of the learning rate.
        CheckpointError: a checkpoint without this callback's state.

    >>> callback = SparsifyCallback("gmp", sparsity=0.9)
    >>> callback.scheduler is None
    True
    """

    def __init__(
        self,
        method: str = "signin",
        *,
        module: str = "",
        learning_rate: Any = None,
        merge: bool = False,
        steps: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._training = SparseTraining(
            "Lightning", method, options, module, learning_rate
        )
        self._merge, self._steps = merge, steps
        self._judges = Judges(self._training)
        self._seen = 0

    @property
    def scheduler(self) -> Scheduler | None:
        """The Scheduler of the training; None before it starts."""
        return self._training.scheduler

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Before the optimizers are made and a checkpoint is loaded: `apply`."""
        if stage != "fit":
            return
        if sum(isinstance(other, SparsifyCallback) for other in trainer.callbacks) > 1:
            raise MethodError(
                "the Trainer has two SparsifyCallbacks: one Scheduler drives a training, so give it one of them"
            )
        self._training.prepare(pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Layers that `setup` or `configure_model` of the module made are told."""
        self._training.check_complete()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Weights and optimizers are loaded: build the Scheduler."""
        # A few steps are no training, and few schedules fit into them; that nothing was pruned is told at the end.
        if trainer.fast_dev_run:
            return
        rates = [type(each.scheduler).__name__ for each in trainer.lr_scheduler_configs]
        if rates and self._training.learning_rate is not None:
            raise SchedulerError(
                f"configure_optimizers returns a {rates[0]}, and the callback was given learning_rate=: two would set "
                "one learning rate; take one of them away"
            )
        budget = budget_of(trainer, self._steps)
        self._training.begin(trainer.optimizers, budget, trainer.global_step > 0)
        self._seen = trainer.global_step
        self._judges.watch(trainer)

    def on_before_optimizer_step(
        self, trainer: Any, pl_module: Any, optimizer: Optimizer
    ) -> None:
        """Add the gradient of the penalty, before gradients are clipped."""
        if self.scheduler is None:
            return
        # Lightning leaves the gradients of fused optimizers scaled.
        fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if fused and scaler is not None else 1.0
        add_gradient(self.scheduler, optimizer, scale)

    def on_train_batch_end(self, trainer: Any, *_: Any, **others: Any) -> None:
        """After the optimizer step and before ModelCheckpoint, which Lightning calls last."""
        # Batches that only add to the gradients make no step.
        if trainer.global_step != self._seen:
            self._seen = trainer.global_step
            self._training.step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """A training that ended early is told."""
        self._training.end()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """The last checkpoint is written."""
        if self._merge:
            self._training.merge()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the other callbacks as they were."""
        self._judges.release()

    def on_exception(
        self, trainer: Any, pl_module: Any, exception: BaseException
    ) -> None:
        """The same, after an error or Ctrl-C."""
        self._judges.release()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of the schedule."""
        return {"scheduler": self._training.state_dict(), **self._judges.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until the Scheduler is built, after the weights and the optimizers are loaded."""
        self._training.saved = state_dict["scheduler"] or None
        self._judges.load_state_dict(state_dict)


def budget_of(trainer: Any, steps: int | None) -> Budget:
    """The optimizer steps that the Trainer is going to make; SchedulerError where it does not know."""
    batches, accumulated = (
        trainer.num_training_batches,
        trainer.accumulate_grad_batches,
    )
    known = math.isfinite(batches) and batches > 0
    per_epoch = math.ceil(batches / accumulated) if known else None
    if steps is not None:
        return Budget(steps, per_epoch)
    optimizers = len(trainer.optimizers)
    if optimizers > 1 and trainer.max_steps > 0:
        raise SchedulerError(
            f"max_steps={trainer.max_steps} counts the steps of all {optimizers} optimizers, and the Scheduler those "
            "of one: give Trainer max_epochs instead, or the callback steps="
        )
    changing = [
        callback
        for callback in trainer.callbacks
        if len(getattr(callback, "scheduling", {})) > 1
    ]
    if changing:
        raise SchedulerError(
            f"{type(changing[0]).__name__} changes how many batches make an optimizer step: give the callback steps=, "
            "the optimizer steps of the whole training"
        )
    total = trainer.estimated_stepping_batches
    if not math.isfinite(total) or total < 1:
        raise SchedulerError(
            "this training has no end that could be planned for: give Trainer max_epochs= or max_steps= (with data of "
            "unknown length max_steps=), or the callback steps="
        )
    return Budget(int(total), per_epoch)
