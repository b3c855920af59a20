"""The trials of a sweep: one for every combination of values, and the runs that they take from."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from sparsify_fx.errors import ConfigError, SparsifyError
from sparsify_fx.sweeps.plan import MOST_TRIALS, SweepConfig
from sparsify_fx.train import TrainConfig, load_config

Cell = dict[str, Any]


@dataclass(frozen=True)
class Taken:
    """Stands for the run folder of another trial, which is known once that one is finished."""

    trial: str


@dataclass(frozen=True)
class Trial:
    """One training of a sweep.

    Attributes:
        name: of its values, such as "lrr sparsity=0.9 seed=0".
        cell: its values by axis: recipe (where there are several), method (a label), sparsity, seed, keys of the grid.
        keys: what is set on top of the recipe, in order, by dotted key; `Taken` where a run folder is to stand.
        donors: the names of the trials that must be finished before.
        compared: whether it is in the grid; False for one that is only taken from.
    """

    name: str
    cell: Cell
    recipe: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    donors: tuple[str, ...] = ()
    compared: bool = True

    def config(self, folders: Mapping[str, str]) -> TrainConfig:
        """The configuration, with the folders of the donors by their trial's name; ConfigError and its like."""
        overrides = [
            f"{key}={json.dumps(_filled(value, folders))}"
            for key, value in self.keys.items()
        ]
        return load_config(self.recipe, overrides)


def trials_of(sweep: SweepConfig) -> dict[str, Trial]:
    """All trials by name, in the order of the file, those that are only taken from last.

    Raises ConfigError for too many, two that are the same training, a run to take from that is no trial, and trials
    that take from each other in a circle; and whatever a configuration is refused with, with the name of its trial.
    """
    # 1. The grid. Counted before it is made: ten keys of ten values each would fill the memory.
    axes = _axes(sweep)
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MOST_TRIALS:
        raise ConfigError(f"{count:,} trials are more than {MOST_TRIALS:,}; give fewer")
    cells = [
        dict(zip(axes, values, strict=True))
        for values in itertools.product(*axes.values())
    ]

    # 2. Those that others take from come on top where they are not in the grid, and what these take from, and so on.
    found: dict[str, Trial] = {}
    waiting = [(cell, True) for cell in cells]
    while waiting:
        cell, compared = waiting.pop(0)
        trial, donors = _trial(sweep, cell, compared)
        if trial.name not in found:
            found[trial.name] = trial
            waiting += [(donor, False) for donor in donors]
        elif compared:
            raise ConfigError(f"{trial.name} is in the sweep twice; give values once")

    # 3. Checked as far as this is possible before any is trained, donors first.
    try:
        _check([found[name] for name in order_of(found).static_order()])
    except CycleError as error:
        raise ConfigError(
            f"these trials take from each other in a circle: {' <- '.join(error.args[1])}"
        ) from None
    return found


def order_of(
    trials: Mapping[str, Trial], leaders: Mapping[str, str] | None = None
) -> TopologicalSorter[str]:
    """Hands out the names of trials whose donors, and the trials whose first cycle they begin with, are done."""
    order = TopologicalSorter({trial.name: trial.donors for trial in trials.values()})
    for name, leader in (leaders or {}).items():
        order.add(name, leader)
    return order


def _axes(sweep: SweepConfig) -> dict[str, tuple[Any, ...]]:
    """The values by axis; an axis that the file does not name is the recipe's own value."""
    axes: dict[str, tuple[Any, ...]] = {"recipe": sweep.recipe}
    for name in ("method", "sparsity", "seed"):
        axes[name] = tuple(getattr(sweep, name)) or (None,)
    return axes | sweep.grid


def _trial(
    sweep: SweepConfig, values: Cell, compared: bool
) -> tuple[Trial, list[Cell]]:
    """The trial of these values, and the values of the trials that it takes from."""
    label = values["method"]
    own = dict(sweep.method.get(label, {}))
    # Later keys count: what a method has of its own stands above what all trials have.
    keys = {**sweep.set, **{key: values[key] for key in sweep.grid}}
    if label is not None:
        keys["method"] = own.pop("method", label)
    keys |= {
        key: values[key] for key in ("sparsity", "seed") if values[key] is not None
    }
    keys |= own

    donors: dict[str, Cell] = {}
    keys = {key: _taking(value, sweep, values, donors) for key, value in keys.items()}
    name = name_of(values, sweep)
    return Trial(
        name, _known(values, sweep), values["recipe"], keys, tuple(donors), compared
    ), list(donors.values())


def _known(values: Cell, sweep: SweepConfig) -> Cell:
    """The values that tell a trial from others: no recipe where there is one, nothing that is the recipe's own."""
    several = len(sweep.recipe) > 1
    return {
        axis: value
        for axis, value in values.items()
        if value is not None and (several or axis != "recipe")
    }


def name_of(values: Cell, sweep: SweepConfig) -> str:
    """Such as "lrr sparsity=0.9 seed=0": what the file gives one value for is named too, so that names stay."""
    parts = [
        str(value) if axis in ("recipe", "method") else f"{axis}={_text(value)}"
        for axis, value in _known(values, sweep).items()
    ]
    return " ".join(parts) or values["recipe"]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _taking(
    value: Any, sweep: SweepConfig, values: Cell, donors: dict[str, Cell]
) -> Any:
    """A value in which every `run` or `source` that is told by values, such as {method: imp}, is the trial of these."""
    if isinstance(value, Mapping):
        return {
            key: _donor(part, sweep, values, donors)
            if key in ("run", "source") and isinstance(part, Mapping)
            else _taking(part, sweep, values, donors)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_taking(part, sweep, values, donors) for part in value]
    return value


def _donor(
    told: Mapping[str, Any], sweep: SweepConfig, values: Cell, donors: dict[str, Cell]
) -> Taken:
    """The trial that has the values that are told, and else those of the one that takes from it."""
    for axis in told:
        if axis not in values:
            raise ConfigError(
                f"a run to take from is told by {axis!r}, which this sweep has no values of; expected some of "
                f"{', '.join(values)}"
            )
    cell = {**values, **told}
    if isinstance(cell["sparsity"], int):
        # YAML's 0 is the 0.0 of the grid, and names tell them apart.
        cell["sparsity"] = float(cell["sparsity"])
    name = name_of(cell, sweep)
    donors[name] = cell
    return Taken(name)


def _filled(value: Any, folders: Mapping[str, str]) -> Any:
    """A value with the folders of the trials that it takes from; their names where they are not known yet."""
    if isinstance(value, Taken):
        return folders.get(value.trial, value.trial)
    if isinstance(value, Mapping):
        return {key: _filled(part, folders) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(part, folders) for part in value]
    return value


def _check(trials: list[Trial]) -> None:
    """Refuse wrong configurations, two trials that are one training, and donors that do not keep what is taken."""
    seen: dict[str, str] = {}
    configs: dict[str, TrainConfig] = {}
    for trial in trials:
        try:
            config = configs[trial.name] = trial.config({})
        except SparsifyError as error:
            raise ConfigError(f"{trial.name}: {error}") from None
        for donor in trial.donors:
            _check_kept(trial, config, donor, configs[donor])
        # By what is written: the hash reads the runs that are taken from, which are not there yet.
        same = json.dumps(config.to_dict(), sort_keys=True, default=str)
        if same in seen:
            raise ConfigError(
                f"{trial.name} and {seen[same]} are the same training; leave one of them out"
            )
        seen[same] = trial.name


def _check_kept(
    trial: Trial, config: TrainConfig, name: str, donor: TrainConfig
) -> None:
    """ConfigError when a donor does not keep the cycles or epochs that are taken from it."""
    sources = [source for source in config.init_from if source.run == name]
    epochs = {source.epoch for source in sources if source.epoch is not None}
    if missing := sorted(epochs - set(donor.snapshots_at)):
        raise ConfigError(
            f"{trial.name} takes epochs {missing} of {name}, which does not keep them; set snapshots_at: {missing}"
        )
    # What is not named by init_from is named by an axis, which takes cycle by cycle.
    by_cycle = not sources or any(source.cycle is not None for source in sources)
    if by_cycle and not donor.save_cycles:
        raise ConfigError(
            f"{trial.name} takes cycles of {name}, which does not keep them; set save_cycles: true"
        )


def cells_of(trials: Mapping[str, Trial]) -> Iterator[tuple[Cell, list[Trial]]]:
    """The compared trials that differ in nothing but the seed, cell by cell, in order."""
    groups: dict[str, tuple[Cell, list[Trial]]] = {}
    for trial in trials.values():
        if trial.compared:
            cell = {axis: v for axis, v in trial.cell.items() if axis != "seed"}
            groups.setdefault(json.dumps(cell, default=str), (cell, []))[1].append(
                trial
            )
    yield from groups.values()
