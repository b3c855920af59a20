"""The catalog: a file for each figure or table, `zoo/recipes/reproduce/KEY/NAME.yaml`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from importlib import resources
from typing import Any

from pydantic import ValidationError

from sparsify_fx.errors import ConfigError, unknown
from sparsify_fx.reproduce.figure import Figure
from sparsify_fx.train.problems import tell
from sparsify_fx.train.safe_yaml import parse_yaml

PAPERS = {
    "gadhikar2024": "[Gadhikar 2024]",
    "zhang2021": "[Zhang 2021]",
    "jacobs2025": "[Jacobs 2025]",
    "gadhikar2025": "[Gadhikar 2025]",
}
"""Keys of the command, and as docs/references.md cites them."""


@functools.cache
def figures() -> tuple[Figure, ...]:
    """All figures and tables, paper by paper, figures first.

    >>> len({(figure.key, figure.number) for figure in figures()})
    58
    """
    folder = resources.files("sparsify_fx.zoo") / "recipes" / "reproduce"
    found = []
    for key in PAPERS:
        for entry in (folder / key).iterdir():
            if entry.name.endswith(".yaml"):
                text = entry.read_text(encoding="utf-8")
                found.append(_read(key, entry.name.removesuffix(".yaml"), text))
    return tuple(sorted(found, key=_place))


def find(key: str, name: str) -> tuple[Figure, ...]:
    """The figure `fig3`, or all parts of `fig2`, of a paper; "Fig. 3" and "figure3" are the same.

    Raises UnknownNameError, which names those there are.

    >>> [figure.name for figure in find("gadhikar2024", "Fig. 2")]
    ['fig2-a', 'fig2-bc', 'fig2-d']
    """
    wanted = re.sub(r"[^a-z0-9]", "", key.lower())
    if wanted not in PAPERS:
        raise unknown("paper", key, PAPERS)
    of_paper = [figure for figure in figures() if figure.key == wanted]
    short = _short(name)
    exact = tuple(figure for figure in of_paper if _short(figure.name) == short)
    found = exact or tuple(figure for figure in of_paper if figure.number == short)
    if not found:
        raise unknown(f"figure of {wanted}", name, _names(of_paper))
    return found


def _names(of_paper: Iterable[Figure]) -> list[str]:
    """Numbers and parts, each once."""
    names: dict[str, None] = {}
    for figure in of_paper:
        names |= dict.fromkeys((figure.number, figure.name))
    return list(names)


def _short(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return re.sub(r"^figure", "fig", plain)


def _place(figure: Figure) -> tuple[Any, ...]:
    """Paper, figures before tables, number, part."""
    number = int(re.sub(r"\D", "", figure.number))
    return (
        list(PAPERS).index(figure.key),
        figure.name.startswith("table"),
        number,
        figure.name,
    )


def _read(key: str, name: str, text: str) -> Figure:
    """One file; ConfigError names every wrong key."""
    content = {"key": key, "name": name, **parse_yaml(text, f"{key}/{name}.yaml")}
    try:
        return Figure.model_validate(content)
    except ValidationError as error:
        told = "; ".join(tell(problem, Figure) for problem in error.errors())
        raise ConfigError(f"{key}/{name}.yaml: {told}") from None
