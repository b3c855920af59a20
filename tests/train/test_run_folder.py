"""Run folders: names, locks, atomic files, and what a kill may leave behind."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sparsify_fx.errors import CheckpointError
from sparsify_fx.train import load_config
from sparsify_fx.train.files import write_atomically, write_text
from sparsify_fx.train.run_folder import RunFolder, find_folder, open_folder, run_path
from tests.fresh import run_fresh


def test_the_name_is_method_and_hash(tmp_path: Path) -> None:
    config = load_config("mnist5k-lenet5", ["method=signin+lrr"])
    assert run_path(tmp_path, config).name == f"lrr+signin-{config.hash()}"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    write_text(file, "old")

    def fail(stream: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, fail)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]
    write_text(file, "new")
    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o077 == 0o077 & 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_second_process_is_refused_and_the_lock_goes_with_the_first(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run"
    code = (
        "import sys, time; from pathlib import Path; from sparsify_fx.train.run_folder import open_folder\n"
        "with open_folder(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "locked"
        with (
            pytest.raises(CheckpointError, match="another process is training in"),
            open_folder(path),
        ):
            pass
        other.kill()
    with open_folder(path) as folder:
        assert folder.result() is None


def test_one_process_does_not_hold_a_folder_twice(tmp_path: Path) -> None:
    with open_folder(tmp_path):
        with (
            pytest.raises(CheckpointError, match="another process is training in"),
            open_folder(tmp_path),
        ):
            pass
        with (
            pytest.raises(CheckpointError, match="another process is training in"),
            open_folder(tmp_path),
        ):
            pass  # the refused one took nothing away
    with open_folder(tmp_path):
        pass


def test_a_run_that_fails_frees_its_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), open_folder(tmp_path):
        raise KeyError
    with open_folder(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lock: object, timeout: float) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.BaseFileLock.acquire", refuse)
    with (
        pytest.raises(CheckpointError, match=r"cannot lock .*: No locks available"),
        open_folder(tmp_path),
    ):
        pass


@pytest.mark.slow
def test_training_can_be_imported_where_there_is_no_fcntl() -> None:
    """As on Windows. filelock, which is asked nothing here, warns that its lock is then another."""
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); "
        "sys.modules['fcntl'] = None; import sparsify_fx.train"
    )
    done = run_fresh(code)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match="choose another --runs"),
        open_folder(tmp_path / "file" / "run"),
    ):
        pass


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        for epoch in (1, 2, 3):
            folder.append({"epoch": epoch, "loss": 0.5})
        with (tmp_path / "metrics.jsonl").open("a") as stream:
            stream.write('{"epoch": 4, "lo')  # killed in the middle of a line
        assert [row["epoch"] for row in folder.metrics()] == [1, 2, 3]
        folder.cut_metrics(2)
        assert [row["epoch"] for row in folder.metrics()] == [1, 2]
        folder.append({"epoch": 3, "loss": 0.25})
        assert [row["loss"] for row in folder.metrics()] == [0.5, 0.5, 0.25]


class _Dangerous:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_checkpoints_run_no_code_and_damage_is_told(tmp_path: Path) -> None:
    mark = tmp_path / "was-here"
    with open_folder(tmp_path) as folder:
        assert folder.checkpoint() is None
        folder.save_checkpoint({"epoch": 1, "model": {"w": torch.ones(2)}})
        state = folder.checkpoint()
        assert state is not None
        assert torch.equal(state["model"]["w"], torch.ones(2))
        whole = (tmp_path / "checkpoint.pt").read_bytes()
        for content in (
            whole[: len(whole) // 2],
            b"",
            pickle.dumps(_Dangerous(mark), protocol=2),
        ):
            (tmp_path / "checkpoint.pt").write_bytes(content)
            with pytest.raises(CheckpointError, match="train again with --force"):
                folder.checkpoint()
    assert not mark.exists()


def test_finish_writes_weights_before_the_result_and_clear_removes_all(
    tmp_path: Path,
) -> None:
    tied = torch.ones(2, 2)
    with open_folder(tmp_path) as folder:
        folder.finish({"a": tied, "b": tied, "c": tied.T}, {"method": "lrr"})
        assert folder.result() == {"method": "lrr"}
        assert set(safetensors.torch.load_file(tmp_path / "model.safetensors")) == {
            "a",
            "b",
            "c",
        }
        (tmp_path / "notes.txt").write_text("mine")
        folder.clear()
        assert sorted(os.listdir(tmp_path)) == [".lock", "notes.txt"]
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"result\.json cannot be read"):
        RunFolder(tmp_path).result()


def test_find_folder_takes_the_folder_or_a_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: lenet5")
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    assert (
        find_folder(tmp_path).path
        == find_folder(tmp_path / "checkpoint.pt").path
        == tmp_path
    )
    with pytest.raises(CheckpointError, match="does not exist"):
        find_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.yaml"):
        find_folder(tmp_path / "empty")
