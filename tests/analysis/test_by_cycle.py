"""What cycles do to signs, batch norm and the way from one to the next, and what noise does: against the run files."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsify_fx.analysis.analyze import analyze
from sparsify_fx.analysis.base import Options
from sparsify_fx.analysis.reports.sign_cycles import Cycles
from sparsify_fx.analysis.reports.sign_difference import difference
from sparsify_fx.checkpoints.run_files import read_state
from sparsify_fx.errors import AnalysisError
from tests.train.common import quietly, small, write_images

OPTIONS = Options(samples=40, points=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "mine.npz", side=28)


@pytest.fixture(scope="module")
def cycled(data: Path) -> dict[str, Path]:
    """Three cycles of LRR and IMP, with batch norm, and of LRR without."""
    nets = {"lrr": "lenet5-bn", "imp": "lenet5-bn", "plain": "lenet300"}
    found = {}
    for name, net in nets.items():
        method = name if name != "plain" else "lrr"
        sets = [f"method={method}", f"model={net}", "sparsity=0.36"]
        sets += ["save_cycles=true", "snapshots_at=[0]"]
        config = small(data, *sets, recipe="mnist5k-lenet5-bn")
        found[name] = Path(quietly(config, data.parent / "runs").path)
    return found


def data_of(name: str, runs: list[Path], out: Path) -> Any:
    done = analyze(runs, out, only=[name], options=OPTIONS)
    result = done.results[name]
    assert [Path(path).name for path in result.figures] == [f"{name}.png"]
    json.dumps(result.to_dict())
    return result.findings.data


def flips(run: Path, cycle: int) -> tuple[int, int]:
    """Flips from init among the kept, and the kept, from the files."""
    first, last = read_state(run, epoch=0), read_state(run, cycle=cycle)
    count = kept = 0
    for key, mask in last.items():
        if key.endswith(".mask"):
            name, there = key.removesuffix(".mask"), mask == 1
            count += int((first[name][there] * last[name][there] < 0).sum())
            kept += int(there.sum())
    return count, kept


def test_the_difference_in_flips_is_that_of_the_files(
    cycled: dict[str, Path], tmp_path: Path
) -> None:
    runs = [cycled["lrr"], cycled["imp"]]
    found = data_of("sign-difference", runs, tmp_path)["lrr − imp"]
    ours, theirs = ([flips(run, cycle) for cycle in range(3)] for run in runs)
    pairs = list(zip(ours, theirs, strict=True))
    assert list(found["more"]) == [a - b for (a, _), (b, _) in pairs]
    assert list(found["share"]) == [a / n - b / m for (a, n), (b, m) in pairs]
    assert found["sparsity"] == pytest.approx([0, 0.2, 0.36], abs=1e-3)
    # IMP starts each cycle from the initial signs, LRR from learned ones.
    assert found["more"][0] == 0
    assert found["more"][2] > 0


def test_only_sparsities_that_both_have_are_compared() -> None:
    a = Cycles((0, 1), (0.0, 0.2), (5, 4), (100, 80), (), ())
    b = Cycles((0, 1), (0.0, 0.5), (1, 3), (100, 50), (), ())
    assert difference(a, b).more == (4,)
    assert difference(a, b).share == pytest.approx((0.04,))
    c = Cycles((0, 1), (0.1, 0.5), (1, 3), (90, 50), (), ())
    assert difference(a, c).sparsity == ()


def test_scales_by_cycle_are_those_of_the_files(
    cycled: dict[str, Path], tmp_path: Path
) -> None:
    found = data_of("bn-cycles", [cycled["lrr"]], tmp_path)["lrr"]
    assert list(found) == ["0", "1", "2"]
    for number, one in found.items():
        state = read_state(cycled["lrr"], cycle=int(number))
        scales = {n: state[n] for n in one["layers"]}
        assert all("bn" in name for name in scales)
        sizes = torch.cat([scale.abs() for scale in scales.values()]).double()
        assert one["sizes"]["channels"] == sizes.numel()
        assert one["sizes"]["quantiles"][2] == pytest.approx(float(sizes.quantile(0.5)))
    assert found["0"]["sizes"] != found["2"]["sizes"]
    with pytest.raises(AnalysisError, match="no batch norm"):
        analyze([cycled["plain"]], tmp_path, only=["bn-cycles"])


def test_the_line_goes_from_each_cycle_to_the_next(
    cycled: dict[str, Path], tmp_path: Path
) -> None:
    """Without batch norm the ends are what the run measured."""
    found = data_of("cycle-connectivity", [cycled["plain"]], tmp_path)["lrr"]
    assert [step["cycles"] for step in found] == [(0, 1), (1, 2)]
    assert [step["sparsity"] for step in found] == pytest.approx([0.2, 0.36], abs=1e-3)
    result = json.loads((cycled["plain"] / "result.json").read_text())
    errors = [1 - cycle["test_accuracy"] for cycle in result["cycles"]]
    for step, ends in zip(found, pairwise(errors), strict=True):
        line = step["line"]["error"]
        assert (line[0], line[-1]) == pytest.approx(ends)
        assert step["error_barrier"] == max(line) - (line[0] + line[-1]) / 2


@pytest.fixture(scope="module")
def branched(data: Path) -> dict[str, Path]:
    """A run, and others from its states at epochs 0 and 1."""
    sets = ["method=random", "snapshots_at=[0, 1]"]
    first = Path(quietly(small(data, *sets), data.parent / "runs").path)
    found = {"first": first}
    for name, epoch, seed in (("a", 1, 1), ("b", 1, 2), ("early", 0, 1)):
        taken = f"init_from=[{{run: {first}, take: [mask, weights], epoch: {epoch}}}]"
        config = small(data, *sets[:1], f"seed={seed}", taken, "allow_other=[seed]")
        found[name] = Path(quietly(config, data.parent / "runs").path)
    return found


def test_trainings_from_one_state_are_compared(
    branched: dict[str, Path], tmp_path: Path
) -> None:
    given = [branched[name] for name in ("first", "a", "b", "early")]
    done = analyze(given, tmp_path, only=["stability"], options=OPTIONS)
    result = done.results["stability"]
    # The run that they come from begins with no other's weights; `early` with those of another moment.
    assert list(result.left_out) == [branched["first"].name]
    ((name, line),) = result.findings.data.items()
    assert name == f"{branched['a'].name} & {branched['b'].name}"
    for place, run in ((0, "a"), (-1, "b")):
        told = json.loads((branched[run] / "result.json").read_text())
        assert line["error"][place] == pytest.approx(1 - told["test_accuracy"])
    start = _weights(read_state(branched["first"], epoch=1))
    a, b = (_weights(read_state(branched[run])) for run in ("a", "b"))
    way = float(((a - start).norm() * (b - start).norm()).sqrt())
    assert line["apart"] == pytest.approx(float((a - b).norm()) / way)
    assert 0 < line["apart"] < 2
    (row,) = result.findings.grids[0].rows
    assert row[3] == ("yes" if line["error_barrier"] <= 0.02 else "no")


def _weights(state: dict[str, Any]) -> torch.Tensor:
    masked = [key.removesuffix(".mask") for key in state if key.endswith(".mask")]
    return torch.cat([state[name].flatten() for name in masked]).double()


def test_what_does_not_belong_together_is_told(
    branched: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(AnalysisError, match="begin with the same weights and masks"):
        analyze([branched["b"], branched["early"]], tmp_path, only=["stability"])
    with pytest.raises(AnalysisError, match=r"init_from=\[\{run: RUN, take: \[mask"):
        analyze([branched["first"], branched["a"]], tmp_path, only=["stability"])
