"""A sweep's file: which recipe, over which values, with what for each trial; checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from sparsify_fx.errors import ConfigError
from sparsify_fx.train.problems import tell
from sparsify_fx.train.recipes import read_recipe
from sparsify_fx.train.sections import Section

MOST_TRIALS = 100_000
# These have places of their own in the file, and a name that compare relies on.
_OWN_PLACE = ("recipe", "method", "sparsity", "seed")


class TrialConfig(Section):
    """What one trial takes. cpus: cores, and so many threads; gpus: how many, a fraction for several trials on one,
    null for one where there are any; retries: how often a failed trial is tried again.
    """

    cpus: int = Field(default=1, ge=1)
    gpus: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    retries: int = Field(default=1, ge=0, le=100)

    @field_validator("gpus")
    @classmethod
    def _whole_or_less(cls, value: float | None) -> float | None:
        # As in Ray: a part of one GPU can be shared, one and a half cannot.
        if value is not None and value > 1 and value != int(value):
            raise ValueError(f"{value} GPUs: above 1 only whole numbers are possible")
        return value


class SweepConfig(Section):
    """Every combination of the values is a trial.

    recipe: one or several; method: names, or a mapping from labels to keys of their own; sparsity, seed: values, the
    recipe's own if none is given; set: keys for all trials; grid: more keys, each with a list of values; share: whether
    a dense first cycle that trials have in common is trained once.
    """

    recipe: tuple[str, ...] = Field(min_length=1)
    method: dict[str, dict[str, Any]] = Field(default_factory=dict)
    sparsity: tuple[float, ...] = ()
    seed: tuple[int, ...] = ()
    set: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    trial: TrialConfig = TrialConfig()
    share: bool = True

    @field_validator("recipe", "sparsity", "seed", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return value if isinstance(value, (list, tuple)) else [value]

    @field_validator("method", mode="before")
    @classmethod
    def _labeled(cls, value: Any) -> Any:
        """Each label with its keys; a plain name is the label of the method of that name."""
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list):
            if len(set(map(str, value))) < len(value):
                raise ValueError(f"{value} names a method twice; give each once")
            value = dict.fromkeys(map(str, value))
        if not isinstance(value, Mapping):
            raise ValueError(f"expected names, or labels with keys, got {value!r}")
        return {
            str(label): keys if isinstance(keys, dict) else _named(label, keys)
            for label, keys in value.items()
        }

    @field_validator("set", "grid")
    @classmethod
    def _no_own_place(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key in _OWN_PLACE:
                raise ValueError(
                    f"{key} has a place of its own: write {key}: at the top of the file"
                )
        return value

    @field_validator("grid")
    @classmethod
    def _with_values(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, values in value.items():
            if not values:
                raise ValueError(f"{key} has no values; give a list of them")
        return value


def _named(label: Any, keys: Any) -> dict[str, Any]:
    """The keys of a label that has none, or a plain method name."""
    if keys is None:
        return {}
    if isinstance(keys, str):
        return {"method": keys}
    raise ValueError(f"{label}: expected keys and values, got {keys!r}")


def load_sweep(path: str | Path) -> SweepConfig:
    """The sweep in a YAML file; ConfigError names every wrong key, what it expected and the nearest."""
    if not Path(path).is_file():
        raise ConfigError(
            f"the sweep file {path} does not exist; give the path of a YAML file with recipe:, method:, seed:"
        )
    try:
        return SweepConfig.model_validate(read_recipe(path))
    except ValidationError as error:
        remedy = "write {key}: at the top of the file"
        told = [tell(problem, SweepConfig, remedy) for problem in error.errors()]
        raise ConfigError(f"{path}: {'; '.join(told)}") from None
