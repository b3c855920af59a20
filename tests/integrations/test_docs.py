"""The page on trainers runs as it stands: three lines make plain scripts sparse; they end exactly and are exported."""

from __future__ import annotations

import difflib
import logging
import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from sparsify_fx.onnx_export import unpack_onnx

PAGE = (Path(__file__).parents[2] / "docs/trainers.md").read_text(encoding="utf-8")
SECTIONS = dict(
    re.findall(r"^(?:## (.+?)|# .+?)$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
)
TRAINERS = {"Lightning": 619, "Transformers": None, "Accelerate": 619, "timm": 619}
BEST = "Early stopping and the best checkpoint"


def blocks_of(section: str) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL)
    assert found
    return found


def run(section: str, blocks: list[str], known: dict[str, Any]) -> dict[str, Any]:
    for block in blocks:
        exec(
            compile(block, f"docs/trainers.md, {section or 'the start'}", "exec"), known
        )
    return known


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return run("", blocks_of(""), {"__name__": "page"})


def test_every_section_is_run_here() -> None:
    with_code = {section for section, text in SECTIONS.items() if "```python" in text}
    assert with_code == {"", *TRAINERS, BEST, "By hand"}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_plain_script_becomes_a_sparse_one_by_three_lines(trainer: str) -> None:
    plain, sparse, *_ = blocks_of(trainer)
    lines = list(difflib.ndiff(plain.splitlines(), sparse.splitlines()))
    assert 1 <= sum(line.startswith("+ ") for line in lines) <= 3
    # What is taken away comes back, changed.
    assert sum(line.startswith("- ") for line in lines) <= 1
    assert "sparsify_fx" not in plain


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning",
    "ignore:.*(many workers|lightning_logs|exists and is not empty|TensorBoard|pin_memory)",
)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_sparse_script_ends_exactly_and_is_exported(
    trainer: str, start: dict[str, Any]
) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    known = run(trainer, blocks_of(trainer)[1:], start)
    scheduler = known["sparse"].scheduler
    assert scheduler.finished
    # merged: plain weights, as many as were asked for
    model = known["net" if trainer == "Accelerate" else "model"]
    weights = [p for n, p in model.named_parameters() if p.dim() > 1 and "emb" not in n]
    asked = TRAINERS[trainer]
    kept = scheduler.nonzeros()
    assert asked in (None, kept)
    assert kept == round(scheduler.total_weights * (0.64 if asked is None else 0.1))
    assert 0 <= kept - sum(int(w.count_nonzero()) for w in weights) <= 0.01 * kept or (
        trainer == "Transformers"
    )
    # the file, in onnxruntime, beside the model
    file = Path(f"{trainer.lower()}.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    images = torch.randn(1, 3, 8, 8)
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    model.eval()
    with torch.no_grad():
        outputs = getattr(model, "net", model)(images)
    torch.testing.assert_close(
        torch.from_numpy(found),
        getattr(outputs, "logits", outputs),
        rtol=1e-4,
        atol=1e-4,
    )
    unpack_onnx(file, "plain.onnx")


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning",
    "ignore:.*(many workers|lightning_logs|exists and is not empty|TensorBoard)",
)
def test_by_hand_and_the_best_checkpoint(start: dict[str, Any]) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    import lightning

    known = run("By hand", blocks_of("By hand"), start | {"lightning": lightning})
    assert known["by_hand"].sparse.finished
    assert known["by_hand"].sparse.nonzeros() == round(0.64 * (432 + 5760))
    known["sparse"] = type("Sparse", (), {"scheduler": known["by_hand"].sparse})
    assert run(BEST, blocks_of(BEST), known)["score"] == 0.9
