"""Recipes: training configurations as YAML, in `sparsify_fx/zoo/recipes` or in files of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from sparsify_fx.errors import ConfigError, unknown
from sparsify_fx.train.config import TrainConfig, parse_config


class _Loader(yaml.SafeLoader):
    """yaml.safe_load's loader that reads 1e-4 as the number that it is (YAML 1.2), not as a text (YAML 1.1)."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def recipe_names() -> list[str]:
    """Names of the built-in recipes."""
    folder = resources.files("sparsify_fx.zoo") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(
    recipe: str | Path, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The configuration of a recipe with changes on top.

    Args:
        recipe: the name of a built-in recipe, or the path of a YAML file (such as a run folder's config.yaml).
        overrides: "key=value" or "section.key=value", the value in YAML ("0.1", "null", "[1, 2]", "{name: erk}").
        values: by key, taken as they are; None leaves the key alone. They count before `overrides`.

    Raises ConfigError for an unreadable recipe, an unknown key (with the nearest one) or a value of the wrong kind;
    UnknownNameError for an unknown recipe.

    >>> load_config("mnist5k-lenet5", ["optimizer.lr=0.2"]).optimizer.lr
    0.2
    """
    content = _read(str(recipe))
    for key, value in (values or {}).items():
        if value is not None:
            content[key] = value
    for override in overrides:
        _override(content, override)
    return parse_config(content, str(recipe))


def _read(recipe: str) -> dict[str, Any]:
    if recipe in recipe_names():
        text = (resources.files("sparsify_fx.zoo") / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    else:
        text = _read_file(recipe)
    try:
        content = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{recipe} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{recipe} holds {type(content).__name__}; expected keys and values such as 'model: lenet5'")
    return {str(key): value for key, value in content.items()}


def _read_file(recipe: str) -> str:
    path = Path(recipe)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
            raise ConfigError(f"the recipe file {recipe} does not exist; built in are: {', '.join(recipe_names())}")
        raise unknown("recipe", recipe, recipe_names())
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the recipe {recipe}: {error}") from error


def parse_yaml(text: str) -> Any:
    """yaml.safe_load, with 1e-4 as a number."""
    return yaml.load(text, Loader=_Loader)


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override!r}: expected key=value, for instance optimizer.lr=0.1")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {' '.join(str(error).split())}") from None
    section = content
    for depth, part in enumerate(parts[:-1], start=1):
        inner = section.get(part)
        if inner is not None and not isinstance(inner, Mapping):
            if parts[0] != "axes" or not isinstance(inner, str):
                raise ConfigError(f"--set {override!r}: {'.'.join(parts[:depth])} is {inner!r}, which has no keys")
            inner = {"name": inner}  # axes.schedule.keep=0.5 on top of axes.schedule=cycles
        section[part] = dict(inner or {})
        section = section[part]
    section[parts[-1]] = value
