"""How models that public packages ship fare: pruned by magnitude, packed, unpacked, and made sparse operators.

    pip download --no-deps -d models rapidocr-onnxruntime==1.4.4        # wheels and npm's .tgz are read as they are
    python -m benchmarks.public_models models                           # or a folder of .onnx files
    python -m benchmarks.public_models models --shape rec_infer::x=1,3,48,320 --axis batch=1 --out docs/results
    python -m benchmarks.public_models --page docs/results              # only write the page from the results again

Each file runs in a process of its own with a limit of time. Every weight is pruned to --sparsity, tensor by tensor
(see prune_onnx.py), wherever it lies. `packed` over `bytes` is what `pack` leaves of the pruned file; `bits`: whether
`unpack` gives every tensor of the pruned file back; `layers`: those that `--target sparse-ort` makes sparse; the times
are medians of processor time of runs of the dense and the sparse file in turn, one thread, at the sizes given or made
up; `pack`: its seconds. At the end it says which files broke a promise: an error, a file that grew, bits that differ, a
run slower than dense.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from benchmarks.prune_onnx import first_difference, prune
from sparsify_fx.onnx_export import pack_onnx, unpack_onnx

NAME = "public_models"
NOISE = 1.05
"""A sparse file may take so much of the dense one's time and still count as no slower."""

ABOUT = """\
{models} ONNX files that {packages} packages of PyPI and npm ship. Each weight is pruned by magnitude to {zeros} zeros,
tensor by tensor, wherever it lies: initializers, Constant nodes, branches, 8-bit weights with their zero points. The
models are no part of this package and were not trained after pruning, so their outputs are of no use: what is measured
is the file. `bytes` is the pruned file, `packed` what `sparsify-fx pack` makes of it, `bits` whether `unpack` gives all
tensors back, `layers` how many weights became sparse operators with `{target}`. Times are medians of processor
time of runs of the dense and the sparse file in turn on one thread, `pack s` the seconds of packing with all checks.
Made with `python -m benchmarks.public_models FOLDER`, whose help says how to get the files; sizes of inputs and notes
are in [the raw results]({name}.json)."""

Row = dict[str, Any]
Model = tuple[str, str, bytes]  # package, file, content


def models_in(folder: Path) -> Iterator[Model]:
    """The ONNX files below a folder and in its archives, each content once."""
    seen = set()
    for package, name, content in _all(folder):
        mark = hashlib.sha256(content).hexdigest()
        if mark not in seen:
            seen.add(mark)
            yield package, name, content


def _all(folder: Path) -> Iterator[Model]:
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".onnx":
            yield path.parent.name, path.name, path.read_bytes()
        elif path.suffix in (".whl", ".zip"):
            package = "==".join(path.name.split("-")[:2])
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".onnx"):
                        yield package, Path(name).name, archive.read(name)
        elif path.suffix == ".tgz":
            with tarfile.open(path) as archive:
                for member in archive.getmembers():
                    file = (
                        archive.extractfile(member)
                        if member.name.endswith(".onnx")
                        else None
                    )
                    if file is not None:
                        yield path.stem, Path(member.name).name, file.read()


def measured(path: Path, options: argparse.Namespace) -> Row:
    """All that is told of one file; errors pass through."""
    model = onnx.load(path)
    zeros, entries = prune(model, options.sparsity)
    inputs = {item.name for item in model.graph.input}
    names = {
        dim.dim_param
        for item in model.graph.input
        for dim in item.type.tensor_type.shape.dim
    }
    shapes = {name: shape for name, shape in options.shape if name in inputs}
    axes = {name: length for name, (length,) in options.axis if name in names}
    sizes: dict[str, Any] = {"input_shapes": shapes, "axes": axes}
    with tempfile.TemporaryDirectory() as folder:
        pruned, packed, plain, sparse = (
            Path(folder) / f"{name}.onnx"
            for name in ("pruned", "packed", "plain", "sparse")
        )
        pruned.write_bytes(model.SerializeToString())
        start = time.perf_counter()
        report = pack_onnx(pruned, packed, values=options.values, **sizes)
        seconds = time.perf_counter() - start
        unpack_onnx(packed, plain)
        row: Row = {
            "made_by": f"{model.producer_name} {model.producer_version}".strip(),
            "pruned_entries": entries,
            "sparsity": zeros / max(1, entries),
            "bytes": pruned.stat().st_size,
            "bytes_packed": packed.stat().st_size,
            "pack_seconds": seconds,
            "max_rel_difference": report.max_rel_difference,
            "differs": first_difference(onnx.load(pruned), onnx.load(plain)),
            "notes": list(report.notes),
        }
        start = time.perf_counter()
        fast = pack_onnx(
            pruned,
            sparse,
            target="sparse-ort",
            autotune=options.autotune,
            measure=options.times,
            **sizes,
        )
        row |= {
            "sparse_pack_seconds": time.perf_counter() - start,
            "sparse_layers": len(fast.sparse_layers),
            "weights": sum(layer.prunable for layer in fast.layers),
            "sparse_notes": list(fast.notes),
            "sparse_bytes": sparse.stat().st_size,
        }
        if fast.speed is not None:
            row |= {
                "dense_ms": 1e3 * fast.speed.latency_dense,
                "sparse_ms": 1e3 * fast.speed.latency,
            }
            row |= {
                "dense_cpu_ms": 1e3 * fast.speed.cpu_latency_dense,
                "sparse_cpu_ms": 1e3 * fast.speed.cpu_latency,
            }
    return row


def apart(title: str, content: bytes, options: argparse.Namespace) -> Row:
    """`measured` in a process of its own; what goes wrong there is in the row."""
    own = [
        "--times" if options.times else "--no-times",
        f"--sparsity={options.sparsity}",
        "--autotune" if options.autotune else "--no-autotune",
    ]
    own += [f"--values={options.values}"]
    for kind in ("shape", "axis"):
        for wanted, numbers in getattr(options, kind):
            part, _, name = wanted.rpartition("::")
            if part in title:
                own.append(f"--{kind}={name}={','.join(map(str, numbers))}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        command = [sys.executable, "-m", f"benchmarks.{NAME}", "--one", str(path), *own]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=options.limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"more than {options.limit} s"}
    if done.returncode != 0:
        return {
            "error": (
                done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            )[-1]
        }
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def faults(row: Row) -> list[str]:
    """The promises that a file broke."""
    if "error" in row:
        return [row["error"]]
    found = []
    if row["bytes_packed"] > row["bytes"]:
        found.append(
            f"packed it has {row['bytes_packed']:,} bytes, before {row['bytes']:,}"
        )
    if row["differs"] is not None:
        found.append(f"{row['differs']!r} differs after unpack")
    if row.get("sparse_cpu_ms", 0) > NOISE * row.get("dense_cpu_ms", 0) + 0.02:
        found.append(
            f"{row['sparse_cpu_ms']:.2f} ms with sparse operators, {row['dense_cpu_ms']:.2f} ms without"
        )
    return found


HEAD = (
    "package",
    "file",
    "bytes",
    "packed",
    "of it",
    "bits",
    "layers",
    "dense ms",
    "sparse ms",
    "ratio",
    "pack s",
)


def line(row: Row) -> str:
    """A row of the table in Markdown."""
    if "error" in row:
        return f"| {row['package']} | {row['file']} | {row['error'][:100]} |" + " |" * (
            len(HEAD) - 3
        )
    size, packed = row["bytes"], row["bytes_packed"]
    times = [""] * 3
    if "dense_ms" in row:
        dense, sparse = row["dense_cpu_ms"], row["sparse_cpu_ms"]
        times = [f"{dense:.2f}", f"{sparse:.2f}", f"{dense / sparse:.2f}"]
    bits = "equal" if row["differs"] is None else "differ"
    cells = [
        row["package"],
        row["file"],
        f"{size:,}",
        f"{packed:,}",
        f"{packed / size:.3f}",
        bits,
    ]
    cells += [
        f"{row['sparse_layers']}/{row['weights']}",
        *times,
        f"{row['pack_seconds']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def page(results: Row) -> str:
    """The result page."""
    rows = results["models"]
    broken = [(row, fault) for row in rows for fault in faults(row)]
    packages = list(dict.fromkeys(row["package"] for row in rows))
    lines = [
        "# Models out of public packages",
        "",
        ABOUT.format(
            models=len(rows),
            packages=len(packages),
            zeros=f"{results['sparsity']:.0%}",
            target="--target sparse-ort"
            + (" --autotune" if results["autotune"] else ""),
            name=NAME,
        ),
        "",
        f"| {' | '.join(HEAD)} |",
        "|" + "---|" * len(HEAD),
        *map(line, rows),
        "",
        *(
            [f"- {row['package']} {row['file']}: {fault}" for row, fault in broken]
            or ["No file broke a promise."]
        ),
        "",
        results["machine"],
        "",
    ]
    return "\n".join(lines)


def named(text: str) -> tuple[str, list[int]]:
    """NAME=1,3,224,224, with PART:: before it where it is for files alone whose package or name has that part."""
    name, _, numbers = text.rpartition("=")
    return name, [int(number) for number in numbers.split(",")]


def main() -> None:
    """Print a row for each model, and write results and page to --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", help="ONNX files, wheels or npm archives"
    )
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument(
        "--shape",
        type=named,
        action="append",
        default=[],
        metavar="[PART::]NAME=1,3,224,224",
    )
    parser.add_argument(
        "--axis", type=named, action="append", default=[], metavar="[PART::]NAME=LENGTH"
    )
    parser.add_argument("--values", default="fp32", choices=("fp32", "fp32-packed"))
    parser.add_argument(
        "--autotune", action=argparse.BooleanOptionalAction, default=True
    )
    parser.add_argument(
        "--times",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the files in turn",
    )
    parser.add_argument(
        "--limit", type=float, default=900, help="seconds for one model"
    )
    parser.add_argument(
        "--only", default="", help="models whose package or file has this in its name"
    )
    parser.add_argument(
        "--out", type=Path, help=f"folder for {NAME}.json and {NAME}.md"
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="OUT",
        help="write the page in this folder again, measure nothing",
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measured(options.one, options)))
        return
    if options.page is not None:
        results = json.loads((options.page / f"{NAME}.json").read_text())
        (options.page / f"{NAME}.md").write_text(page(results))
        return
    if options.folder is None:
        parser.error("give a folder of models")
    sys.exit(run(options))


def run(options: argparse.Namespace) -> int:
    """Measure all models; 1 if one broke a promise."""
    print(f"| {' | '.join(HEAD)} |\n|" + "---|" * len(HEAD), flush=True)
    rows = []
    for package, name, content in models_in(options.folder):
        if options.only in f"{package} {name}":
            row = {
                "package": package,
                "file": name,
                "sha256": hashlib.sha256(content).hexdigest()[:16],
            }
            rows.append(row | apart(f"{package} {name}", content, options))
            print(line(rows[-1]), flush=True)
    versions = f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, Python {platform.python_version()}"
    results = {
        "sparsity": options.sparsity,
        "values": options.values,
        "autotune": options.autotune,
        "models": rows,
    }
    results["machine"] = f"{versions}, one thread, {platform.machine()}."
    if options.out is not None:
        (options.out / f"{NAME}.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.out / f"{NAME}.md").write_text(page(results))
    broken = [
        f"{row['package']} {row['file']}: {fault}"
        for row in rows
        for fault in faults(row)
    ]
    print("\n".join([f"\n{len(rows)} models, {len(broken)} broken promises", *broken]))
    return 1 if broken else 0


if __name__ == "__main__":
    main()
