"""The estimate's choice of layers beside autotune's, and memory: docs/results/autotune.json and .md.

    python -m benchmarks.autotune_table                    # five minutes; wants an idle machine
    python -m benchmarks.autotune_table --only resnet18    # these models again
    python -m benchmarks.autotune_table --page             # only write the page from the results again

Each model of `benchmarks.pruned_models` at 90 % zeros: its dense file, the sparse file that the estimate makes, and
the one that the search makes on this machine, in turn; then each file in a fresh process, for its memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx

from benchmarks.training_cases import machine, read, table, write
from sparsify_fx import runtime
from sparsify_fx.onnx_export import pack_onnx
from sparsify_fx.training_cost.surroundings import surroundings

# The models and the timing are those of scripts, whose folder Python looks in.
sys.path.insert(0, str(Path(__file__).parent))
from pruned_models import Subject, pruned, subject
from runtime_speed import Setting, open_session, peak, times_in_turn

NAME = "autotune"
DENSE, AGAIN, ESTIMATE, AUTOTUNE = "dense", "dense again", "estimate", "autotune"
# 1x1 layers alone, where depthwise ones hold a share of the weights that is too small to prune.
MASKS = {
    "resnet50": "uniform",
    "resnet18": "uniform",
    "deit_tiny_patch16_224": "uniform",
    "mobilenetv2_100": "pointwise",
    "mobilenetv3_small_050": "pointwise",
}
SPARSITY = 0.9

HEAD = """# The estimate and the search

Processor time of the sparse file over that of the dense one in stock onnxruntime, at {sparsity:g} % zeros in random
places, batch 1, one thread: medians of the ratios within a round. *Estimate* is what `pack --target sparse-ort`
makes, *autotune* what `--autotune` makes of it on this machine: layers that lose are given back, others are added. A
search that ends at 1 wrote a file without sparse operators. Memory is what the peak of a fresh process grows by, with
a session and three runs.

{rows}

Made with `python -m benchmarks.autotune_table`; all samples are in [the raw results](autotune.json). {machine}
"""


def measured(given: Subject, mask: str, rounds: int) -> dict[str, Any]:
    """Seconds of each file, which layers are sparse in it, and megabytes."""
    feed = given.feed(1)
    with tempfile.TemporaryDirectory() as name:
        files = {case: Path(name) / f"{case}.onnx" for case in (DENSE, ESTIMATE, AUTOTUNE)}  # fmt: skip
        onnx.save(pruned(given.dense, SPARSITY, mask), files[DENSE])
        layers: dict[str, list[str]] = {}
        for case in (ESTIMATE, AUTOTUNE):
            report = pack_onnx(
                files[DENSE],
                files[case],
                target="sparse-ort",
                autotune=case == AUTOTUNE,
                verify=False,
                inputs=feed,
            )
            layers[case] = list(report.sparse_layers)
        library = runtime.library()
        works = {case: open_session(file, 1, library) for case, file in files.items()}
        works[AGAIN] = open_session(files[DENSE], 1, library)
        runs = [lambda s=session: s.run(None, feed) for session in works.values()]
        _, processor = times_in_turn(runs, rounds)
        setting = Setting(1, 1, rounds, False, True)
        memory = {case: peak(file, given, setting, library) for case, file in files.items()}  # fmt: skip
    return {
        "mask": mask,
        "milliseconds": dict(zip(works, processor, strict=True)),
        "layers": layers,
        "megabytes": memory,
        "surroundings": surroundings(),
    }


def page(results: dict[str, Any]) -> str:
    """Of all models that were measured."""
    rows: list[tuple[str, ...]] = [
        (
            "model",
            "layers",
            "dense ms",
            AGAIN,
            ESTIMATE,
            AUTOTUNE,
            "given back",
            "added",
            "dense MB",
            "sparse MB",
        )
    ]
    found = {name: results[name] for name in MASKS if name in results}
    for name, each in found.items():
        times = each["milliseconds"]
        before, after = (set(each["layers"][case]) for case in (ESTIMATE, AUTOTUNE))
        rows.append(
            (
                name,
                "all" if each["mask"] == "uniform" else "1x1",
                f"{statistics.median(times[DENSE]):.1f}",
                *(_ratio(times[case], times[DENSE]) for case in (AGAIN, ESTIMATE, AUTOTUNE)),
                str(len(before - after)),
                str(len(after - before)),
                *(f"{each['megabytes'][case]:.0f}" for case in (DENSE, AUTOTUNE)),
            )
        )  # fmt: skip
    around = [each["surroundings"] for each in found.values()]
    commits = ", ".join(dict.fromkeys(each["commit"] for each in around))
    return HEAD.format(
        sparsity=100 * SPARSITY,
        rows=table(*rows),
        machine=machine({**around[-1], "threads": 1, "commit": commits}),
    )


def _ratio(times: list[float], dense: list[float]) -> str:
    ratios = [own / base for own, base in zip(times, dense, strict=True)]
    return f"{statistics.median(ratios):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--only", default="", help="models whose name has this text")
    parser.add_argument("--data", default="mnist5k", help="real images, see load_data")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    results = read(NAME)
    for name, mask in MASKS.items():
        if options.page or options.only not in name:
            continue
        given = subject(name, options.data)
        results[name] = measured(given, mask, options.rounds)
        write(NAME, results, page(results))
        print(name, flush=True)
    if results:
        write(NAME, results, page(results))


if __name__ == "__main__":
    main()
