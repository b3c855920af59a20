"""`.ci/lint` finds what is not clean and says what to do; `.ci/run` calls it before anything that takes minutes.

That this tree is clean is not tested here a second time: `.ci/run` says so within seconds, before it installs anything.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CPP = "sparsify_fx/runtime/csrc/a.cpp"
CLEAN = {"a.py": "import os\n\nprint(os.name)\n", CPP: "int one() { return 1; }\n"}


def lint(
    tree: Path, part: str, files: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """`.ci/lint` in a folder with these files and the settings of this one."""
    for name in (".ci/lint", "pyproject.toml", ".clang-format"):
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, encoding="utf-8")
    return subprocess.run(
        [tree / ".ci/lint", part], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("dirty", "remedy"),
    [
        ({}, None),
        (
            {"a.py": "import os\n"},
            '"ruff check ." failed; most of it goes with: ruff check --fix .',
        ),
        (
            {"a.py": "print( 1 )\n"},
            '"ruff format --check ." failed; run: .ci/lint format',
        ),
        (
            {CPP: "int one() {return 1;}\n"},
            '"cpp --dry-run --Werror" failed; run: .ci/lint format',
        ),
    ],
)
def test_what_is_not_clean_fails_and_the_remedy_is_named(
    dirty: dict[str, str], remedy: str | None, tmp_path: Path
) -> None:
    done = lint(tmp_path, "style", CLEAN | dirty)
    assert (done.returncode == 0) is (remedy is None), done.stdout + done.stderr
    assert remedy is None or remedy in done.stderr


def test_the_remedy_for_the_format_works(tmp_path: Path) -> None:
    assert (
        lint(
            tmp_path, "format", {"a.py": "print( 1 )\n", CPP: "int one() {return 1;}\n"}
        ).returncode
        == 0
    )
    assert lint(tmp_path, "style", {}).returncode == 0
    assert (tmp_path / CPP).read_text(encoding="utf-8") == CLEAN[CPP]


def test_ci_lints_first_and_runs_both_halves_of_the_command_of_readme() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    order = (
        ".ci/lint style",
        'eval "${command%% && *}"',
        ".ci/lint types",
        'eval "${command#* && }"',
    )
    places = [script.index(step) for step in order]
    assert places == sorted(places)
    assert '\npip install ".[test]" && pytest\n' in (ROOT / "README.md").read_text(
        encoding="utf-8"
    )
