"""The sections of a training's configuration: optimizer, learning rate, augmentation, runs to start from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sparsify_fx.checkpoints.run_files import State, read_state
from sparsify_fx.learning_rate import CURVES, Curve
from sparsify_fx.plugins import load_plugins
from sparsify_fx.programs.parameter_groups import GROUPS, check_weight_decay
from sparsify_fx.train.optimizers import check_optimizer, default_weight_decay
from sparsify_fx.transfer import check_take


class Section(BaseModel):
    """A part of a configuration: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class OptimizerConfig(Section):
    """name: a torch.optim class in lower case, or package.module:Class; lr: the peak rate; its options by their names.

    An option that is null counts as not given, so `--set optimizer.momentum=null` removes it. `weight_decay` is a
    number, which falls on the parameters that the method's paper lets it fall on, or numbers by parameter group:
    {factors: 0, shared: 0, norms: 0, other: 1.0e-4}; see `sparsify_fx.parameter_groups`.
    """

    # Which options there are depends on the name, so they are not fields; `_known` checks them instead.
    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "sgd"
    lr: float = Field(gt=0, allow_inf_nan=False)

    @property
    def options(self) -> dict[str, Any]:
        """Everything beside name and lr."""
        return {
            key: value
            for key, value in (self.model_extra or {}).items()
            if value is not None
        }

    @model_validator(mode="after")
    def _known(self) -> OptimizerConfig:
        check_optimizer(self.name, self.options)
        check_weight_decay(self.options.get("weight_decay"))
        return self

    def decays(self, bare: Iterable[str]) -> dict[str, float]:
        """The weight decay of every parameter group, where a single number does not fall on the groups `bare`."""
        # The library's default counts as given: adamw decays by 0.01 without being told, on factors too.
        given = self.options.get("weight_decay", default_weight_decay(self.name))
        if isinstance(given, Mapping):
            return {group: float(given.get(group, 0.0)) for group in GROUPS}
        return {group: 0.0 if group in bare else float(given) for group in GROUPS}


class LearningRateConfig(Section):
    """curve: see `sparsify_fx.learning_rate`; warmup: epochs, null for the curve's own default."""

    curve: str = "cosine-warmup"
    warmup: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    def build(self) -> Curve:
        """The curve; UnknownNameError when there is none of this name, ValueError for a warm-up that it lacks."""
        load_plugins()
        cls = CURVES[self.curve]
        if self.warmup is None:
            plain: Curve = cls()
            return plain
        # Curves are dataclasses; for one without this field there is nothing that the number could set.
        if "warmup" not in getattr(cls, "__dataclass_fields__", {}):
            raise ValueError(
                f"the curve {self.curve!r} has no warm-up; leave warmup out"
            )
        warmed: Curve = cls(warmup=self.warmup)
        return warmed

    @model_validator(mode="after")
    def _known(self) -> LearningRateConfig:
        # Building is the check: a wrong curve must fail before data are loaded, not when the scheduler asks for it.
        self.build()
        return self


class CheckpointConfig(Section):
    """When to save within an epoch: every so many steps of the training, or minutes after the checkpoint before.

    With `steps` the minutes are off unless they are given too. Minutes are more where a checkpoint takes long: at most
    1 % of the time is spent on them. With {minutes: null} there is none within an epoch.
    """

    steps: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=10.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _steps_alone(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("steps") is not None:
            return {"minutes": None, **given}
        return given


class AugmentConfig(Section):
    """crop_padding: random crops after padding by so many pixels; flip: horizontally, half of the time."""

    crop_padding: int = Field(default=0, ge=0)
    flip: bool = False


class SourceConfig(Section):
    """Another run to start from. run: a run folder, or one of its .safetensors files; take: mask, signs, magnitudes or
    weights (see `sparsify_fx.take_from`); epoch or cycle: which of its states, the end if neither is given.
    """

    run: str
    take: tuple[str, ...] = ("mask", "signs")
    epoch: int | None = Field(default=None, ge=0)
    cycle: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_state(self) -> SourceConfig:
        check_take(self.take)
        if self.epoch is not None and self.cycle is not None:
            raise ValueError(
                f"epoch={self.epoch} and cycle={self.cycle} name two states; give one of them"
            )
        return self

    def read(self) -> State:
        """Weights and masks of that state; CheckpointError when it is not there."""
        return read_state(self.run, epoch=self.epoch, cycle=self.cycle)
