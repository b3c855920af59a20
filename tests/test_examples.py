"""The examples run as they stand, at reduced size, in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fresh import run_fresh

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(tmp_path: Path, *command: str) -> str:
    script = str(EXAMPLES / command[0])
    code = (
        "import runpy, warnings; warnings.filterwarnings('error', category=UserWarning, module='__main__'); "
        f"runpy.run_path({script!r}, run_name='__main__')"
    )
    done = run_fresh(code, *command[1:], folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_plain_loop_and_its_file_in_onnxruntime(tmp_path: Path) -> None:
    out = run(tmp_path, "plain_loop.py", "--epochs", "2")
    assert "smaller than dense" in out
    assert float(out.split("test accuracy ")[-1].split("\n")[0]) > 0.85
    assert "(2, 10)" in run(tmp_path, "run_onnx.py", "digits.onnx")


@pytest.mark.sweep
def test_lrr_cycles(tmp_path: Path) -> None:
    out = run(tmp_path, "lrr_cycles.py", "--epochs", "1", "--sparsity", "0.36")
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "cycle 0",
        "cycle 1",
        "cycle 2",
    ]
    assert "density 0.6400" in out


@pytest.mark.sweep
def test_sparsify_timm(tmp_path: Path) -> None:
    out = run(tmp_path, "sparsify_timm.py")
    assert "density 0.2000" in out
    assert (tmp_path / "mobilenetv3_small_100.onnx").is_file()


def test_every_example_is_run_here() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {
        "plain_loop.py",
        "run_onnx.py",
        "lrr_cycles.py",
        "sparsify_timm.py",
    }
    assert all(
        f'"{name}"' in Path(__file__).read_text(encoding="utf-8") for name in names
    )


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name
)
def test_examples_are_short_and_explain_themselves(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert f"python examples/{path.name}" in text
    assert len(text.splitlines()) < 70
