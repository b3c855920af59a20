"""The catalog holds every figure and table of the four papers, and each can be made or says why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sparsify_fx.reproduce.catalog as catalog
from benchmarks.reproduce_page import PAGE_FILE, RESULTS_FILE, page
from benchmarks.reproduce_results import RESULTS, kept, results_page
from sparsify_fx.errors import ConfigError, UnknownNameError
from sparsify_fx.lab import EXPERIMENTS, all_experiments
from sparsify_fx.reproduce import figures, find
from sparsify_fx.reproduce.figure import SCALES
from sparsify_fx.reproduce.measures import MEASURES
from sparsify_fx.reproduce.plans import LABELS, merged, plan_of, write_sweep
from sparsify_fx.sweeps import SweepConfig, load_sweep, trials_of
from sparsify_fx.train import load_config

ALL = figures()
# Counted by hand in the papers: figures and tables, appendices too.
COUNTS = {
    "gadhikar2024": (18, 1),
    "zhang2021": (7, 0),
    "jacobs2025": (6, 6),
    "gadhikar2025": (9, 11),
}
SWEEPS = [figure for figure in ALL if figure.kind == "sweep"]


def names(figure: object) -> str:
    return f"{figure.key}-{figure.name}"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("key", "counts"), COUNTS.items())
def test_every_figure_and_table_is_there(key: str, counts: tuple[int, int]) -> None:
    numbers = {figure.number for figure in ALL if figure.key == key}
    wanted = {f"fig{number}" for number in range(1, counts[0] + 1)}
    assert numbers == wanted | {f"table{n}" for n in range(1, counts[1] + 1)}


@pytest.mark.parametrize("figure", ALL, ids=names)
def test_each_can_be_made_or_says_why_not(figure: catalog.Figure) -> None:
    assert figure.title.endswith(".") or figure.kind == "sweep"
    assert figure.measure in MEASURES
    all_experiments()
    assert [name for name in figure.lab if name not in EXPERIMENTS] == []
    if figure.kind != "sweep":
        return
    for scale in SCALES:
        plan = SweepConfig.model_validate(plan_of(figure, scale))
        assert plan.recipe == ("mnist5k-lenet5-bn",) or scale == "full"
        # Panels are named after recipes, claims and numbers after labels, so a slip would compare nothing.
        if scale == "full":
            assert set(figure.panels) == set(plan.recipe)
        series = set()
        for label in plan.method:
            series |= {label, label.partition(" @ ")[0], label.partition(",")[0]}
        for claim in figure.claims:
            assert {claim.more, claim.than} <= series, claim
        assert {point.series for point in figure.points()} <= series
        assert {point.panel for point in figure.points()} <= set(figure.panels.values())


@pytest.mark.parametrize("scale", LABELS)
def test_a_sweep_is_checked_and_is_a_file_for_sweep(
    scale: catalog.Any, tmp_path: Path
) -> None:
    (figure,) = find("gadhikar2025", "table4")
    path = write_sweep(figure, scale, tmp_path, ["optimizer.lr=0.5"])
    trials = trials_of(load_sweep(path))
    configs = [trial.config({}) for trial in trials.values()]
    assert len(configs) == (2 if scale == "tiny" else 6)
    assert {config.optimizer.lr for config in configs} == {0.5}
    data = {
        "full": "imagefolder:data/imagenet",
        "cpu": "mnist5k",
        "tiny": "mnist5k:500",
    }
    assert {config.data for config in configs} == {data[scale]}


@pytest.mark.sweep
@pytest.mark.parametrize("figure", SWEEPS, ids=names)
@pytest.mark.parametrize("scale", LABELS)
def test_every_trial_of_every_sweep_is_a_valid_configuration(
    figure: catalog.Figure, scale: catalog.Any, tmp_path: Path
) -> None:
    assert trials_of(load_sweep(write_sweep(figure, scale, tmp_path)))


def test_names_are_found_as_people_write_them() -> None:
    (third,) = find("gadhikar2024", "Figure 3")
    assert third == find("Gadhikar 2024", "fig3")[0]
    assert third.told == "Fig. 3"
    assert third.command == "sparsify-fx reproduce gadhikar2024 fig3"
    assert [part.name for part in find("gadhikar2025", "Table 11")] == [
        "table11-cifar",
        "table11-imagenet",
    ]


def test_unknown_names_tell_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="Known: gadhikar2024, gadhikar2025"):
        find("gadhikar2023", "fig1")
    with pytest.raises(UnknownNameError, match=r"fig22.*Known: fig1, fig10"):
        find("gadhikar2024", "fig22")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("title: t\nshows: s\nkind: drawing", "without a reason"),
        ("title: t\nshows: s\nkind: lab\nlabs: [x]", "unknown key 'labs'"),
        ("title: t\nkind: lab\nlab: [x]", "shows is missing"),
    ],
)
def test_a_wrong_file_is_told(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"zhang2021/fig1\.yaml: .*{told}"):
        catalog._read("zhang2021", "fig1", text)


def test_changes_are_keys_with_values() -> None:
    (figure,) = find("gadhikar2025", "table4")
    with pytest.raises(ConfigError, match="expected key=value"):
        plan_of(figure, "tiny", ["epochs"])
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}) == {
        "a": {"b": None, "c": 2}
    }


def test_full_is_what_the_paper_says() -> None:
    """By hand, out of the papers: their smallest set-up and their most unusual one."""
    (masks,) = find("gadhikar2024", "fig3")
    trials = trials_of(SweepConfig.model_validate(plan_of(masks, "full")))
    config = next(iter(trials.values())).config({})
    assert (config.model, config.epochs, config.batch_size) == (
        "resnet18-cifar",
        150,
        256,
    )
    assert config.sparsity == pytest.approx(1 - 0.8**18, abs=1e-7)

    (rows,) = find("jacobs2025", "table1")
    labeled = plan_of(rows, "full")["method"]["PILoT @ 98.2"]
    assert labeled["axes.penalty"][0]["strength"] == 7e-5
    assert labeled["axes.penalty"][0]["threshold"] == 20000
    assert 2 * labeled["axes.penalty"][1]["strength"] == 0.000030517578125
    assert load_config("imagenet-resnet50-str").label_smoothing == 0.1


def test_the_page_is_what_the_catalog_makes() -> None:
    assert PAGE_FILE.read_text(encoding="utf-8") == page(), (
        "run: python -m benchmarks.reproduce_page"
    )
    assert RESULTS_FILE.read_text(encoding="utf-8") == results_page()
    # Every file there belongs to a figure, and so to a row.
    assert len(list(RESULTS.glob("*.json"))) == sum(len(kept(one)) for one in ALL)
    rows = re.findall(r"^\| `\w+ (?:fig|table)\d", page(), re.MULTILINE)
    assert len(rows) == len(ALL)
