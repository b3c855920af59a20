"""`sparsify-fx reproduce`: the list, a sweep over small data, the laboratory, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsify_fx.reproduce import Figure, figures
from tests.sweeps.common import call
from tests.train.common import write_images

SMALL = ("model=lenet300", "batch_size=20", "optimizer.lr=0.02")
# Each experiment once; which figures it makes is in the catalog.
BY_EXPERIMENT = {figure.lab: figure for figure in figures() if figure.kind == "lab"}


def small(folder: Path) -> list[str]:
    """Options for data and a net that take a fraction of a second."""
    data = folder / "mine.npz"
    write_images(data)
    options: list[str] = []
    for change in (*SMALL, f"data=npz:{data}"):
        options += ["--set", change]
    return options


@pytest.mark.slow
def test_a_table_is_trained_and_the_paper_stands_beside_it(tmp_path: Path) -> None:
    options = [*small(tmp_path), "--json", "found.json"]
    code, out, err = call(
        "reproduce", "gadhikar2025", "Table 4", "--scale", "tiny", *options,
        folder=tmp_path,
    )  # fmt: skip
    assert code == 0, err
    assert "2 of 2 trials ended" in out
    assert "At scale tiny (a smoke test" in out
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert [point["series"] for point in found["ours"]] == [
        "Random",
        "Random + Sign-In",
    ]
    assert {point["y"] for point in found["paper"]} == {69.31, 70.62}
    assert found["agreement"]["verdicts"][0]["holds"] in (True, False)
    stem = tmp_path / "sparsify-reproduce/gadhikar2025-table4-tiny"
    for kind in ("yaml", "csv", "json", "md", "png"):
        assert stem.with_suffix(f".{kind}").is_file()

    # Trained once: the same command finds the runs, and `compare` reads its sweep.
    code, out, err = call("compare", f"{stem}.yaml", "--format", "csv", folder=tmp_path)
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.sweep
def test_signs_by_cycle_are_read_out_of_the_runs(tmp_path: Path) -> None:
    options = [*small(tmp_path), "--set", "save_cycles=true", "--json", "found.json"]
    code, _, err = call(
        "reproduce", "gadhikar2024", "fig13", "--scale", "tiny", *options,
        folder=tmp_path,
    )  # fmt: skip
    assert code == 0, err
    (found,) = json.loads((tmp_path / "found.json").read_text())
    at = {(p["series"], p["x"]): p["y"] for p in found["ours"]}
    assert {x for _, x in at} == {0.0, 0.2, 0.36}
    for x in (0.0, 0.2, 0.36):
        assert at["LRR − IMP", x] == pytest.approx(at["LRR", x] - at["IMP", x])


@pytest.mark.slow
@pytest.mark.sweep
def test_trials_that_failed_are_told_beside_the_numbers_of_the_others(
    tmp_path: Path,
) -> None:
    # IMP goes back to the end of the warm-up, which a run of one epoch has not.
    options = [*small(tmp_path), "--set", "epochs=1", "--json", "found.json"]
    code, out, _ = call(
        "reproduce", "gadhikar2024", "fig13", "--scale", "tiny", *options,
        folder=tmp_path,
    )  # fmt: skip
    assert code == 1
    assert "1 trials are missing" in out
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert "rewind point 'warmup'" in found["missing"][0]
    assert {point["series"] for point in found["ours"]} == {"LRR"}


@pytest.mark.slow
def test_what_is_missing_or_misspelled_is_told(tmp_path: Path) -> None:
    code, _, err = call(
        "reproduce", "gadhikar2024", "fig2-d", "--scale", "full", folder=tmp_path
    )
    assert code == 2
    expected = tmp_path / "data/tiny-imagenet"
    assert f"{expected} does not exist" in err
    assert "--scale cpu, which needs digits alone" in err
    assert not (tmp_path / "runs").exists()

    code, _, err = call("reproduce", "gadhikar2024", "fig99", folder=tmp_path)
    assert code == 2
    assert "Known: fig1, " in err


@pytest.mark.slow
def test_the_list_and_a_sweep_for_somewhere_else(tmp_path: Path) -> None:
    code, out, _ = call("reproduce", "jacobs2025", "--json", "-", folder=tmp_path)
    assert code == 0
    listed = json.loads(out)
    assert {entry["key"] for entry in listed} == {"jacobs2025"}
    assert "fig3-cifar100" in [entry["name"] for entry in listed]

    code, out, err = call(
        "reproduce", "gadhikar2024", "fig2", "--scale", "full", "--write-only",
        folder=tmp_path,
    )  # fmt: skip
    assert code == 0, err
    assert out.split() == [
        "sparsify-reproduce/gadhikar2024-fig2-bc-full.yaml",
        "sparsify-reproduce/gadhikar2024-fig2-d-full.yaml",
    ]


@pytest.mark.sweep
@pytest.mark.parametrize("figure", BY_EXPERIMENT.values(), ids=lambda f: f.lab[0])
def test_every_experiment_by_its_figure(figure: Figure, tmp_path: Path) -> None:
    code, out, err = call("reproduce", figure.key, figure.name, folder=tmp_path)
    assert code == 0, err
    assert "claims hold" in out
    assert list((tmp_path / "sparsify-reproduce").glob("*.png"))
