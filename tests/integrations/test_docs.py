"""The page on trainers runs as it stands, and its trainings end where they should."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from sparsify_fx.masks import nonzeros

PAGE = (Path(__file__).parents[2] / "docs/trainers.md").read_text(encoding="utf-8")
SECTIONS = dict(
    re.findall(r"^(?:## (.+?)|# .+?)$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
)


def run(section: str, known: dict[str, Any]) -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL)
    assert blocks
    for block in blocks:
        exec(
            compile(block, f"docs/trainers.md, {section or 'the start'}", "exec"), known
        )
    return known


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return run("", {"__name__": "page"})


def test_every_section_is_run_here() -> None:
    with_code = {section for section, text in SECTIONS.items() if "```python" in text}
    assert with_code == {
        "",
        "Lightning",
        "Transformers",
        "Accelerate",
        "Early stopping and the best checkpoint",
    }


# Lightning's advice on workers, loggers and a folder that is there already.
@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.filterwarnings(
    "ignore:.*(does not have many workers|lightning_logs|exists and is not empty|TensorBoard)"
)
def test_lightning(start: dict[str, Any]) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    known = run("Lightning", start)
    sparse = known["model"].sparse
    assert sparse.finished
    assert sparse.nonzeros() == round(0.64 * (432 + 5760))
    assert Path("model.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.pin_memory. argument is set as true:UserWarning"
)  # where there is no GPU
def test_transformers(start: dict[str, Any]) -> None:
    known = run("Transformers", start)
    assert known["scheduler"].finished
    assert Path("run/checkpoint-8/scheduler.pt").is_file()
    masks = {
        name: p for name, p in known["model"].named_buffers() if name.endswith("mask")
    }
    assert nonzeros(masks) == round(0.1 * (432 + 5760))


def test_accelerate_and_the_best_checkpoint(start: dict[str, Any]) -> None:
    known = run("Accelerate", start)
    assert known["scheduler"].finished
    assert known["scheduler"].at_sparsity
    known["accelerator"].load_state("state")
    assert run("Early stopping and the best checkpoint", known)["score"] == 0.9
