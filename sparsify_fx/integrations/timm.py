"""timm: the Scheduler in loops like that of timm's train.py, in the place of the loss scaler."""

from __future__ import annotations

from typing import Any

from timm.utils.clip_grad import dispatch_clip_grad
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.integrations.budget import Budget
from sparsify_fx.integrations.training import SparseTraining
from sparsify_fx.scheduler.scheduler import Scheduler


class Sparsify:
    """Makes a model sparse that a loop like timm's `train.py` trains.

        sparse = Sparsify(model, "gmp", sparsity=0.9)                                     # before the optimizer
        loss_scaler = sparse.scaler(optimizer, loss_scaler, epochs=args.epochs, updates_per_epoch=len(loader_train))

    Such loops hand the loss to `loss_scaler`, save its state by CheckpointSaver and load it by `resume_checkpoint` or
    `resume_task_checkpoint`: the scaler that comes back does all that for the schedule too.

    Args:
        model: a plain model; with tasks (timm 1.0.27 and later) `task.get_trainable_module()`.
        method, options: as `sparsify_fx.apply` takes them.

    Raises MethodError for a model that was prepared by `apply` already, and what `apply` raises.

    >>> sparse = Sparsify(nn.Linear(8, 8), "random", sparsity=0.75)
    >>> sparse.scheduler is None
    True
    """

    def __init__(
        self, model: nn.Module, method: str = "signin", **options: Any
    ) -> None:
        self._training = SparseTraining("the loop", method, options)
        self._training.prepare(model)

    @property
    def scheduler(self) -> Scheduler | None:
        """The Scheduler; None before `scaler`."""
        return self._training.scheduler

    def scaler(
        self,
        optimizer: Optimizer,
        loss_scaler: Any = None,
        *,
        epochs: int,
        updates_per_epoch: int,
        learning_rate: Any = None,
    ) -> SparseScaler:
        """What the loop calls as its loss scaler from now on; build it before a checkpoint is loaded.

        Args:
            optimizer: built after `Sparsify`.
            loss_scaler: the one of the loop: timm's NativeScaler, or None without mixed precision.
            epochs: of the whole training, all runs of the method and the cooldown of the learning rate included.
            updates_per_epoch: optimizer steps in an epoch: batches / accumulation, rounded up.
            learning_rate: None leaves the rate to the loop's scheduler; or a curve, as the Scheduler takes it, which
                methods with several runs (`lrr`, `imp`) need, with `--sched none`.

        Raises SchedulerError for an optimizer that was built before, or a training too short for the method.
        """
        self._training.learning_rate = learning_rate
        budget = Budget(epochs * updates_per_epoch, updates_per_epoch)
        self._training.begin([optimizer], budget, resumed=False)
        return SparseScaler(self._training, loss_scaler)

    def merge(self) -> None:
        """Make plain weights with zeros of it, after the training; one that ended early is told."""
        self._training.merge()


class SparseScaler:
    """A loss scaler: adds the penalty to the loss, trains on it, steps the schedule, and is saved with both."""

    state_dict_key = "sparsify_fx"

    def __init__(self, training: SparseTraining, inner: Any) -> None:
        self._training, self._inner = training, inner

    def __call__(
        self,
        loss: Tensor,
        optimizer: Optimizer,
        clip_grad: float | None = None,
        clip_mode: str = "norm",
        parameters: Any = None,
        create_graph: bool = False,
        need_update: bool = True,
    ) -> None:
        """As timm's scalers: backward, and with `need_update` clip, step and step the schedule."""
        scheduler = self._training.scheduler
        # Once for each step, however many batches add to it: the loop has divided the loss of each by their number.
        if need_update and scheduler is not None:
            loss = loss + scheduler.penalty()
        if self._inner is not None:
            self._inner(
                loss,
                optimizer,
                clip_grad=clip_grad,
                clip_mode=clip_mode,
                parameters=parameters,
                create_graph=create_graph,
                need_update=need_update,
            )
        else:
            loss.backward(create_graph=create_graph)  # type: ignore[no-untyped-call]
            if need_update:
                if clip_grad is not None:
                    dispatch_clip_grad(parameters, clip_grad, mode=clip_mode)
                optimizer.step()
        if need_update:
            self._training.step()

    def state_dict(self) -> dict[str, Any]:
        """The schedule, and the loss scale where there is one."""
        inner = None if self._inner is None else self._inner.state_dict()
        return {"schedule": self._training.state_dict(), "scaler": inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._training.load(state["schedule"])
        if self._inner is not None and state["scaler"] is not None:
            self._inner.load_state_dict(state["scaler"])
