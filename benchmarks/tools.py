"""What other tools do with files of this package: docs/results/tools.json, and the tables in docs/deployment.md.

    python -m benchmarks.tools                    # all; makes an environment for each under --folder; half an hour
    python -m benchmarks.tools --only onnxsim --only tract
    python -m benchmarks.tools --page             # only write the page from the results again

Each tool gets small networks in every form in which weights are stored (`benchmarks/tool_files.py`), and what it makes
of them runs in onnxruntime (`benchmarks/tool_outcomes.py`). It works in a process of its own with a time limit; where
that dies, the file is noted and another process goes on behind it. `sparsify-fx check` tells a user the same out of
`sparsify_fx/onnx_export/tools`; a test compares both.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.runtimes import PACKAGES, version
from benchmarks.tool_files import KINDS, make
from benchmarks.tool_outcomes import outcome
from benchmarks.tools_page import write_page
from sparsify_fx.onnx_export.tools import traits_of
from sparsify_fx.training_cost.surroundings import surroundings

HERE = Path(__file__).parent
RAW = HERE.parent / "docs/results/tools.json"
RUNNER = HERE / "tool_runners.py"
SECONDS = 120
"""For one file; what takes longer counts as dead."""


@dataclass(frozen=True)
class Environment:
    """Packages of pip, of which the first gives the version, and of npm; `bare`: without what they require."""

    packages: tuple[str, ...]
    node: str = ""
    bare: bool = False


ENVIRONMENTS = {
    "onnx": Environment(("onnx", "onnxruntime", "sympy")),
    "onnxconverter": Environment(("onnxconverter-common", "onnx", "onnxruntime")),
    "onnxsim": Environment(("onnxsim", "onnxruntime")),
    "onnxslim": Environment(("onnxslim", "onnxruntime")),
    "onnxoptimizer": Environment(("onnxoptimizer", "onnxruntime")),
    "onnx2torch": Environment(("onnx2torch",)),
    "coremltools": Environment(("coremltools",)),
    "web": Environment(("numpy",), node="onnxruntime-web"),
    **{
        name: Environment(packages, bare=name == "ncnn")
        for name, packages in PACKAGES.items()
        if name != "onnxruntime"
    },
}

BY_ONNX = (
    "onnx-infer-shapes", "onnx-full-check", "onnx-version-converter", "onnx-extract-model", "onnx-compose",
    "onnx-reference", "onnx-save-external",
)  # fmt: skip
BY_ONNXRUNTIME = (
    "onnxruntime", "onnxruntime-graph", "onnxruntime-ort", "quant-pre-process", "quantize-dynamic",
    "quantize-static", "float16-onnxruntime",
)  # fmt: skip
LIVES_IN = {
    **dict.fromkeys(BY_ONNXRUNTIME, ("onnx", "onnxruntime")),
    "onnxruntime-web": ("web", "onnxruntime-web"),
    "onnxsim": ("onnxsim", "onnxsim"),
    "onnxslim": ("onnxslim", "onnxslim"),
    "onnxoptimizer": ("onnxoptimizer", "onnxoptimizer"),
    **dict.fromkeys(BY_ONNX, ("onnx", "onnx")),
    "float16-onnxconverter": ("onnxconverter", "onnxconverter-common"),
    **{name: (name, PACKAGES[name][0]) for name in PACKAGES if name != "onnxruntime"},
    "onnx2torch": ("onnx2torch", "onnx2torch"),
    "coremltools": ("coremltools", "coremltools"),
}
"""The environment of each tool, and the package whose version counts."""


def environment(name: str, folder: Path) -> Path:
    """The Python of an environment with these packages, made where there is none."""
    place, wanted = folder / name, ENVIRONMENTS[name]
    python = place / "bin/python"
    if not python.exists():
        venv.create(place, with_pip=True)
        for package in wanted.packages:
            # pnnx requires torch, which only its wrapper imports.
            more = ["--no-deps"] if wanted.bare and package != "numpy" else []
            pip = [python, "-m", "pip", "install", "-q", *more, package]
            subprocess.run([*map(str, pip)], check=True)
        if wanted.node:
            (place / "package.json").write_text("{}")
            subprocess.run(["npm", "install", "-s", wanted.node], cwd=place, check=True)
    return python


def version_of(tool: str, python: Path) -> str:
    """Of the package that counts, of pip or of npm."""
    place, package = LIVES_IN[tool]
    if ENVIRONMENTS[place].node:
        manifest = python.parents[1] / "node_modules" / package / "package.json"
        return str(json.loads(manifest.read_text())["version"])
    return version(python, package)


def worked(tool: str, python: Path, files: list[Path]) -> dict[Path, dict[str, Any]]:
    """What the tool made of each file; one at which its process died is told so, and the next process goes on."""
    found: dict[Path, dict[str, Any]] = {}
    while left := [file for file in files if file not in found]:
        lines = left[0].parent.parent / f"{tool}.jsonl"
        lines.write_text("")
        died = _process(tool, python, lines, left)
        told = [json.loads(line) for line in lines.read_text().splitlines()]
        found |= {Path(each["file"]): each for each in told}
        if died and len(told) < len(left):
            found[left[len(told)]] = {"died": died}
    return found


def _process(tool: str, python: Path, lines: Path, files: list[Path]) -> str:
    """Run the tool on these files; why it ended early, or an empty word."""
    # Its own environment alone on the PATH: MNN's converter installs a package into the first one that it finds.
    path = os.pathsep.join([str(python.parent), "/usr/bin", "/bin"])
    surrounds = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    surrounds.pop("PYTHONPATH", None)
    command = [str(each) for each in (python, RUNNER, tool, lines, *files)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=surrounds, cwd=lines.parent
    ) as process:  # fmt: skip
        size, since = -1, time.monotonic()
        while process.poll() is None:
            # Each file that is done makes the list longer.
            if lines.stat().st_size != size:
                size, since = lines.stat().st_size, time.monotonic()
            if time.monotonic() - since > SECONDS:
                process.kill()
                return f"did not end within {SECONDS} seconds"
            time.sleep(0.1)
    if process.returncode < 0:
        return signal.Signals(-process.returncode).name
    return f"exit code {process.returncode}" if process.returncode else ""


def dense_of(kind: str, files: dict[str, Path]) -> Path:
    """The dense file of the same network; for a kind that is dense, its own."""
    source = KINDS[kind][0]
    plain = (name for name, (made, options) in KINDS.items() if made is source and options is None)  # fmt: skip
    return files[next(plain, kind)]


def row(tool: str, python: Path, files: dict[str, Path]) -> dict[str, Any]:
    """The version of a tool and, for each kind of file, what became of it."""
    made, kinds = worked(tool, python, list(files.values())), {}
    for kind, file in files.items():
        dense = dense_of(kind, files)
        # A tool that gave nothing for the dense file is compared with that file.
        model = made[dense].get("model")
        baseline = dense.parent / model if model else dense
        kinds[kind] = outcome(tool, traits_of(file), made[file], file, baseline)
    return {"version": version_of(tool, python), "kinds": kinds}


def files_in(folder: Path) -> dict[str, Path]:
    """A file of every kind."""
    return {kind: make(kind, folder / str(at)) for at, kind in enumerate(KINDS)}


def as_text(results: dict[str, Any]) -> str:
    """JSON with one line for each kind of file, so that changes are seen in a diff."""
    lines: list[str] = []
    for line in json.dumps(results, indent=1).splitlines():
        # What is deeper than a kind, and what closes it, goes on in its line.
        if line.startswith(("     ", "    }")):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def measure(tools: Sequence[str], folder: Path, results: dict[str, Any]) -> None:
    """Run these tools on every kind of file; results are written after each, as one may take minutes."""
    with tempfile.TemporaryDirectory() as place:
        files = files_in(Path(place))
        results["kinds"] = {kind: sorted(traits_of(each)) for kind, each in files.items()}  # fmt: skip
        results["surroundings"] = surroundings()
        for tool in tools:
            python = environment(LIVES_IN[tool][0], folder)
            found = results["rows"] | {tool: row(tool, python, files)}
            results["rows"] = {name: found[name] for name in LIVES_IN if name in found}
            RAW.write_text(as_text(results), encoding="utf-8")
            print(tool, results["rows"][tool]["version"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(LIVES_IN))
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/tools"))
    options = parser.parse_args()
    results: dict[str, Any] = {"rows": {}}
    if RAW.exists():
        results = json.loads(RAW.read_text(encoding="utf-8"))
    if not options.page:
        measure(options.only or list(LIVES_IN), options.folder.absolute(), results)
    write_page(results)


if __name__ == "__main__":
    main()
