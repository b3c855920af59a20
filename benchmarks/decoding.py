"""Matrix products with a few rows, as in the decoding of transformers: docs/results/decoding.json and .md.

    python -m benchmarks.decoding                      # about five minutes on one core of an idle machine
    python -m benchmarks.decoding --only 4096x4096
    python -m benchmarks.decoding --page               # only write the page from the results again

One MatMul of onnxruntime with its dense weight beside `SparseMatMul`, in turn, one thread: processor time of a whole
run of the session. `dense` is the faster of MatMul and Gemm with a transposed weight, which are both there; their
medians differ by what onnxruntime makes of them. Zeros lie at random. Layers are those of GPT-2 (768 wide) and of
Llama 7B (4096 wide).
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.training_cases import read, table, write
from sparsify_fx import runtime
from sparsify_fx.runtime.rewrite import to_sparse
from sparsify_fx.training_cost.surroundings import surroundings

NAME = "decoding"
ROWS = (1, 2, 4, 8)
SPARSITIES = (0.5, 0.7, 0.9, 0.95)
MATMUL, GEMM, SPARSE, AGAIN = "matmul", "gemm", "sparse", "matmul again"
WANTED = {0.7: 2.2, 0.9: 6.0}
HEAD = """# A few rows at a time

`SparseMatMul` of [sparse-ort](../runtime.md) beside onnxruntime's dense product, for one to eight rows, as transformers
decode: how many times as fast, by medians of processor time of one thread. `bytes` is the limit by what is read of the
weight, six bytes a non-zero where the dense one has four each.

{rows}

Made with `python -m benchmarks.decoding`; all samples are in [the raw results](decoding.json). {machine}
"""


@dataclass(frozen=True)
class Layer:
    """A product [rows, inner] @ [inner, outer]."""

    inner: int
    outer: int
    sparsity: float

    @property
    def name(self) -> str:
        return f"{self.inner}x{self.outer}, {100 * self.sparsity:g} %"

    def model(self, gemm: bool) -> onnx.ModelProto:
        """The layer alone, its weight [inner, outer], or transposed as Gemm takes it."""
        random = np.random.default_rng(0)
        weight = random.standard_normal((self.inner, self.outer), np.float32)
        weight[random.random(weight.shape) < self.sparsity] = 0
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        if gemm:
            weight = np.ascontiguousarray(weight.T)
            node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", self.inner])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", self.outer])
        weights = [numpy_helper.from_array(weight, "w")]
        graph = helper.make_graph([node], "layer", [x], [y], weights)
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


LAYERS = tuple(
    Layer(*sizes, sparsity)
    for sizes in ((768, 2304), (768, 3072), (3072, 768), (4096, 4096), (4096, 11008))
    for sparsity in SPARSITIES
)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(runtime.library())
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def measured(layer: Layer, rounds: int) -> dict[str, Any]:
    """Processor seconds of every run, by number of rows and kind."""
    plain, gemm = layer.model(gemm=False), layer.model(gemm=True)
    sparse, _ = to_sparse(plain, lambda _: True)
    files = {MATMUL: plain, GEMM: gemm, SPARSE: sparse, AGAIN: plain}
    sessions = {name: session(model) for name, model in files.items()}
    found: dict[str, dict[str, list[float]]] = {}
    for rows in ROWS:
        x = np.random.default_rng(1).standard_normal((rows, layer.inner), np.float32)
        check(sessions, x)
        found[str(rows)] = in_turns(sessions, x, rounds)
    return {"sparsity": layer.sparsity, "seconds": found, "surroundings": surroundings()}  # fmt: skip


def check(sessions: dict[str, onnxruntime.InferenceSession], x: Any) -> None:
    """Raises AssertionError where the sparse product is not the dense one."""
    wanted, found = (sessions[name].run(None, {"x": x})[0] for name in (MATMUL, SPARSE))
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def in_turns(
    sessions: dict[str, onnxruntime.InferenceSession], x: Any, rounds: int
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(rounds + 2):
        for name, each in sessions.items():
            begin = time.thread_time()
            each.run(None, {"x": x})
            # The first runs find memory, and make the lean matrix.
            if number >= 2:
                found[name].append(time.thread_time() - begin)
    return found


def faster(seconds: dict[str, list[float]]) -> float:
    """How many times as fast the sparse product is as the faster dense one."""
    median = {name: statistics.median(each) for name, each in seconds.items()}
    return min(median[MATMUL], median[GEMM]) / median[SPARSE]


def page(results: dict[str, Any]) -> str:
    """The page of all layers that were measured."""
    numbers = [f"{rows} rows" if rows > 1 else "1 row" for rows in ROWS]
    head = ("layer", *numbers, "wanted, 1 row", "bytes", "dense again")
    lines = []
    for name, row in results.items():
        times = row["seconds"]
        one, two = (statistics.median(times["1"][each]) for each in (MATMUL, AGAIN))
        wanted = WANTED.get(row["sparsity"], "")
        limit = 4 / (6 * (1 - row["sparsity"]))
        ratios = [f"{faster(times[str(rows)]):.2f}" for rows in ROWS]
        lines.append((name, *ratios, str(wanted), f"{limit:.1f}", f"{two / one:.2f}"))
    where = [*results.values()][-1]["surroundings"]
    told = (
        f"Commit {where['commit']}; {where['processor']}, {where['instructions']}, one thread; "
        f"onnxruntime {onnxruntime.__version__}."
    )
    return HEAD.format(rows=table(head, *lines), machine=told)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="layers whose names hold this text")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    results = read(NAME)
    for layer in LAYERS:
        if options.page or options.only not in layer.name:
            continue
        results[layer.name] = measured(layer, options.rounds)
        write(NAME, results, page(results))
        ratios = map(faster, results[layer.name]["seconds"].values())
        print(layer.name, *[f"{each:.2f}" for each in ratios], flush=True)
    write(NAME, results, page(results))


if __name__ == "__main__":
    main()
