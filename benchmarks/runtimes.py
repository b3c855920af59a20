"""Profiles against the runtimes themselves: docs/results/runtimes.md and .json.

    python -m benchmarks.runtimes                        # all; makes an environment for each under --folder, minutes
    python -m benchmarks.runtimes --only tract --only mnn
    python -m benchmarks.runtimes --page                 # only write the page from the results again

A small convolutional network of 3 million weights, 90 % zeros, as `target=NAME` stores it and dense, is loaded by the
runtime; outputs are compared with those of the dense file in onnxruntime. Times are the least of many runs, both files
in turn in one process. For runtimes whose files are dense the row tells what a packed one would take.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.training_cases import machine
from sparsify_fx.onnx_export import pack_onnx
from sparsify_fx.onnx_export.profiles import PROFILES
from sparsify_fx.training_cost.surroundings import surroundings

HERE = Path(__file__).parent
FOLDER = HERE.parent / "docs/results"
RAW = FOLDER / "runtimes.json"
RUNNER = HERE / "runtime_runners.py"
OPSET, DENSITY = 20, 0.1

PACKAGES: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "tract": ("tract", "numpy"),
    "iree": ("iree-base-compiler", "iree-base-runtime", "onnx"),
    "tvm": ("apache-tvm", "onnx"),
    "mnn": ("MNN",),
    "ncnn": ("pnnx", "ncnn", "numpy"),
}
"""What to install for each; the first is the one whose version counts. pnnx without torch, which it does not need."""

PAGE = """# Runtimes, measured

What `target=NAME` writes for each runtime, loaded and run by it: a convolutional network of 3 million weights at 90 %
zeros, opset {opset}. *Difference* is from the dense file in onnxruntime, of the largest output. *Run* is the time of an
inference against the dense file in the same process: at 1.0 the weights are constants, above it they are decoded in
every run.

{table}

Made by `python -m benchmarks.runtimes`. {machine} Raw results: `docs/results/runtimes.json`.
"""


def pruned(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Values away from zero at `DENSITY`."""
    values = rng.standard_normal(shape) * 0.1
    values = np.sign(values) * (0.02 + np.abs(values))
    return np.where(rng.random(shape) < DENSITY, values, 0).astype(np.float32)


def network() -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """x [1, 3, 16, 16] -> y [1, 100], the largest weight 512 x 512 x 3 x 3; and an input."""
    rng = np.random.default_rng(0)
    sides, value, nodes, weights = (3, 32, 64, 512, 512), "x", [], {}
    for at, (given, made) in enumerate(itertools.pairwise(sides)):
        weights[f"w{at}"] = pruned(rng, made, given, 3, 3)
        stride = 1 if at == 0 else 2
        nodes += [
            helper.make_node(
                "Conv", [value, f"w{at}"], [f"c{at}"],
                kernel_shape=[3, 3], pads=[1] * 4, strides=[stride] * 2,
            ),
            helper.make_node("Relu", [f"c{at}"], [f"r{at}"]),
        ]  # fmt: skip
        value = f"r{at}"
    weights["fc"] = pruned(rng, 100, 512)
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc"], ["y"], transB=1),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 16, 16]), ("y", [1, 100]))
    ]
    tensors = [numpy_helper.from_array(each, name) for name, each in weights.items()]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", OPSET)]
    given = rng.standard_normal((1, 3, 16, 16)).astype(np.float32)
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), given


def environment(name: str, folder: Path) -> Path:
    """The Python of an environment with this runtime, made where there is none."""
    place = folder / name
    python = place / "bin/python"
    if not python.exists():
        venv.create(place, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q"]
        # One by one: pnnx requires torch, which only its wrapper imports.
        for package in PACKAGES[name]:
            more = ["--no-deps"] if package in ("pnnx", "ncnn") else []
            subprocess.run([*pip, *more, package], check=True)
    return python


def version(python: Path, package: str) -> str:
    """The installed version of a package in another interpreter."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    found = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def run_in(
    python: Path, name: str, files: Sequence[Path], given: NDArray[np.float32]
) -> tuple[list[NDArray[np.float32]], list[dict[str, float]]]:
    """The output of each file and its times there; RuntimeError with the runtime's last words."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "x.npy", Path(folder) / "y.npz"
        np.save(source, given)
        command = [python, RUNNER, name, source, target, *files]
        # MNN's converter installs a package with the first pip that it finds: let it be its own
        # (findings/mnn_converter_installs_a_package.sh).
        path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
        done = subprocess.run(
            [*map(str, command)],
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "PATH": path},
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["killed"])[-1]
            raise RuntimeError(f"{name}: {said[:300]}")
        found: list[dict[str, float]] = json.loads(done.stdout.strip().splitlines()[-1])
        saved = np.load(target)
        return [saved[key].reshape(1, -1) for key in saved.files], found


def tried(name: str, python: Path, folder: Path) -> dict[str, Any]:
    """One row: the profile's file, or the packed one where that is dense, against the dense file."""
    model, given = network()
    dense, packed, gap = (folder / f"{each}.onnx" for each in ("dense", name, "gap"))
    onnx.save(model, dense)
    pack_onnx(dense, packed, target=name)
    pack_onnx(dense, gap, encoding="gap")
    stays_dense = PROFILES[name].encodings == ("dense",)
    files = [dense, gap if stays_dense else packed]
    (expected,), _ = run_in(Path(sys.executable), "onnxruntime", [dense], given)
    (_, output), (plain, other) = run_in(python, name, files, given)
    difference = np.abs(output - expected).max() / np.abs(expected).max()
    return {
        "version": version(python, PACKAGES[name][0]),
        "bytes_dense": dense.stat().st_size,
        "bytes_file": packed.stat().st_size,
        "bytes_gap": gap.stat().st_size,
        "dense_only": stays_dense,
        "difference": float(difference),
        **{f"dense_{unit}": value for unit, value in plain.items()},
        **{f"other_{unit}": value for unit, value in other.items()},
    }


def page(results: dict[str, Any]) -> str:
    """The page as Markdown."""
    lines = [
        "| target | version | file, KB (dense, `gap`) | difference | load, s (dense) | run |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results["rows"].items():
        if "error" in row:
            lines.append(f"| `{name}` | | {row['error']} | | | |")
            continue
        size = f"{row['bytes_file'] / 1e3:,.0f} ({row['bytes_dense'] / 1e3:,.0f}, {row['bytes_gap'] / 1e3:,.0f})"
        ratio = row["other_run_ms"] / row["dense_run_ms"]
        run = f"dense; packed {ratio:.2f}" if row["dense_only"] else f"{ratio:.2f}"
        load = f"{row['other_load_s']:.2f} ({row['dense_load_s']:.2f})"
        lines.append(
            f"| `{name}` | {row['version']} | {size} | {row['difference']:.0e} | {load} | {run} |"
        )
    about = machine(results["surroundings"])
    return PAGE.format(opset=OPSET, table="\n".join(lines), machine=about)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(PACKAGES))
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/runtimes"))
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(RAW.read_text()) if RAW.exists() else {"rows": {}}  # fmt: skip
    for name in () if options.page else options.only or PACKAGES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                python = environment(name, options.folder)
                row = tried(name, python, Path(folder))
            except (RuntimeError, subprocess.SubprocessError) as error:
                row = {"error": str(error)}
        print(f"{name}: {row}", flush=True)
        results["rows"][name] = row
    if not options.page:
        results["surroundings"] = surroundings()
        order = [name for name in PACKAGES if name in results["rows"]]
        results["rows"] = {name: results["rows"][name] for name in order}
        RAW.write_text(json.dumps(results, indent=1) + "\n")
    (FOLDER / "runtimes.md").write_text(page(results))


if __name__ == "__main__":
    main()
