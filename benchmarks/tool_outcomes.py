"""What a tool made of a file, in one word: its result against the file's own output and size.

works     right outputs (float16 and 8 bits: as near as those of the dense file), and as small as before
slow      right, but onnxruntime, or the runtime itself, rebuilds the weights in every run
ignored   right, but what the tool is for did not happen to the packed weights
undone    right, and the weights are dense again
refused   an error
wrong     outputs that differ, without a word
died      the process ended, or did not end in time
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from sparsify_fx import runtime
from sparsify_fx.onnx_export.profiles import PROFILES

REBUILDING = {"Concat", "CumSum", "Gather", "MaxUnpool", "ScatterElements", "Scan"}
"""Operators that the networks have not: in a graph that runs, weights are rebuilt there."""

TOLERANCE = {"float16": 1e-2, "quant": 0.15}
"""Of the largest output, by what a tool's name begins with; others: `EXACT`."""
EXACT = 1e-4


def outcome(
    tool: str, traits: frozenset[str], found: dict[str, Any], file: Path, dense: Path
) -> dict[str, Any]:
    """The word and what it rests on; `dense`: what the same tool made of the dense file of this network."""
    if "died" in found or "refused" in found:
        word = "died" if "died" in found else "refused"
        return {"outcome": word, "said": _short(found[word], file)}
    limit = next(
        (each for key, each in TOLERANCE.items() if tool.startswith(key)), EXACT
    )
    expected = np.load(file.parent / "expected.npy")
    # 1. A runtime's own output.
    if "output" in found:
        difference = _difference(np.load(file.parent / found["output"]), expected)
        if difference is None or difference > limit:
            return {"outcome": "wrong", "difference": difference}
        word = "slow" if _again(tool, traits) else "works"
        return {"outcome": word, "difference": difference}
    # 2. A check that gives nothing.
    if "model" not in found:
        return {"outcome": "works"}
    # 3. A model: in onnxruntime.
    made = file.parent / found["model"]
    told = _of_model(file, made, dense, expected, limit)
    if tool == "onnx-infer-shapes" and _shapes(dense) - _shapes(made):
        told["outcome"] = "ignored"
    return told


def _of_model(
    file: Path, made: Path, dense: Path, expected: NDArray[Any], limit: float
) -> dict[str, Any]:
    try:
        output, rebuilds = _run(made, np.load(file.parent / "given.npy"))
    except Exception as error:
        # onnxruntime raises a dozen classes; all say that it does not take the file.
        said = f"onnxruntime does not load the result: {error}"
        return {"outcome": "refused", "said": _short(said, file)}
    difference = _difference(output, expected)
    sizes = {"before": _bytes(file), "after": _bytes(made)}
    found = {"difference": difference, **sizes}
    if difference is None or difference > limit:
        return {"outcome": "wrong", **found}
    return {"outcome": _by_size(file, dense, made, rebuilds), **found}


def _by_size(file: Path, dense: Path, made: Path, rebuilds: bool) -> str:
    """The word for right outputs, from the sizes of both files before and after."""
    plain = _bytes(dense.parent / "model.onnx")
    before, after, other = _bytes(file), _bytes(made), _bytes(dense)
    packed = before < 0.6 * plain
    if packed and after > 2 * before and after > 0.7 * other:
        return "undone"
    if packed and other < 0.7 * plain and after > 0.9 * before:
        return "ignored"
    return "slow" if rebuilds else "works"


def _run(file: Path, given: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """The first output in onnxruntime, and whether weights are rebuilt when it runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Without it a tool that leaves sparse operators alone would look as if it broke them.
    options.register_custom_ops_library(str(runtime.library()))
    with tempfile.TemporaryDirectory() as folder:
        # Of an .ort file no graph can be saved; it is one that was saved before.
        graph = Path(folder) / "graph.onnx" if file.suffix == ".onnx" else None
        if graph is not None:
            options.optimized_model_filepath = str(graph)
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        first = session.get_inputs()[0]
        half = "float16" in first.type
        x = given.astype(np.float16) if half else given
        output = session.run(None, {first.name: x})[0]
        kinds = (
            set()
            if graph is None
            else {
                node.op_type
                for node in onnx.load(graph, load_external_data=False).graph.node
            }
        )
    return np.asarray(output, np.float32), bool(kinds & REBUILDING)


def _shapes(file: Path) -> set[str]:
    """The values whose shapes a file tells."""
    return {item.name for item in onnx.load(str(file)).graph.value_info}


def _again(tool: str, traits: frozenset[str]) -> bool:
    """Whether the runtime is known to rebuild weights stored so in every run (docs/results/runtimes.md)."""
    profile = PROFILES.get(tool)
    if profile is None or tool == "onnxruntime":
        return False
    encodings = traits & {"gap", "bitmask"}
    values = traits & {"fp32-packed", "fp16", "int8"}
    return not (encodings <= set(profile.encodings) and values <= set(profile.values))


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float | None:
    """The largest difference, of the largest output; None where sizes differ, or numbers are NaN or Inf."""
    if found.size != expected.size or not np.isfinite(found).all():
        return None
    largest = np.abs(found.reshape(-1) - expected.reshape(-1)).max()
    return float(f"{largest / np.abs(expected).max():.1e}")


def _bytes(file: Path) -> int:
    """With its external data."""
    size = file.stat().st_size
    for name in ("model.data", f"{file.name}.data"):
        beside = file.parent / name
        if beside.exists() and name.encode() in file.read_bytes():
            size += beside.stat().st_size
    return size


def _short(said: str, file: Path) -> str:
    """The first words of an error that say something, without places of this machine."""
    text = " ".join(said.replace(str(file.parent), "").split())
    # What onnxruntime begins every error with.
    text = re.sub(r"(Load model from \S* failed: ?)?\[ONNXRuntimeError\][ :\d]+[A-Z_]+ : ", "", text)  # fmt: skip
    text = re.sub(r"Load model from \S* ?failed: ?", "", text)
    words = [word for word in text.split(" ") if not re.search(r"/(tmp|root|work|mnt)/", word)]  # fmt: skip
    return " ".join(words)[:200]
