"""Weights that onnxruntime rebuilds in rounds: the same bits, nothing left over, and much less memory on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sparsify_fx.onnx_export.checks import probe
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.storage.codecs import rounds
from sparsify_fx.onnx_export.storage.codecs.decoding import Decoder
from sparsify_fx.onnx_export.storage.encodings import Encoded, encode_initializers
from sparsify_fx.onnx_export.storage.options import Wanted
from sparsify_fx.onnx_export.storage.unpacking import unpacked
from tests.onnx_export.arrays import random_tensor
from tests.onnx_export.test_codecs import LEVELS, PAIRS, run

pytestmark = pytest.mark.slow

DENSITIES = (
    0.25,
    0.1,
    0.05,
    0.02,
    0.002,
)  # one for each code of steps, and for patches; twice: early and late


def products(size: int, densities: tuple[float, ...]) -> onnx.ModelProto:
    """y = x @ w0 @ w1 ..., each w [size, size] with another density."""
    weights = [
        random_tensor((size, size), density, 0, seed)
        for seed, density in enumerate(densities)
    ]
    nodes = [
        helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"])
        for i in range(len(weights))
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size])
        for name in ("x0", f"x{len(weights)}")
    ]
    tensors = [
        numpy_helper.from_array(weight, f"w{place}")
        for place, weight in enumerate(weights)
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )


def number_of_rounds(made: Encoded) -> int:
    return 1 + sum(node.op_type == "Scan" for node in made.model.graph.node)


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize(
    ("encoding", "values"), [pair for pair in PAIRS if pair[0] != "coo"]
)
def test_rounds_change_no_bit_and_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
    values: str,
    functions: bool,
) -> None:
    monkeypatch.setattr(rounds, "ENOUGH", 0)
    made = encode_initializers(
        products(160, DENSITIES * 2), Wanted(encoding, values, functions, "onnxruntime")
    )
    assert number_of_rounds(made) == (
        1 if encoding == "dense" and values != "fp32-packed" else 4
    )
    onnx.checker.check_model(made.model)
    plain = unpacked(made.model, TensorReader())
    assert [node.op_type for node in plain.graph.node] == ["MatMul"] * 10
    decoder = Decoder(made.model)
    for tensor in plain.graph.initializer:
        assert decoder.array(tensor.name).tobytes() == tensor.raw_data
    for level in LEVELS[1:]:
        (got,), (expected,) = (
            run(made.model, level, tmp_path / "packed.onnx"),
            run(plain, level, tmp_path / "p.onnx"),
        )
        assert got.tobytes() == expected.tobytes()
        left = [
            [node.op_type for node in onnx.load(tmp_path / name).graph.node]
            for name in ("packed.onnx", "p.onnx")
        ]
        assert left[0] == left[1]
    feed = {"x0": np.ones((2, 160), np.float32)}
    got, expected = (
        ReferenceEvaluator(model).run(None, feed)[0] for model in (made.model, plain)
    )
    np.testing.assert_array_equal(got, expected)


def test_small_models_have_one_round_and_large_ones_four() -> None:
    """For onnxruntime alone: others refuse the Scan, or fold nothing behind it."""
    large = encode_initializers(products(800, (0.1,) * 8), Wanted("gap"))
    assert number_of_rounds(large) == 1
    assert (
        number_of_rounds(
            encode_initializers(
                products(300, (0.1,) * 4), Wanted("gap", target="onnxruntime")
            )
        )
        == 1
    )
    assert (
        number_of_rounds(
            encode_initializers(
                products(800, (0.1,) * 8), Wanted("gap", target="onnxruntime")
            )
        )
        == 4
    )


@pytest.mark.parametrize(
    "sizes", [[10**7], [10**6] * 50, [10**8, 1, 1], [10**5] * 40 + [10**7]]
)
def test_the_largest_come_first_and_no_round_is_skipped(sizes: list[int]) -> None:
    found = rounds.in_rounds(sizes)
    assert found[sizes.index(max(sizes))] == 0
    assert set(found) == set(range(max(found) + 1))
    for turn in range(max(found)):
        smallest = min(
            size for size, its in zip(sizes, found, strict=True) if its == turn
        )
        assert all(
            size <= smallest
            for size, its in zip(sizes, found, strict=True)
            if its > turn
        )


@pytest.mark.cross_section("fp32")
@pytest.mark.parametrize("values", ["fp32", "fp32-packed", "int8"])
def test_rounds_take_less_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: str
) -> None:
    dense, peaks = products(1100, (0.1,) * 8), []
    for enough in (rounds.ENOUGH, 2**40):
        monkeypatch.setattr(rounds, "ENOUGH", enough)
        file = tmp_path / f"{enough}.onnx"
        onnx.save(
            encode_initializers(
                dense, Wanted("gap", values, target="onnxruntime")
            ).model,
            file,
        )
        done = subprocess.run(
            [sys.executable, probe.__file__, "load", str(file)],
            capture_output=True,
            check=True,
        )
        peaks.append(json.loads(done.stdout)["peak_bytes"])
    assert peaks[0] < 0.8 * peaks[1]
