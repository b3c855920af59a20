"""Recipes: training configurations as YAML, in `sparsify_fx/zoo/recipes` or in files of one's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from sparsify_fx.errors import ConfigError, unknown
from sparsify_fx.train.config import TrainConfig, parse_config
from sparsify_fx.train.safe_yaml import MOST_CHARACTERS, parse_yaml

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Change:
    """One key of a recipe set to another value; `told` is how the user wrote it."""

    parts: tuple[str, ...]
    value: Any
    told: str


def recipe_names() -> list[str]:
    """Names of the built-in recipes."""
    folder = resources.files("sparsify_fx.zoo") / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def load_config(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """The configuration of a recipe with changes on top.

    Args:
        recipe: the name of a built-in recipe, or the path of a YAML file (such as a run folder's config.yaml).
        overrides: "key=value" or "section.key=value", the value in YAML ("0.1", "null", "[1, 2]", "{name: erk}").
        values: by key, taken as they are; None leaves the key alone. They count before `overrides`.

    The axes of a recipe belong to its own method: with another method (`method=`) they do not apply, but for those that
    are set here too; what is left out is logged, with the way to keep it.

    Raises ConfigError for an unreadable recipe, an unknown key (with the nearest one), a key given twice or a value of
    the wrong kind; UnknownNameError for an unknown recipe.

    >>> load_config("mnist5k-lenet5", ["optimizer.lr=0.2"]).optimizer.lr
    0.2
    """
    content = read_recipe(recipe)
    # The last change of a key counts, so --set wins over an option such as --method, wherever it stands in the line.
    changes = [
        _Change((key,), value, key)
        for key, value in (values or {}).items()
        if value is not None
    ]
    changes += [_parsed(override) for override in overrides]

    # Before the changes are made, since it asks which axes they set.
    _leave_axes_of_another_method(content, changes, str(recipe))
    for change in changes:
        _apply(content, change)
    return parse_config(content, str(recipe))


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The keys and values of a recipe, by its name or its path, not checked yet; ConfigError when unreadable."""
    recipe = str(recipe)
    if recipe in recipe_names():
        text = (
            resources.files("sparsify_fx.zoo") / "recipes" / f"{recipe}.yaml"
        ).read_text(encoding="utf-8")
    else:
        text = _read_file(recipe)
    content = parse_yaml(text, recipe)
    if not isinstance(content, dict):
        raise ConfigError(
            f"{recipe} holds {type(content).__name__}; expected keys and values such as 'model: lenet5'"
        )
    return {str(key): value for key, value in content.items()}


def _read_file(recipe: str) -> str:
    """The text of a recipe's file; UnknownNameError where a built-in recipe seems to be meant."""
    path = Path(recipe)
    try:
        if path.is_file():
            with path.open(encoding="utf-8") as stream:
                # One character too many is enough for `parse_yaml` to refuse; gigabytes need not be read for that.
                return stream.read(MOST_CHARACTERS + 1)
    # ValueError: no UTF-8, or a path with a null byte.
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the recipe {recipe}: {error}") from error
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise ConfigError(
            f"the recipe file {recipe} does not exist; built in are: {', '.join(recipe_names())}"
        )
    raise unknown("recipe", recipe, recipe_names())


def _leave_axes_of_another_method(
    content: dict[str, Any], changes: Sequence[_Change], recipe: str
) -> None:
    """Without this, a recipe's axes would beat the method asked for: `random` would train the products of `signin`."""
    axes = content.get("axes")
    own = content.get("method", TrainConfig.model_fields["method"].default)
    asked = next(
        (change.value for change in reversed(changes) if change.parts == ("method",)),
        own,
    )
    if not isinstance(axes, Mapping) or _parts(asked) == _parts(own):
        return

    # An axis that the user sets in part (axes.schedule.keep=0.5) stays for that part to change.
    set_here = {
        change.parts[1]
        for change in changes
        if change.parts[0] == "axes" and len(change.parts) > 1
    }
    content["axes"] = {axis: value for axis, value in axes.items() if axis in set_here}
    left = {axis: value for axis, value in axes.items() if axis not in set_here}

    # Who sets the axes as a whole (axes={...}) has replaced them knowingly: nothing to warn of.
    if left and not any(change.parts == ("axes",) for change in changes):
        again = " ".join(
            f'--set "axes.{axis}={_one_line(value)}"' for axis, value in left.items()
        )
        _LOG.warning(
            "%s sets %s for its own method %s; with method %s this does not apply. To keep it: %s",
            *(recipe, " and ".join(map(str, left)), own, asked, again),
        )


def _parts(method: Any) -> Any:
    """What a method is a sum of, in no order; what is no name comes back as it is, for `find_method` to refuse."""
    if not isinstance(method, str):
        return method
    return {part.strip() for part in method.split("+")}


def _one_line(value: Any) -> str:
    """A value as YAML that fits into --set, without the end mark (...) that PyYAML adds to a lone scalar."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=10**6
    )
    return text.removesuffix("...\n").strip()


def _parsed(override: str) -> _Change:
    """An override taken apart; ConfigError when it is no key=value."""
    key, equals, text = override.partition("=")
    told = f"--set {override[:80]!r}"
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{told}: expected key=value, for instance optimizer.lr=0.1")
    return _Change(tuple(parts), parse_yaml(text, f"{told}: the value"), told)


def _apply(content: dict[str, Any], change: _Change) -> None:
    """Set one key, making the sections on the way; ConfigError where a plain value stands in the way."""
    section, parts = content, change.parts
    for depth, part in enumerate(parts[:-1], start=1):
        inner = section.get(part)
        if inner is not None and not isinstance(inner, Mapping):
            if parts[0] != "axes" or not isinstance(inner, str):
                raise ConfigError(
                    f"{change.told}: {'.'.join(parts[:depth])} is {inner!r}, which has no keys"
                )
            # axes.schedule.keep=0.5 on top of axes.schedule=cycles, which is short for {name: cycles}.
            inner = {"name": inner}
        # A copy: through YAML's aliases two sections can be one object, of which only this place is to change.
        section[part] = dict(inner or {})
        section = section[part]
    section[parts[-1]] = change.value
