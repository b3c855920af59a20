"""Trainings that are saved by some processes and go on on others."""

from __future__ import annotations

import pickle
import resource
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


@pytest.mark.sweep
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
    torch.save({"model": {}, "optimizer": {}, "scheduler": {}}, tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    for file, words in (("empty.pt", "no state of a Sched"), ("text.pt", "be read")):
        with pytest.raises((CheckpointError, SchedulerError), match=words):
            load_checkpoint(tmp_path / file, *parts)


@pytest.mark.filterwarnings(ALONE)
@pytest.mark.parametrize("as_file", [False, True])
def test_another_schedule_or_model_changes_nothing(
    tmp_path: Path, as_file: bool
) -> None:
    run, path = Run("gmp", 0, 1, {}), tmp_path / "saved"
    for _ in range(3):
        run.step()
    names = ("model", "optimizer", "scheduler")
    if as_file:
        torch.save({name: getattr(run, name).state_dict() for name in names}, path)
    else:
        save_checkpoint(path, run.model, run.optimizer, run.scheduler)
    other = Run("gmp", 0, 1, {"sparsity": 0.5})
    wider = Run("gmp", 0, 1, {})
    wider.model.register_buffer("more", torch.zeros(2))
    for odd, kind, words in (
        (other, SchedulerError, "sparsity"),
        (wider, CheckpointError, "more is missing"),
    ):
        before = {k: v.clone() for k, v in odd.model.state_dict().items()}
        with pytest.raises(kind, match=words):
            load_checkpoint(path, odd.model, odd.optimizer, odd.scheduler)
        assert odd.scheduler.step_count == 0
        for key, value in odd.model.state_dict().items():
            assert value.equal(before[key]), key


@pytest.mark.filterwarnings(ALONE)
def test_a_checkpoint_stands_until_the_next_one_is_whole(tmp_path: Path) -> None:
    run, folder = Run("gmp", 0, 1, {}), tmp_path / "folder"
    parts = (run.model, run.optimizer, run.scheduler)
    run.step()
    save_checkpoint(folder, *parts, extra={"step": 1})
    (folder / "notes.txt").write_text("of the user")
    run.step()

    # A limit of the system stands for a full disk: the second checkpoint breaks off in the middle of its file.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="before is still there"):
            save_checkpoint(folder, *parts, extra={"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    fresh = Run("gmp", 0, 1, {})
    them = (fresh.model, fresh.optimizer, fresh.scheduler)
    assert load_checkpoint(folder, *them) == {"step": 1}

    save_checkpoint(folder, *parts, extra={"step": 2})
    assert load_checkpoint(folder, *them) == {"step": 2}
    assert difference(run.model, fresh.model) == 0
    # What the other two have left is gone, and nothing else.
    kinds = sorted(file.suffix or file.name for file in folder.iterdir())
    assert kinds == [".distcp", ".metadata", ".txt"]


@pytest.mark.filterwarnings(ALONE)
def test_code_that_is_pickled_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    run, folder = Run("gmp", 0, 1, {}), tmp_path / "folder"
    save_checkpoint(folder, run.model, run.optimizer, run.scheduler)

    class Bad:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.mkdir, (tmp_path / "was_run",)

    (folder / ".metadata").write_bytes(pickle.dumps(Bad()))
    with pytest.raises(CheckpointError, match="it names"):
        load_checkpoint(folder, run.model, run.optimizer, run.scheduler)
    assert not (tmp_path / "was_run").exists()
