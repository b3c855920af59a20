"""Trainings that are saved by some processes and go on on others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsify_fx.distributed import load_checkpoint, save_checkpoint
from sparsify_fx.errors import CheckpointError, SchedulerError
from tests.common import swept
from tests.distributed.cases import difference
from tests.distributed.conftest import launch
from tests.distributed.fsdp_cases import Run

WORKER = "tests.distributed.elastic_worker"


ALONE = "ignore:torch.distributed is disabled"


def finished_as_if_never_stopped(method: str, folder: str, step: int) -> None:
    """Go on in this process to the end: the masks of a training without a stop, and its weights but for rounding."""
    alone, last = Run(method, 0, 1, {}), Run(method, 0, 1, {})
    extra = load_checkpoint(folder, last.model, last.optimizer, last.scheduler)
    assert extra == {"note": step}
    while not last.scheduler.finished:
        last.step()
    for _ in range(alone.scheduler.steps):
        alone.step()
    assert difference(alone.model, last.model) == 0
    for name, tensor in alone.model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(last.model.state_dict()[name], tensor)


@pytest.mark.filterwarnings(ALONE)
def test_two_ranks_prune_shards_and_save_in_the_background_one_goes_on(
    tmp_path: Path,
) -> None:
    folder = str(tmp_path / "two")
    launch(WORKER, 2, "gmp", "none", folder, "13", "background")
    finished_as_if_never_stopped("gmp", folder, 13)


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.filterwarnings(ALONE)
@pytest.mark.parametrize(
    "method", ["wr", *swept(["lrr+signin", "rigl", "signin", "lrr-bn"])]
)
def test_two_ranks_save_four_go_on_then_one(tmp_path: Path, method: str) -> None:
    """Saved after the snapshot of the first run, and in the middle of a later run."""
    steps = Run(method, 0, 1, {}).scheduler.steps
    first, second = str(tmp_path / "two"), str(tmp_path / "four")
    stops = (steps // 3, 2 * steps // 3)
    launch(WORKER, 2, method, "none", first, str(stops[0]), "at once")
    launch(WORKER, 4, method, first, second, str(stops[1]), "at once")
    finished_as_if_never_stopped(method, second, stops[1])


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.filterwarnings(ALONE)
def test_a_file_of_one_process_goes_on_on_two(tmp_path: Path) -> None:
    run = Run("gmp", 0, 1, {})
    for _ in range(8):
        run.step()
    file, folder = tmp_path / "one.pt", tmp_path / "two"
    state = {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict(),
        "note": 8,
    }
    torch.save(state, file)
    launch(WORKER, 2, "gmp", str(file), str(folder), "16", "at once")
    again = Run("gmp", 0, 1, {})
    load_checkpoint(folder, again.model, again.optimizer, again.scheduler)
    while not run.scheduler.finished:
        run.step()
    while not again.scheduler.finished:
        again.step()
    assert difference(run.model, again.model) == 0


@pytest.mark.filterwarnings(ALONE)
def test_what_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    run = Run("gmp", 0, 1, {})
    parts = (run.model, run.optimizer, run.scheduler)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_checkpoint(tmp_path / "nothing", *parts)
    torch.save({"model": {}}, tmp_path / "half.pt")
    with pytest.raises(CheckpointError, match="has no optimizer, scheduler"):
        load_checkpoint(tmp_path / "half.pt", *parts)
    with pytest.raises(CheckpointError, match="a PosixPath cannot be saved"):
        save_checkpoint(tmp_path / "folder", *parts, extra={"path": tmp_path})
    save_checkpoint(tmp_path / "folder", *parts)
    other = Run("gmp", 0, 1, {"sparsity": 0.5})
    with pytest.raises(SchedulerError, match="sparsity"):
        load_checkpoint(
            tmp_path / "folder", other.model, other.optimizer, other.scheduler
        )
