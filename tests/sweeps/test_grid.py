"""What a sweep's file means: its trials, the runs that they take from, and mistakes told before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsify_fx.errors import ConfigError
from sparsify_fx.sweeps import load_sweep, trials_of
from sparsify_fx.sweeps.grid import Trial, cells_of
from tests.sweeps.common import write_sweep


def trials(folder: Path, **content: Any) -> dict[str, Trial]:
    return trials_of(load_sweep(write_sweep(folder, **content)))


def refused(folder: Path, **content: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        trials(folder, **content)
    return str(caught.value)


def test_every_combination_is_a_trial(tmp_path: Path) -> None:
    found = trials(
        tmp_path,
        method=["lrr", "imp"],
        sparsity=[0.2, 0.36],
        seed=[0, 1, 2],
        grid={"optimizer.lr": [0.02, 0.05]},
    )
    assert len(found) == 24
    trial = found["imp sparsity=0.36 seed=2 optimizer.lr=0.05"]
    config = trial.config({})
    assert (config.method, config.sparsity, config.seed) == ("imp", 0.36, 2)
    assert (config.optimizer.lr, config.batch_size, config.epochs) == (0.05, 20, 1)
    assert len(list(cells_of(found))) == 8


def test_what_the_file_leaves_out_is_the_recipes_own(tmp_path: Path) -> None:
    (trial,) = trials(tmp_path, sparsity=[], recipe="mnist5k-lenet5").values()
    assert (trial.name, trial.cell) == ("mnist5k-lenet5", {})
    assert trial.config({}).method == "lrr"
    found = trials(tmp_path, recipe=["mnist5k-lenet5", "mnist5k-lenet5-bn"])
    assert [t.cell["recipe"] for t in found.values()] == [
        "mnist5k-lenet5",
        "mnist5k-lenet5-bn",
    ]


def test_a_label_has_keys_of_its_own(tmp_path: Path) -> None:
    found = trials(
        tmp_path, method={"lrr": None, "slow": {"method": "lrr", "optimizer.lr": 0.001}}
    )
    rates = [trial.config({}).optimizer.lr for trial in found.values()]
    assert rates == [0.02, 0.001]
    assert [trial.cell["method"] for trial in found.values()] == ["lrr", "slow"]


def test_runs_to_take_from_are_told_by_values(tmp_path: Path) -> None:
    """The donor has the same seed; one that is not in the grid is trained too, but not compared."""
    on_imp = {
        "method": "random",
        "init_from": {"run": {"method": "imp"}, "take": ["mask"]},
    }
    found = trials(tmp_path, method={"random": None, "on-imp": on_imp}, seed=[0, 1])
    trial = found["on-imp sparsity=0.36 seed=1"]
    assert trial.donors == ("imp sparsity=0.36 seed=1",)
    assert [t.name for t in found.values() if not t.compared] == [
        "imp sparsity=0.36 seed=0",
        "imp sparsity=0.36 seed=1",
    ]
    (source,) = trial.config({trial.donors[0]: "/there/imp-0123456789"}).init_from
    assert source.run == "/there/imp-0123456789"


def test_an_axis_may_take_from_a_trial_cycle_by_cycle(tmp_path: Path) -> None:
    masks = {"name": "masks-of", "run": {"method": "imp", "seed": 7}}
    on_imp = {"method": "lrr", "axes.criterion": masks}
    told = refused(tmp_path, method={"on-imp": on_imp}, seed=[0])
    assert "does not keep them; set save_cycles: true" in told
    found = trials(
        tmp_path, method={"on-imp": on_imp}, seed=[0], set={"save_cycles": True}
    )
    assert list(found)[1] == "imp sparsity=0.36 seed=7"


def test_epochs_that_a_donor_does_not_keep_are_told_before_it_is_trained(
    tmp_path: Path,
) -> None:
    source = {"run": {"method": "imp"}, "take": ["signs"], "epoch": 1}
    told = refused(
        tmp_path, method={"random": {"init_from": source}, "imp": None}, seed=[0]
    )
    assert "takes epochs [1] of imp sparsity=0.36 seed=0" in told
    assert "snapshots_at: [1]" in told


def test_mistakes_are_told_in_words(tmp_path: Path) -> None:
    in_circle = {
        a: {"method": "random", "init_from": {"run": {"method": b}, "take": ["mask"]}}
        for a, b in (("a", "b"), ("b", "a"))
    }
    for words, content in {
        "unknown method 'lr'": {"method": ["lr"]},
        "the same training": {"method": {"lrr": None, "again": {"method": "lrr"}}},
        "names a method twice": {"method": ["lrr", "lrr"]},
        "is in the sweep twice": {"seed": [1, 1]},
        "take from each other in a circle": {"method": in_circle},
        "method has a place of its own": {"grid": {"method": ["lrr"]}},
        "optimizer.lr has no values": {"grid": {"optimizer.lr": []}},
        "unknown key 'sparsities'": {"sparsities": [0.5]},
        "unknown option of sgd 'lrr'": {"set": {"optimizer.lrr": 1}},
        "sparsity": {"sparsity": [1.5]},
        "1.5 GPUs": {"trial": {"gpus": 1.5}},
        "are more than 100,000": {"seed": list(range(1001)), "grid": {"a": [0] * 100}},
        "told by 'dataset'": {
            "method": {"random": {"init_from": {"run": {"dataset": 1}}}}
        },
    }.items():
        assert words in refused(tmp_path, **content), content
    with pytest.raises(ConfigError, match="does not exist; give the path of a YAML"):
        load_sweep(tmp_path / "none.yaml")


def test_a_missing_key_is_asked_for_in_this_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("method: [lrr]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="write recipe: at the top of the file"):
        load_sweep(file)
