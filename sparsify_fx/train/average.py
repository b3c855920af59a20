"""An exponential average of the weights beside the training, exactly as sparse as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from sparsify_fx.checkpoints.run_files import AVERAGE
from sparsify_fx.errors import CheckpointError
from sparsify_fx.train.sections import Section

__all__ = ["AVERAGE", "Average", "EmaConfig"]


class EmaConfig(Section):
    """decay: share of the old average that stays at each step; warmup: less of it in the first thousands of steps."""

    decay: float = Field(default=0.9998, gt=0, lt=1)
    warmup: bool = True


class Average:
    """timm's average of factors, other parameters and statistics of norms; masks are copied.

    A weight that is pruned is zero in the average at the next step. Each run (cycle) starts a new average, since a
    rewind may take the weights somewhere else.

    Attributes:
        model: the averaged model, in evaluation mode.
    """

    def __init__(self, model: nn.Module, config: EmaConfig) -> None:
        self._ema = ModelEmaV3(model, decay=config.decay, use_warmup=config.warmup)
        self._run, self._steps = 0, 0

    @property
    def model(self) -> nn.Module:
        averaged: nn.Module = self._ema.module
        return averaged

    def update(self, model: nn.Module, run: int) -> None:
        """Take in the weights after an optimizer step of a run."""
        self._steps = self._steps + 1 if run == self._run else 1
        self._run = run
        # timm's first step copies, whatever the decay.
        self._ema.update(model, step=self._steps)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain types."""
        state = {"run": self._run, "steps": self._steps}
        return {**state, "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a state; CheckpointError where it is of something else."""
        try:
            self._run, self._steps = int(state["run"]), int(state["steps"])
            self.model.load_state_dict(state["model"])
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint's average does not fit its configuration ({error}); train again with --force"
            ) from error
