"""docs/architecture.md names paths that exist, all rooms there are, and the places of twelve tasks."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()

PLACES = {
    "prunable": "programs/selection.py",
    "Sign-In": "parameterizations/product.py",
    "after a rewind": "scheduler/rates.py",
    "checkpoint of the scheduler": "scheduler/scheduler.py",
    "ERK": "allocations/shares.py",
    "regrown weight": "optimizer_states/clear.py",
    "`pack` left": "onnx_export/report/notes.py",
    "inputs that a file": "onnx_tools/feeds.py",
    "dead channels": "passes/onnx_graph/channels/removal.py",
    "worth a sparse kernel": "runtime/choice/cost.py",
    "run folder": "train/run_folder.py",
    "foreign file": "onnx_export/files/kinds.py",
}
WORDS = {  # what stands in the file, so that the answer is right and not only there
    "programs/selection.py": "def select_layers",
    "parameterizations/product.py": "class Product",
    "scheduler/rates.py": "restarts",
    "scheduler/scheduler.py": "def state_dict",
    "allocations/shares.py": "erk",
    "optimizer_states/clear.py": "regrown",
    "onnx_export/report/notes.py": "stay as they are",
    "onnx_tools/feeds.py": "def feeds",
    "passes/onnx_graph/channels/removal.py": "channels",
    "runtime/choice/cost.py": "def estimate",
    "train/run_folder.py": "class RunFolder",
    "onnx_export/files/kinds.py": "class Kind",
}


def test_every_path_exists() -> None:
    paths = re.findall(r"`((?:sparsify_fx|docs|tests)/[\w/.]+)`", PAGE)
    assert len(paths) > 60
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_room_is_on_the_map() -> None:
    rooms = [
        folder.name
        for folder in (ROOT / "sparsify_fx").iterdir()
        if (folder / "__init__.py").exists()
    ]
    assert [room for room in rooms if f"sparsify_fx/{room}/" not in PAGE] == []


def test_twelve_tasks_have_their_places() -> None:
    tasks = dict(re.findall(r"^\d+\. (.+): `sparsify_fx/(.+)`\.$", PAGE, re.MULTILINE))
    assert len(tasks) == len(PLACES) == 12
    for words, place in PLACES.items():
        (found,) = [path for task, path in tasks.items() if words in task]
        assert found == place
        assert WORDS[place] in (ROOT / "sparsify_fx" / place).read_text()
