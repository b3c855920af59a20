"""`sparsify-fx methods`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from sparsify_fx.cli.options import PluginOption
from sparsify_fx.cli.output import JsonOption, Output
from sparsify_fx.plugins import load_files, load_plugins
from sparsify_fx.recipe import AXES, METHODS, Method, find_method

NAME = "methods"
# What a method leaves at its default is not shown in the list, but for the three axes that make a method what it is.
_PLAIN = Method("plain").resolved().to_dict() | {
    "criterion": None,
    "allocation": None,
    "schedule": None,
}
# Penalties are left out: the summary names them, and their options would fill three lines.
_REFERENCES = "docs/references.md"
_SHOWN = (
    "criterion",
    "allocation",
    "parameterization",
    "schedule",
    "rewind",
    "actions",
)


def command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="One method, or a sum: lrr+signin."),
    ] = None,
    plugin: PluginOption = None,
    json: JsonOption = None,
) -> None:
    """List the methods as points on their axes, or show one in full.

    Examples:

        sparsify-fx methods

        sparsify-fx methods lrr+signin --json -
    """
    output = Output(json)
    load_files(plugin)
    if name is not None:
        method = find_method(name)
        output.console.print(card(method))
        output.finish(to_dict(method))
        return
    # `find_method` loads installed plugins by itself; the list must do so to be complete.
    load_plugins()
    methods = [METHODS[name] for name in METHODS]
    output.console.print(overview(methods))
    output.finish([to_dict(method) for method in methods])


def to_dict(method: Method) -> dict[str, Any]:
    """The method with a value on every axis, and which of them define it."""
    about = {"name": method.name, "summary": method.summary, "source": method.source}
    return {
        **about,
        "axes": method.resolved().to_dict(),
        "sets": sorted(method.sets.given()),
    }


def overview(methods: list[Method]) -> Table:
    """The methods, each with its axes under its summary, so that it fits every terminal."""
    table = Table("name", "method", show_lines=True)
    for method in methods:
        axes = method.resolved().to_dict()
        shown = {
            axis: axis_text(axes[axis]) for axis in _SHOWN if axes[axis] != _PLAIN[axis]
        }
        listed = "; ".join(f"{axis} {text}" for axis, text in shown.items())
        table.add_row(
            Text(method.name), Text.assemble(f"{method.summary}\n", (listed, "cyan"))
        )
    return table


def card(method: Method) -> Table:
    """One method: every axis, and whether the method sets it, suggests it, or leaves the default; and its source."""
    told = f"{method.summary}\nSource: {method.source}"
    if "[" in method.source:
        told += f"\nKeys of papers: {_REFERENCES}"
    # Texts, not strings: rich would take brackets, of a key or of a layer pattern, for markup where they look like it.
    table = Table(
        "axis",
        "value",
        "",
        title=Text(method.name, style="table.title"),
        caption=Text(told, style="table.caption"),
    )
    axes = method.resolved().to_dict()
    for axis in AXES:
        # A partner in a sum may replace what is suggested, but contradicts what is set.
        given = "suggested" if axis in method.suggests.given() else "default"
        given = "set" if axis in method.sets.given() else given
        table.add_row(axis, Text(axis_text(axes[axis])), given)
    return table


def axis_text(value: Any) -> str:
    """A described axis value in a few words: "cycles(keep=0.8)", "weights: warmup", "-" for nothing.

    >>> axis_text({"name": "cycles", "keep": 0.8})
    'cycles(keep=0.8)'
    """
    if isinstance(value, list):
        return ", ".join(axis_text(item) for item in value) or "-"
    if not isinstance(value, dict):
        return str(value)
    # A parameterization by layer: patterns of names instead of options.
    if value and all(isinstance(item, dict) for item in value.values()):
        return ", ".join(
            f"{pattern}: {axis_text(item)}" for pattern, item in value.items()
        )
    options = {key: option for key, option in value.items() if key != "name"}
    if value.keys() == {"name"}:
        return str(value["name"])
    if "name" in value:
        return f"{value['name']}({', '.join(f'{key}={option}' for key, option in options.items())})"
    return (
        ", ".join(
            f"{key}: {option}" for key, option in options.items() if option is not None
        )
        or "-"
    )
