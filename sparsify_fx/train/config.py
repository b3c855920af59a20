"""The configuration of a training: everything that decides its result, checked before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, field_validator, model_validator

from sparsify_fx.checkpoints.run_files import by_content, digest
from sparsify_fx.errors import ConfigError
from sparsify_fx.initializations import INITIALIZATIONS
from sparsify_fx.parameterizations import ByLayer
from sparsify_fx.plugins import load_plugins
from sparsify_fx.programs.parameter_groups import Decay, without_decay
from sparsify_fx.recipe import AXES, Method, find_method
from sparsify_fx.schedules.base import MOST_EPOCHS as LONGEST
from sparsify_fx.train.input import InputKeys, without_defaults
from sparsify_fx.train.optimizers import default_weight_decay
from sparsify_fx.train.pretrained import read_pretrained
from sparsify_fx.train.problems import tell
from sparsify_fx.train.safe_yaml import check_plain
from sparsify_fx.train.sections import (
    AugmentConfig,
    CheckpointConfig,
    LearningRateConfig,
    OptimizerConfig,
    SourceConfig,
)

__all__ = [
    "AugmentConfig",
    "CheckpointConfig",
    "LearningRateConfig",
    "OptimizerConfig",
    "SourceConfig",
    "TrainConfig",
    "parse_config",
]

Auto = Literal["auto"]
Storage = Literal["auto", "full", "living"]
Kernels = Literal["dense", "auto", "always"]
Fact = Literal["model", "seed", "init", "data"]
# Of one run (cycle).
MOST_EPOCHS = 100_000

# No result depends on these, so they are not in the name of the run folder: of the storage not more than the last bits
# of some optimizers, and a run may go on in the other one.
_INDIFFERENT = (
    "checkpoint",
    "checkpoint_every",
    "data_root",
    "allow_other",
    "storage",
)
_SWITCHES = ("compile", "amp")
_NEWER = ("accumulate", "sync_batch_norm", "pretrained", "kernels")


class TrainConfig(InputKeys):
    """What `train` runs. `epochs` is the length of one run (cycle); the schedule of the method may add more.

    `data_root`: where downloads are; `image_size`: pixels a side, None for the images' own; `axes`: values by axis, as
    `sparsify_fx.recipe.axis_value` reads them; `accumulate`: micro-batches of a batch, over all processes together;
    `sync_batch_norm`: batch norm over the whole batch where several processes have parts of it, "auto" unless there
    are micro-batches; `pretrained`: trained weights to start from, before the first pruning; `init_from`: one or
    several runs to start from, taken in order; `storage`: whether factors are whole tensors or vectors of living
    entries, `kernels`: what layers compute with, see `sparsify_fx.apply`; `checkpoint`: when to save within an epoch;
    `checkpoint_every`: save at the end of every so many epochs, "auto" of each unless checkpoints would take more than
    1 % of the time; `allow_other`: in what runs that it takes from may differ (model, seed, init, data);
    `snapshots_at`: epochs over all cycles (0 is the start) after which weights and masks are kept; `save_cycles`: keep
    them at the end of each cycle.
    """

    method: str = "signin"
    sparsity: float = Field(default=0.9, ge=0, lt=1)
    model: str
    data: str
    data_root: str = "data"
    image_size: int | None = Field(default=None, ge=1, le=16384)
    epochs: int = Field(ge=1, le=MOST_EPOCHS)
    batch_size: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    sync_batch_norm: bool | Auto = "auto"
    optimizer: OptimizerConfig
    learning_rate: LearningRateConfig = LearningRateConfig()
    axes: dict[str, Any] = Field(default_factory=dict)
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    storage: Storage = "auto"
    kernels: Kernels = "dense"
    init: str = "default"
    pretrained: str | None = None
    augment: AugmentConfig = AugmentConfig()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: str = "auto"
    compile: bool | Auto = "auto"
    amp: bool | Auto = "auto"
    eval_every: int = Field(default=1, ge=1)
    checkpoint: CheckpointConfig = CheckpointConfig()
    checkpoint_every: Annotated[int, Field(ge=1)] | Auto = "auto"
    init_from: tuple[SourceConfig, ...] = ()
    allow_other: tuple[Fact, ...] = ()
    snapshots_at: tuple[Annotated[int, Field(ge=0)], ...] = ()
    save_cycles: bool = False

    # One source, and one pattern, may stand without a list around it, in YAML and with --set.
    @field_validator("init_from", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [value] if isinstance(value, Mapping) else value or ()

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("init")
    @classmethod
    def _known_init(cls, value: str) -> str:
        load_plugins()
        INITIALIZATIONS[value]  # UnknownNameError, with the nearest names
        return value

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if value != "auto":
            try:
                torch.device(value)
            except RuntimeError as error:
                raise ValueError(
                    f"{value!r} is no device; expected auto, cpu, cuda, cuda:1, mps, ..."
                ) from error
        return value

    @model_validator(mode="after")
    def _average_of_whole_tensors(self) -> TrainConfig:
        # Entry k of a vector is another weight once masks have changed; "auto" takes vectors where they do not.
        living = self.storage == "living" or self.kernels != "dense"
        if self.ema is not None and living:
            raise ValueError(
                "ema averages weights that keep their places, which storage=living and sparse kernels do not promise; "
                "use storage=auto and kernels=dense"
            )
        return self

    @model_validator(mode="after")
    def _kernels_that_decide(self) -> TrainConfig:
        if self.kernels == "auto" and self.compile is True:
            raise ValueError(
                "kernels=auto decides by a clock, and a compiled model has none; use kernels=always, or compile=false"
            )
        return self

    @model_validator(mode="after")
    def _one_method(self) -> TrainConfig:
        # A factor of the schedule near 1 asks for millions of cycles, each a valid run by itself.
        runs = self.find_method().resolved().schedule.runs(self.sparsity)
        if runs * self.epochs > LONGEST:
            raise ValueError(
                f"{runs} runs (cycles) of {self.epochs} epochs are more than {LONGEST:,} epochs; give fewer, or cycles "
                "that prune more, such as axes.schedule.keep=0.8"
            )
        return self

    def find_method(self) -> Method:
        """The method with the axes that this configuration sets; UnknownNameError or MethodError."""
        return find_method(
            self.method,
            {axis: self.axes[axis] for axis in sorted(self.axes, key=_axis_order)},
        )

    def resolved(self) -> TrainConfig:
        """The same with every "auto" decided on this machine, and the method under its sorted name.

        `auto` is: device cuda where there is one, else cpu; compile and amp (bfloat16) on cuda only.
        Raises ConfigError for a device that this machine lacks.
        """
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = torch.device(device).type
        _check_available(device)
        choices = {}
        for name in _SWITCHES:
            choice = getattr(self, name)
            choices[name] = kind == "cuda" if choice == "auto" else choice
        return self.model_copy(
            update={"device": device, "method": self.find_method().name, **choices}
        )

    def decays(self) -> dict[str, float]:
        """The weight decay of every parameter group, by the method's default or as set."""
        axes = self.find_method().resolved()
        return self.optimizer.decays(without_decay(axes.penalty, axes.parameterization))

    def weight_decay(self) -> Decay:
        """What `parameter_groups` takes: by group, or one number where parameterizations differ from layer to layer."""
        given = self.optimizer.options.get(
            "weight_decay", default_weight_decay(self.optimizer.name)
        )
        # Where each layer has a parameterization of its own, only `parameter_groups` sees which factors are decayed.
        by_layer = isinstance(self.find_method().resolved().parameterization, ByLayer)
        if by_layer and not isinstance(given, Mapping):
            return float(given)
        return self.decays()

    def to_dict(self) -> dict[str, Any]:
        """Plain, YAML- and JSON-ready values."""
        plain: dict[str, Any] = self.model_dump(mode="json")
        # Options that are null count as not given, so a file that names them would not be the same as one without.
        plain["optimizer"] = {
            "name": self.optimizer.name,
            "lr": self.optimizer.lr,
            **self.optimizer.options,
        }
        return plain

    def hash(self) -> str:
        """10 hex digits of everything that can change a bit of the result or its metrics.

        blake2b over canonical JSON of the resolved configuration, with the axes as objects see them ("uniform" equals
        {"name": "uniform"}). In: the type of the device, compile and amp, since each changes rounding. Out: the number
        of the device and what `_INDIFFERENT` names. Other runs count by the content of their files, not by path. What
        the data hold is kept beside the name, in data.json.
        """
        # Changing any of what follows renames every run folder: what users have trained would be trained again.
        config = self.resolved()
        content = without_defaults(config.to_dict())
        for indifferent in _INDIFFERENT:
            del content[indifferent]
        # Newer than the first version: at their defaults they must not rename what was trained without them.
        for newer in _NEWER:
            if content[newer] == TrainConfig.model_fields[newer].default:
                del content[newer]
        axes = config.find_method().resolved()
        if config.pretrained is not None:
            content["pretrained"] = digest(read_pretrained(config.pretrained))
        content["axes"] = by_content(axes.to_dict(stored=True))
        if "batches" in axes.schedule.needs:
            # Version 0.1 scored on ten fixed batches: its runs were others, and must not count as these.
            content["scored_on"] = "the current batch"
        content["init_from"] = [
            {"take": sorted(source.take), "state": digest(source.read())}
            for source in config.init_from
        ]
        content["device"] = torch.device(config.device).type

        # Decay counts by group where groups differ, whether so by the method or as written. Where they do not, it stays
        # the one number that it was before there were groups, so that older runs keep their names.
        decays = config.decays()
        if len(set(decays.values())) > 1:
            content["optimizer"]["weight_decay"] = decays
        elif isinstance(content["optimizer"].get("weight_decay"), dict):
            content["optimizer"]["weight_decay"] = decays["other"]
        canonical = json.dumps(
            content, sort_keys=True, separators=(",", ":"), default=str
        )
        return hashlib.blake2b(canonical.encode(), digest_size=5).hexdigest()


def _axis_order(axis: str) -> tuple[int, str]:
    """The order of `AXES`, unknown axes last, so that of several mistakes the same is told in any order of keys."""
    return (AXES.index(axis) if axis in AXES else len(AXES), axis)


def _check_available(device: str) -> None:
    """ConfigError for a device that this machine lacks."""
    # Torch has no question for this that every backend answers; each raises an error of its own kind on first use.
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {device!r} cannot be used here ({reason}); use device=cpu or auto"
        ) from error


def parse_config(content: Mapping[str, Any], source: str) -> TrainConfig:
    """The checked configuration; ConfigError names every wrong key of `source`, what it expected and the nearest."""
    check_plain(content, source)
    try:
        return TrainConfig.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigError(
            f"{source}: "
            + "; ".join(tell(problem, TrainConfig) for problem in error.errors())
        ) from None
