"""The style of figures: colors of methods, text that is read in a column, sizes that are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sparsify_fx.errors import AnalysisError, UnknownNameError
from sparsify_fx.figures import Look, legend, look, panels, save, styles_of
from sparsify_fx.figures.saving import inline_svg
from sparsify_fx.figures.styles import PALETTE
from sparsify_fx.lab.common.fits import draw_fit
from sparsify_fx.lab.common.statistics import Mean
from sparsify_fx.lab.neuron_lrr.experiment import draw as draw_losses
from sparsify_fx.lab.neuron_lrr.runs import METHODS as BOTH
from sparsify_fx.recipe import METHODS, find_method
from sparsify_fx.report import RunFacts, draw_curves
from tests.figures.common import check_legible, drawn

find_method("dense")  # fills the registry


def facts(method: str) -> RunFacts:
    """A run of eight epochs."""
    rows = tuple(
        {"epoch": e, "test_accuracy": 1 - 1 / e, "loss": 1 / e, "lr": 0.1 / e}
        for e in range(1, 9)
    )
    return RunFacts(method, Path(method), {"method": method}, rows, None)


def curves(figure: Any) -> None:
    """What a report shows of four runs, one with a long name."""
    names = ("dense", "signin", "lrr+signin-0123456789", "magnitude-0123456789")
    draw_curves([facts(name) for name in names], figure)


def losses(figure: Any) -> None:
    """Intervals that reach below zero, and four panels."""
    found = {(d, m): (Mean(1e-3, 5e-3),) * 4 for d in (1, 2, 5, 10) for m in BOTH}
    draw_losses(found, (1, 2, 5, 10), figure)


@pytest.mark.cross_section("None-curves", "8.5-curves", "17.8x9-curves")
@pytest.mark.parametrize("draw", [curves, losses])
@pytest.mark.parametrize("size", [None, "8.5", "17.8x9"])
def test_text_is_legible_and_inside_at_the_size_that_is_asked(
    draw: Any, size: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = drawn(draw, size, monkeypatch)
    width, height = (2.54 * side for side in figure.get_size_inches())
    wide = 17.8 if len(figure.axes) > 3 else 8.5
    assert width == pytest.approx(float(size.split("x")[0]) if size else wide)
    if size == "17.8x9":
        assert height == pytest.approx(9)
    check_legible(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    names = [text.get_window_extent(renderer) for text in figure.legends[0].get_texts()]
    assert not any(a.overlaps(b) for a in names for b in names if a is not b)


def test_each_method_has_one_color_whatever_stands_beside_it() -> None:
    alone = {method: styles_of([method])[method] for method in METHODS}
    together = styles_of(METHODS)
    assert {m: s["color"] for m, s in together.items()} == {
        m: s["color"] for m, s in alone.items()
    }
    looks = [(s["color"], s["marker"], str(s["linestyle"])) for s in together.values()]
    assert len(set(looks)) == len(METHODS)
    # What papers compare has colors of its own.
    often = ("dense", "random", "signin", "lrr", "imp", "wr", "gmp", "magnitude")
    assert len({alone[method]["color"] for method in often}) == len(often)
    runs = styles_of(["lrr-0123456789", "lrr-abcdefabcd", "lrr 0.9"])
    assert {style["color"] for style in runs.values()} == {alone["lrr"]["color"]}
    assert len({style["marker"] for style in runs.values()}) == 3
    own = styles_of(["distance", "lrr"])["distance"]
    assert own["color"] in PALETTE
    assert own["color"] != alone["lrr"]["color"]


def test_intervals_on_log_axes_stay_above_zero_and_everything_is_named() -> None:
    figure = Figure(layout="constrained")
    losses(figure)
    for axes in figure.axes:
        for bars in axes.containers:
            (whiskers,) = bars[2]
            assert min(segment[:, 1].min() for segment in whiskers.get_segments()) > 0
    assert len(figure.legends[0].get_texts()) == 2


def test_a_claimed_slope_is_drawn_from_the_first_to_the_last_point() -> None:
    axes = Figure().subplots()
    draw_fit(axes, [1.0, 2.0, 4.0], [3.0, 5.0, 9.0], "black", "radius")
    (line,) = axes.lines
    assert line.get_label() == "radius: slope 2, R² 1.000"
    assert line.get_xydata().tolist() == [[1.0, 3.0], [4.0, 9.0]]


def test_formats_resolution_and_the_same_bytes(tmp_path: Path) -> None:
    def draw(figure: Any) -> None:
        (axes,) = panels(figure)
        axes.plot([1, 2], label="a")
        legend(figure, axes)

    for name in ("a", "b"):
        paths = save(tmp_path / name, draw, look(["png", "svg", "pdf"], 300, "8.5x6"))
    assert [Path(path).suffix for path in paths] == [".png", ".svg", ".pdf"]
    for kind in ("png", "svg", "pdf"):
        first, second = (tmp_path / f"{name}.{kind}" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (int(8.5 / 2.54 * 300), int(6 / 2.54 * 300))
    svg = inline_svg(draw, Look(("svg",)))
    assert svg.startswith("<svg")
    assert "#000000" not in svg


@pytest.mark.parametrize(
    "size", ["", "8,5", "3", "8.5x", "8.5x2", "1000", "a x b", "nan"]
)
def test_a_size_that_is_none_is_told(size: str) -> None:
    with pytest.raises(AnalysisError, match="expected a width in cm"):
        look(size=size)


def test_other_formats_and_resolutions_are_told() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'png'"):
        look(["pgn"])
    with pytest.raises(AnalysisError, match="300 for print"):
        look(dpi=0)
