"""Flip single bits of the files of a run folder, and see whether each flip is told: docs/results/flip_bits.json.

    python benchmarks/flip_bits.py                   # 600 bits of each file, about two minutes
    python benchmarks/flip_bits.py --flips 60 --out flips.json

A small run is trained first. The bits are spread evenly over the whole file, headers and tables included, and the last
kilobyte, where the table of a zip archive ends, gets a tenth of them. A flip counts as
    error    CheckpointError, in words
    same     the file is read, and every tensor and number is what it was
    changed  the file is read, and something in it is another: there must be none
    raw      an error of another kind: there must be none
"""

from __future__ import annotations

import argparse
import collections
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.checkpoints.run_files import read_checkpoint, read_tensors
from sparsify_fx.errors import CheckpointError
from sparsify_fx.train import load_config, train

OVERRIDES = [
    "method=lrr+signin",
    "sparsity=0.36",
    "epochs=2",
    "batch_size=500",
    "learning_rate.warmup=1",
]
Reader = Callable[[Path], Any]


def positions(bits: int, flips: int) -> list[int]:
    """Which bits: evenly over all of them, and a tenth in the last kilobyte."""
    tail = min(bits, 8 * 1024)
    last = max(1, flips // 10)
    spread = [index * bits // (flips - last) for index in range(flips - last)]
    return [*spread, *(bits - tail + index * tail // last for index in range(last))]


def same(a: Any, b: Any) -> bool:
    """Whether two contents are alike to the bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.cpu().equal(b.cpu())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def outcome(file: Path, good: Any, read: Reader) -> str:
    """What reading a damaged file comes to."""
    try:
        return "same" if same(good, read(file)) else "changed"
    except CheckpointError:
        return "error"
    except Exception as error:
        return f"raw {type(error).__name__}"


def flip_all(data: bytes, flips: int, read: Reader, folder: Path) -> dict[str, int]:
    """How many flips of a file with content `data` came to which end."""
    file = folder / "flipped"
    file.write_bytes(data)
    good, found = read(file), collections.Counter[str]()
    for bit in positions(8 * len(data), flips):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        found[outcome(file, good, read)] += 1
    return dict(found)


def without_seal(file: Path) -> bytes:
    """A checkpoint as sparsify_fx 0.1 wrote it: without a checksum of its own."""
    with tempfile.NamedTemporaryFile() as plain:
        torch.save(torch.load(file, weights_only=True), plain.name)
        return Path(plain.name).read_bytes()


def measure(flips: int, folder: Path) -> list[dict[str, Any]]:
    """One row for each kind of file."""
    config = load_config(
        "mnist5k-lenet5", [*OVERRIDES, "save_cycles=true", "device=cpu"]
    )
    run = train(config, runs_dir=folder, progress=False, tensorboard=False).path
    files: dict[str, tuple[bytes, Reader]] = {
        "checkpoint.pt": ((run / "checkpoint.pt").read_bytes(), read_checkpoint),
        "checkpoint.pt as written by 0.1": (
            without_seal(run / "checkpoint.pt"),
            read_checkpoint,
        ),
        "model.safetensors": ((run / "model.safetensors").read_bytes(), read_tensors),
        "cycle-1.safetensors": (
            (run / "cycle-1.safetensors").read_bytes(),
            read_tensors,
        ),
    }
    return [
        {
            "file": name,
            "bytes": len(data),
            "flips": flips,
            "outcomes": flip_all(data, flips, read, folder),
        }
        for name, (data, read) in files.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flips", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("docs/results/flip_bits.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args.flips, Path(folder))
    for row in rows:
        print(f"{row['file']}: {row['flips']} flips, {row['outcomes']}")
    args.out.write_text(
        json.dumps({"torch": torch.__version__, "rows": rows}, indent=2) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
