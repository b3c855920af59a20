"""Results are one line as values, tables when printed, and HTML in which nothing of a stranger's is markup."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import sparsify_fx
from sparsify_fx.analysis.analyze import Analyzed
from sparsify_fx.demo.demo import DemoResult
from sparsify_fx.lab.run import LabResult
from sparsify_fx.onnx_export import ExportReport, FileReport
from sparsify_fx.sweeps.compare import Comparison
from sparsify_fx.tables.fitting import FittingTable
from sparsify_fx.tables.shown import Shown
from sparsify_fx.train import Result
from sparsify_fx.training_cost.result import Cost


class Cells(HTMLParser):
    """The texts of all cells, and the tags that are open at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


class Odd(Shown):
    def headline(self) -> str:
        return "<b>5 & 6</b>\n\x1b[31m"

    def table(self) -> FittingTable:
        table = FittingTable("name", "value", title="[red]a[/red]")
        table.add_row("<script>alert(1)</script>", "1 < 2")
        return table


def test_nothing_is_markup() -> None:
    found = Cells(Odd()._repr_html_())
    assert found.open == []
    assert "<script>alert(1)</script>" in found.cells
    assert "1 < 2" in found.cells
    assert "[red]a[/red]" in found.cells
    assert repr(Odd()) == r"<Odd: <b>5 & 6</b>\n\x1b[31m>"
    assert "\x1b" not in str(Odd())


@pytest.mark.parametrize(
    "kind",
    [Analyzed, Comparison, Cost, DemoResult, ExportReport, FileReport, LabResult, Result],
)  # fmt: skip
def test_every_result_has_a_headline_and_html(kind: type) -> None:
    """What these show is tested where they are made; here, that none fell back to the long text of a dataclass."""
    assert "headline" in vars(kind)
    assert kind.__repr__ is not object.__repr__
    assert "__repr__" not in vars(kind) or kind is Comparison
    assert callable(kind._repr_html_)  # type: ignore[attr-defined]


def test_a_scheduler_in_one_line_and_in_tables() -> None:
    model = sparsify_fx.apply(nn.Linear(10, 10), "lrr", sparsity=0.5)
    groups = sparsify_fx.parameter_groups(model, 0.1)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=2, steps_per_epoch=3)
    assert repr(scheduler) == (
        "<Scheduler: lrr, step 0 of 30, run 1 of 5, 100 of 100 weights>"
    )
    assert "prune" in str(scheduler)
    cells = Cells(scheduler._repr_html_()).cells
    assert "0 of 30" in cells
    assert "prune" in cells
    assert len(repr(scheduler.timeline())) < 100
    assert repr(groups).startswith("<ParameterGroups: ")
    assert "weight decay" in Cells(groups._repr_html_()).cells
