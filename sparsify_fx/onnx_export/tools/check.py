"""`check_file`: what an ONNX file holds, and what other tools will do with it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from sparsify_fx.errors import ExportError, unknown
from sparsify_fx.onnx_export.files.targets import check_source
from sparsify_fx.onnx_export.inspection.any_file import readable_kind
from sparsify_fx.onnx_export.tools.rows import TOOLS
from sparsify_fx.onnx_export.tools.tool import FAILS, VERDICTS
from sparsify_fx.onnx_export.tools.traits import PACKED, TRAITS, held_by
from sparsify_fx.tables.fitting import FittingTable
from sparsify_fx.tables.shown import Shown

ORDER = "the order that works: optimize, then quantize or convert to float16, and pack for the runtime last"
UNPACK = (
    "`sparsify-fx unpack` gives plain weights back, for every tool that is no runtime"
)


@dataclass(frozen=True)
class Judged:
    """What one tool does with the file: a word of `VERDICTS`, why, and the package and version that it was seen in."""

    tool: str
    what: str
    verdict: str
    why: str
    checked: str


@dataclass(frozen=True, repr=False)
class CheckReport(Shown):
    """The result of `check_file`.

    `traits`: what the file holds, each word with the number of tensors or operators; `notes`: what else one should
    know of it; `tools`: one row for each tool that was asked for.
    """

    path: str
    traits: dict[str, int]
    notes: tuple[str, ...]
    tools: tuple[Judged, ...]

    @property
    def failing(self) -> tuple[str, ...]:
        """The tools that break, refuse or undo the file."""
        return tuple(each.tool for each in self.tools if each.verdict in FAILS)

    @property
    def packed(self) -> bool:
        """Whether the file holds more than plain weights."""
        return bool(PACKED & set(self.traits))

    @property
    def advice(self) -> str:
        """The order in which tools work on a file like this."""
        return f"{ORDER}; {UNPACK}" if self.packed else ORDER

    def headline(self) -> str:
        """The file, what it holds, and how many tools it is not for."""
        held = ", ".join(self.traits)
        return f"{self.path}: {held}; {len(self.failing)} of {len(self.tools)} tools break, refuse or undo it"

    def tables(self) -> tuple[Table, ...]:
        """What the file holds, and what tools do with it."""
        return self.held_table(), self.table()

    def held_table(self) -> FittingTable:
        """One line for each trait."""
        table = FittingTable(title=self.path, needed=("meaning",))
        table.add_column("holds")
        table.add_column("count", justify="right")
        table.add_column("meaning")
        for word, count in self.traits.items():
            table.add_row(word, f"{count:,}", TRAITS[word])
        table.caption = "\n".join(self.notes) or None
        return table

    def table(self) -> FittingTable:
        """One line for each tool, and the order that works."""
        table = FittingTable(spare=("seen in", "why"), needed=("verdict",))
        for heading in ("tool", "verdict", "why", "seen in"):
            table.add_column(heading)
        for each in self.tools:
            why = each.why or VERDICTS[each.verdict]
            table.add_row(each.tool, each.verdict, why, each.checked)
        table.caption = self.advice
        return table

    def to_dict(self) -> dict[str, Any]:
        """All fields, the tools that fail and the advice, ready for JSON."""
        more = {"failing": list(self.failing), "advice": self.advice}
        return {**asdict(self), "notes": list(self.notes), **more}


def check_file(
    path: str | os.PathLike[str], tools: Collection[str] = ()
) -> CheckReport:
    """What an ONNX file holds, and whether other tools work on it, undo it, refuse it or break it.

    Verdicts are what each tool was seen to do, in the version that the row names, with files that hold the same
    (`docs/results/tools.json`); nothing is run. `tools`: a name, or several, as reports have them; empty: all.

    Raises ExportError for a file that is missing, damaged or no ONNX, and UnknownNameError for an unknown tool.

    >>> import tempfile, numpy as np, onnx
    >>> from onnx import TensorProto, helper, numpy_helper
    >>> weight = numpy_helper.from_array(np.eye(100, dtype=np.float32), "w")
    >>> ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 100]) for name in "xy"]
    >>> node = helper.make_node("MatMul", ["x", "w"], ["y"])
    >>> model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [weight]), ir_version=9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     onnx.save(model, f"{folder}/dense.onnx")
    ...     report = check_file(f"{folder}/dense.onnx")
    >>> report.traits, report.failing
    ({'dense': 1}, ('coremltools',))
    """
    # A word is a collection of letters.
    tools = (tools,) if isinstance(tools, str) else tools
    for name in tools:
        if name not in TOOLS:
            raise unknown("tool", name, TOOLS)
    file = check_source(path)
    _check_kind(file)
    held = held_by(file)
    judged = tuple(_judged(held.traits, tools or TOOLS))
    return CheckReport(os.fspath(path), held.traits, held.notes, judged)


def _check_kind(file: Path) -> None:
    """ExportError for what can be read and is no ONNX file."""
    # A folder, and what does not exist, is told of by the reader.
    kind = readable_kind(file) if file.is_file() else "onnx"
    if kind != "onnx":
        raise ExportError(
            f"{file} is a checkpoint ({kind}), and `check` tells of ONNX files; export it, or use `sparsify-fx inspect`"
        )


def _judged(traits: Collection[str], names: Collection[str]) -> Iterator[Judged]:
    """The rows of these tools, in the order of the registry."""
    for tool in TOOLS.values():
        if tool.name in names:
            case = tool.verdict(traits)
            seen = f"{tool.package} {tool.checked}"
            yield Judged(tool.name, tool.what, case.verdict, case.why, seen)
