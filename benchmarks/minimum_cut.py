"""The minimum cut of networkx against the one of our own before it: docs/results/minimum_cut.json.

    python -m benchmarks.minimum_cut                             # some minutes on one core, most of them to export
    python -m benchmarks.minimum_cut torchvision:resnet50 --runs 3 --graphs FOLDER     # keeps the graphs for next time

Models of torchvision with random weights, each pruned by magnitude to 90 % zeros layer by layer, exported, and given to
`runtime.to_sparse`, whose cut is caught. Seconds of processor time of whole calls in turn: for networkx that includes
its graph, but not its import, which stands by itself. `used` is `runtime.cut.minimum_cut`; the other lines are the
algorithms of networkx on the same mirrored graph. The rule, made before it was measured: networkx, unless it takes more
than twice as long on the graph with the most edges.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx
import onnx
import torch

from benchmarks.pruned_models import pruned
from sparsify_fx import export, runtime
from sparsify_fx.runtime.choice import layouts
from sparsify_fx.runtime.choice.cut import SINK, SOURCE, minimum_cut, mirrored
from sparsify_fx.zoo.models import build_model

RESULT = Path(__file__).parents[1] / "docs" / "results" / "minimum_cut.json"
MODELS = (
    "torchvision:resnet50",
    "torchvision:efficientnet_v2_m",
    "torchvision:densenet201",
    "torchvision:vit_b_16",
    "torchvision:maxvit_t",
)
FLOWS = (
    "preflow_push",
    "shortest_augmenting_path",
    "edmonds_karp",
    "dinitz",
    "boykov_kolmogorov",
)
ALLOWED = 2.0
"""networkx is used if it takes at most so many times as long on the largest graph."""

Costs = Mapping[tuple[str, str], float]
Cut = Callable[[Costs], set[str]]


def ours(costs: Costs) -> set[str]:
    """What `minimum_cut` was: shortest augmenting paths, after those of two edges."""
    left: dict[str, dict[str, float]] = defaultdict(dict)
    for (a, b), cost in costs.items():
        left[a][b] = left[a].get(b, 0.0) + cost
        left[b].setdefault(a, 0.0)
    for middle in list(
        left
    ):  # what goes through one place alone, first: that is most of it
        _send(left, [SOURCE, middle, SINK])
    while True:
        before = _reached(left)
        if SINK not in before:
            return set(before)
        path = [SINK]
        while path[-1] != SOURCE:
            path.append(before[path[-1]])
        _send(left, path[::-1])


def _reached(left: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """All that SOURCE reaches over what is left, each with the place before it; ends at SINK."""
    before, waiting = {SOURCE: SOURCE}, deque([SOURCE])
    while waiting and SINK not in before:
        here = waiting.popleft()
        for there, capacity in left.get(here, {}).items():
            if capacity > 1e-6 and there not in before:
                before[there] = here
                waiting.append(there)
    return before


def _send(left: dict[str, dict[str, float]], path: list[str]) -> None:
    """Uses up as much of a path as it has."""
    steps = list(pairwise(path))
    amount = min(left.get(a, {}).get(b, 0.0) for a, b in steps)
    if 0 < amount < math.inf:
        for a, b in steps:
            left[a][b] -= amount
            left[b][a] += amount


def by_networkx(costs: Costs, flow: str) -> set[str]:
    """What `minimum_cut` gives, by an algorithm of networkx."""
    chosen = getattr(nx.algorithms.flow, flow)
    return set(nx.minimum_cut(mirrored(costs), SINK, SOURCE, flow_func=chosen)[1][1])


def graph_of(name: str, sparsity: float) -> dict[tuple[str, str], float]:
    """The edges that `to_sparse` cuts."""
    torch.manual_seed(0)
    model = build_model(name, num_classes=1000, in_channels=3, image_size=224).eval()
    caught: list[dict[tuple[str, str], float]] = []

    def catch(costs: Costs) -> set[str]:
        caught.append(dict(costs))
        return minimum_cut(costs)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(model, path, torch.randn(2, 3, 224, 224), encoding="dense")
        dense = onnx.load(path)
    layouts.minimum_cut = catch
    runtime.to_sparse(
        pruned(dense, sparsity, "uniform"),
        sizes={dense.graph.input[0].name: (1, 3, 224, 224)},
    )
    layouts.minimum_cut = minimum_cut
    return caught[0]


def kept_graph(
    name: str, sparsity: float, folder: Path | None
) -> dict[tuple[str, str], float]:
    """The same, from the folder if it is there."""
    file = None if folder is None else folder / f"{name.replace(':', '-')}.json"
    if file is not None and file.exists():
        return {
            (a, b): cost for a, b, cost in json.loads(file.read_text(encoding="utf-8"))
        }
    costs = graph_of(name, sparsity)
    if file is not None:
        file.write_text(
            json.dumps([[a, b, cost] for (a, b), cost in costs.items()]),
            encoding="utf-8",
        )
    return costs


def price(side: set[str], costs: Costs) -> float:
    """What a division costs."""
    return sum(cost for (a, b), cost in costs.items() if a in side and b not in side)


def compared(costs: Costs, runs: int) -> dict[str, Any]:
    """Times, and whether the sides are equal, of ours and each algorithm of networkx."""
    cuts: dict[str, Cut] = {"ours": ours, "used": minimum_cut}
    cuts |= {flow: lambda costs, flow=flow: by_networkx(costs, flow) for flow in FLOWS}
    taken: dict[str, list[float]] = {name: [] for name in cuts}
    for _ in range(runs):
        for name, cut in cuts.items():
            started = time.process_time()
            cut(costs)
            taken[name].append(time.process_time() - started)
    sides = {name: cut(costs) for name, cut in cuts.items()}
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return {
        "vertices": len({vertex for edge in costs for vertex in edge}),
        "edges": len(costs),
        "seconds": medians,
        "times ours": {name: medians[name] / medians["ours"] for name in cuts},
        "same side": {name: sides[name] == sides["ours"] for name in cuts},
        "cost": {name: price(side, costs) for name, side in sides.items()},
        "samples, s": taken,
    }


def import_seconds() -> float:
    """Processor time that importing networkx takes after torch and onnxruntime: median of five processes."""
    code = "import time, torch, onnxruntime; t = time.process_time(); import networkx; print(time.process_time() - t)"
    command = [sys.executable, "-c", code]
    return statistics.median(
        float(subprocess.check_output(command, text=True)) for _ in range(5)
    )


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument(
        "--graphs", type=Path, help="a folder for the graphs, which are exported once"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name in chosen.models:
        rows[name] = compared(
            kept_graph(name, chosen.sparsity, chosen.graphs), chosen.runs
        )
        print(
            name,
            rows[name]["edges"],
            rows[name]["times ours"],
            all(rows[name]["same side"].values()),
            flush=True,
        )
    largest = max(rows, key=lambda name: rows[name]["edges"])
    used = rows[largest]["times ours"]["used"]
    result = {
        "largest": largest,
        "networkx over ours there": used,
        "rule": f"networkx if at most {ALLOWED}",
        "import networkx, s": import_seconds(),
        "models": rows,
        "networkx": nx.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    chosen.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{largest}: networkx takes {used:.2f} times as long as ours")


if __name__ == "__main__":
    main()
