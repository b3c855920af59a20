"""What removing dead channels saves on trained, highly sparse models: docs/results/dead_channels.md.

    python benchmarks/dead_channels.py                    # trains where no finished run is found, about 20 minutes
    python benchmarks/dead_channels.py --models lenet5 --sparsities 0.98 --repeats 50

Every model is trained by this project's own training with global magnitude pruning (`gmp`) and exported twice, with and
without the passes over the graph. Latencies are medians in stock onnxruntime on one thread. The two files take turns,
now one first and now the other, and the speed-up is the median of the ratios within each turn, so that a busy machine
slows both alike. Finished runs are kept in --runs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

import sparsify_fx
from sparsify_fx.passes.onnx_graph.macs import count_channels, count_macs
from sparsify_fx.train import load_config, train
from sparsify_fx.train.restore import load_trained

EPOCHS = {"lenet5": 30, "lenet5-bn": 30, "lenet300": 30, "resnet20": 20}
SLICE = 0.01  # seconds that one timing takes at least


@dataclass(frozen=True)
class Row:
    """One model at one sparsity, without and with the passes. Seconds and speed-ups by batch size."""

    model: str
    sparsity: float
    accuracy: float
    channels: tuple[int, int]
    macs: tuple[int, int]
    sizes: tuple[int, int]
    latency: dict[int, tuple[float, float]]
    speed: dict[int, tuple[float, float, float]]
    difference: float

    def line(self) -> str:
        """A row of the table."""
        speed = [
            f"{middle:.2f}x ({low:.2f} to {high:.2f})"
            for _, (low, middle, high) in sorted(self.speed.items())
        ]
        times = [
            f"{a * 1e6:,.0f} → {b * 1e6:,.0f}"
            for _, (a, b) in sorted(self.latency.items())
        ]
        return " | ".join(
            (
                f"| {self.model} | {self.sparsity:g} | {100 * self.accuracy:.1f}",
                f"{self.channels[0]} → {self.channels[1]}",
                f"{self.macs[0] / 1e6:.2f} → {self.macs[1] / 1e6:.2f}",
                f"{self.sizes[0]:,} → {self.sizes[1]:,}",
                *times,
                *speed,
                f"{self.difference:.1e} |",
            )
        )


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )


def seconds(
    runtime: onnxruntime.InferenceSession,
    feed: dict[str, NDArray[np.float32]],
    loops: int,
) -> float:
    # A session of one thread never waits: this is its latency, without the machine's other work.
    start = time.thread_time()
    for _ in range(loops):
        runtime.run(None, feed)
    return (time.thread_time() - start) / loops


def interleaved(
    files: tuple[Path, Path], inputs: NDArray[np.float32], repeats: int
) -> tuple[tuple[float, float], tuple[float, float, float]]:
    """Median seconds of both files, and quartiles of the ratios within a turn."""
    runtimes = [session(path) for path in files]
    feed = {runtimes[0].get_inputs()[0].name: inputs}
    single = [min(seconds(runtime, feed, 1) for _ in range(10)) for runtime in runtimes]
    loops = max(1, round(SLICE / max(single)))
    taken: list[list[float]] = [[], []]
    for turn in range(repeats):
        for place in (0, 1) if turn % 2 else (1, 0):
            taken[place].append(seconds(runtimes[place], feed, loops))
    low, middle, high = statistics.quantiles(
        [a / b for a, b in zip(*taken, strict=True)], n=4
    )
    return (statistics.median(taken[0]), statistics.median(taken[1])), (
        low,
        middle,
        high,
    )


def measure(model: str, sparsity: float, args: argparse.Namespace) -> Row:
    values = {
        "method": "gmp",
        "sparsity": sparsity,
        "epochs": EPOCHS[model],
        "seed": args.seed,
        "model": model,
    }
    result = train(
        load_config("mnist5k-lenet5", values=values),
        runs_dir=args.runs,
        tensorboard=False,
    )
    trained = load_trained(result.path)
    with tempfile.TemporaryDirectory() as folder:
        files = (Path(folder) / "plain.onnx", Path(folder) / "passes.onnx")
        for path, optimize in zip(files, (False, True), strict=True):
            sparsify_fx.export(
                trained.model,
                path,
                trained.inputs[:1],
                encoding="dense",
                verify_inputs=trained.inputs,
                optimize=optimize,
            )
        images = trained.inputs.numpy()
        timed = {
            batch: interleaved(files, images[:batch], args.repeats)
            for batch in args.batches
        }
        outputs = [
            session(path).run(None, {session(path).get_inputs()[0].name: images})[0]
            for path in files
        ]
        graphs = [onnx.load(str(path)) for path in files]
        return Row(
            model,
            sparsity,
            result.test_accuracy,
            (count_channels(graphs[0]), count_channels(graphs[1])),
            (count_macs(graphs[0]), count_macs(graphs[1])),
            (files[0].stat().st_size, files[1].stat().st_size),
            {batch: latency for batch, (latency, _) in timed.items()},
            {batch: speed for batch, (_, speed) in timed.items()},
            float(np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[0]).max()),
        )


def report(rows: list[Row], command: str, args: argparse.Namespace) -> str:
    batches = sorted(args.batches)
    heads = [
        *(
            "model",
            "sparsity",
            "test accuracy %",
            "channels",
            "million MACs",
            "bytes, dense encoding",
        ),
        *(f"µs at batch {batch}" for batch in batches),
        *(f"speed-up at batch {batch}" for batch in batches),
        "relative difference",
    ]
    return (
        "# Dead channels of trained models\n\n"
        "Models trained on 4,000 real digits with global gradual magnitude pruning (`gmp`), exported without (left of "
        "each arrow) and with (right) the passes over the graph. All weights are stored densely, so that bytes and "
        "time show the removed channels alone; stock onnxruntime takes as long for the zeros that are left as for any "
        "other number.\n\n"
        f"Stock onnxruntime {onnxruntime.__version__}, one thread, medians of {args.repeats} interleaved timings of "
        "its CPU time; speed-ups are medians, with quartiles, of the ratios within each turn. The relative difference "
        "is the largest one between the logits of both files over a batch of test digits, divided by the largest "
        "logit.\n\n"
        "Speed does not follow the multiply-accumulates: onnxruntime computes convolutions in blocks of 16 channels, "
        "so 28 or 24 channels take as long as 32, and some dead channels stay so that their number is a multiple of 4. "
        "A residual sum keeps every channel that one of its addends needs.\n\n"
        f"Made by `{command}`.\n\n"
        "| "
        + " | ".join(heads)
        + " |\n"
        + "|---" * len(heads)
        + "|\n"
        + "\n".join(row.line() for row in rows)
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(EPOCHS))
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.98, 0.99])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/dead-channels"))
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/dead_channels.md")
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for model in args.models:
        for sparsity in args.sparsities:
            rows.append(measure(model, sparsity, args))
            print(rows[-1].line(), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        report(rows, "python benchmarks/dead_channels.py", args), encoding="utf-8"
    )
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
