"""The sparse operators give what onnxruntime's dense ones give, for any shape, thread and caller."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx import runtime
from tests.runtime import cases
from tests.runtime.cases import Case

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_thousands_of_random_layers_equal_dense_ones(isa: str) -> None:
    best = runtime.instruction_set()
    if (isa, best) in (
        ("avx512", "avx2"),
        ("avx512", "portable"),
        ("avx2", "portable"),
        ("avx512", "neon"),
        ("avx2", "neon"),
    ):
        isa = best  # a lesser processor checks its best kernels again, with other seeds
    seed = {"avx512": 0, "avx2": 1, "neon": 1, "portable": 2}[isa]
    command = [
        sys.executable,
        str(ROOT / "tests/runtime/cases.py"),
        runtime.library(),
        "1500",
        str(seed),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "SPARSIFY_FX_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1500 cases" in done.stdout


def large_conv(seed: int = 0, batch: int = 3) -> Case:
    """A layer that fills several tiles, column blocks and row groups."""
    random = np.random.default_rng(seed)
    weight = random.standard_normal((300, 130, 3, 3), np.float32)
    weight *= random.random(weight.shape) < 0.1
    x = random.standard_normal((batch, 130, 13, 9), np.float32)
    residual = random.standard_normal((batch, 300, 13, 9), np.float32)
    bias = random.standard_normal(300, np.float32)
    return Case("Conv", x, weight, bias, residual, {"pads": [1, 1, 1, 1]}, "Relu", True)


def large_matmul(seed: int = 0) -> Case:
    """As `large_conv`, for a matrix product."""
    random = np.random.default_rng(seed)
    weight = random.standard_normal((700, 500), np.float32)
    weight *= random.random(weight.shape) < 0.1
    x = random.standard_normal((2, 65, 700), np.float32)
    residual = random.standard_normal((2, 65, 500), np.float32)
    return Case(
        "MatMul",
        x,
        weight,
        random.standard_normal(500, np.float32),
        residual,
        {"transB": 0},
        "Gelu",
        False,
    )


def large_depthwise(seed: int = 0) -> Case:
    """As `large_conv`, for a depthwise convolution in several bands."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((2, 90, 130, 77), np.float32)
    residual = random.standard_normal((2, 90, 65, 77), np.float32)
    weight, bias = (
        random.standard_normal((90, 1, 3, 3), np.float32),
        random.standard_normal(90, np.float32),
    )
    attributes = {"pads": [1, 1, 1, 1], "strides": [2, 1], "group": 90}
    return Case("Conv", x, weight, bias, residual, attributes, "Relu6", True)


def large_joined(seed: int = 0) -> Case:
    """As `large_conv`, for a joined operator in several bands and groups of rows."""
    random = np.random.default_rng(seed)
    second = replace(large_depthwise(seed), residual=None)
    weight = random.standard_normal((90, 24, 1, 1), np.float32) * (
        random.random((90, 24, 1, 1)) < 0.2
    )
    x, bias = (
        random.standard_normal((2, 24, 130, 77), np.float32),
        random.standard_normal(90, np.float32),
    )
    return Case(
        "Conv", x, weight.astype(np.float32), bias, None, {}, "Relu6", True, second
    )


def large_pooled(seed: int = 0) -> Case:
    """As `large_conv`, for a convolution and its pooling in several bands and groups of rows."""
    random = np.random.default_rng(seed)
    attributes = {
        "pads": [3, 3, 3, 3],
        "strides": [2, 2],
        "dilations": [1, 1],
        "group": 1,
    }
    pool = replace(
        cases.random_pool(random),
        attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    )
    weight = random.standard_normal((70, 3, 7, 7), np.float32) * (
        random.random((70, 3, 7, 7)) < 0.1
    )
    x, bias = (
        random.standard_normal((2, 3, 190, 203), np.float32),
        random.standard_normal(70, np.float32),
    )
    return Case(
        "Conv", x, weight.astype(np.float32), bias, None, attributes, "Silu", True, pool
    )


def large_sum(seed: int = 0) -> Case:
    """As `large_conv`, for a sum with a projection of stride 2."""
    random = np.random.default_rng(seed)
    weights = [
        random.standard_normal((300, channels, 1, 1), np.float32)
        for channels in (130, 70)
    ]
    first, second = (weight * (random.random(weight.shape) < 0.1) for weight in weights)
    x, z = (
        random.standard_normal((3, 130, 13, 9), np.float32),
        random.standard_normal((3, 70, 25, 18), np.float32),
    )
    bias = random.standard_normal(300, np.float32)
    projection = Case(
        "Conv", z, second.astype(np.float32), bias, None, {"strides": [2, 2]}, "", True
    )
    return Case(
        "ConvSum",
        x,
        first.astype(np.float32),
        bias,
        z,
        {"strides": [1, 1]},
        "Relu",
        True,
        projection,
    )


def large_attention(seed: int = 0) -> Case:
    """As `large_conv`, for attention in several blocks of rows, and of the values that they read."""
    x = np.random.default_rng(seed).standard_normal((2, 405, 3 * 3 * 72), np.float32)
    attributes = {
        "heads": 3,
        "head_size": 72,
        "tokens_first": 0,
        "scales": [0.4, 0.4, 1.0],
    }
    return Case(
        "Attention", x, np.zeros(0, np.float32), None, None, attributes, "", False
    )


LARGE = {"conv": large_conv(), "one": large_conv(batch=1), "matmul": large_matmul()}
LARGE |= {"depthwise": large_depthwise(), "joined": large_joined(), "sum": large_sum()}
LARGE |= {"pooled": large_pooled(), "attention": large_attention()}


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE.keys())
@pytest.mark.parametrize("threads", [1, 2])
def test_large_layers_equal_dense_ones(case: Case, threads: int) -> None:
    assert cases.worst_error([case], runtime.library(), threads) < 1e-5


def session_of(case: Case, threads: int = 1) -> cases.onnxruntime.InferenceSession:
    return cases.open_session(
        cases.model_of([cases.sparse_nodes(case, "0")], [case]),
        runtime.library(),
        threads=threads,
    )


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE.keys())
def test_results_are_the_same_bits_from_run_to_run_and_for_any_number_of_threads(
    case: Case,
) -> None:
    feed = cases.feeds([case])
    expected = session_of(case).run(None, feed)[0]
    for threads in (1, 2, 4):
        session = session_of(case, threads)
        for _ in range(3):
            np.testing.assert_array_equal(session.run(None, feed)[0], expected)


def test_eight_threads_may_run_one_session() -> None:
    case = large_conv()
    session, feed = session_of(case, threads=2), cases.feeds([case])
    expected = session.run(None, feed)[0]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: session.run(None, feed)[0], range(64)))
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_eight_threads_may_open_and_close_sessions() -> None:
    case = large_matmul()
    feed = cases.feeds([case])
    expected = session_of(case).run(None, feed)[0]
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(
            lambda _: session_of(case).run(None, feed)[0], range(24)
        ):
            np.testing.assert_array_equal(result, expected)


def dynamic_session(
    attributes: dict[str, object], kind: str = "SparseConv", **constants: np.ndarray
) -> cases.onnxruntime.InferenceSession:
    """A convolution whose input may have any shape of four dimensions."""
    names = [name if name in constants else "" for name in ("w", "gaps", "b")]
    node = helper.make_node(
        kind, ["x", *names], ["y"], domain="sparsify_fx", **attributes
    )
    weights = [
        numpy_helper.from_array(array, name) for name, array in constants.items()
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * 4)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "dynamic", [x], [y], weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("sparsify_fx", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return cases.open_session(model.SerializeToString(), runtime.library())


def test_batch_and_image_size_may_change_between_runs() -> None:
    random = np.random.default_rng(0)
    weight = cases.sparse(random, (20, 6, 3, 3))
    session = dynamic_session({"strides": [2, 1], "pads": [1, 1, 1, 1]}, w=weight)
    for shape in (
        (1, 6, 8, 8),
        (7, 6, 8, 8),
        (2, 6, 31, 5),
        (1, 6, 1, 1),
        (0, 6, 8, 8),
        (3, 6, 8, 8),
    ):
        x = random.standard_normal(shape, np.float32)
        case = Case(
            "Conv",
            x,
            weight,
            None,
            None,
            {"strides": [2, 1], "pads": [1, 1, 1, 1]},
            "",
            False,
        )
        dense = cases.open_session(
            cases.model_of([cases.dense_nodes(case, "0")], [case]), None
        )
        np.testing.assert_allclose(
            session.run(None, {"x": x})[0], dense.run(None, {"x0": x})[0], atol=1e-5
        )


def test_sizes_may_change_between_runs_of_a_convolution_and_its_pooling() -> None:
    random = np.random.default_rng(0)
    case = large_pooled()
    session = dynamic_session(
        case.attributes
        | {f"pool_{name}": value for name, value in case.second.attributes.items()},
        "SparseConvPool",
        w=case.weight,
    )
    for shape in (
        (1, 3, 8, 8),
        (5, 3, 9, 70),
        (1, 3, 300, 5),
        (2, 3, 1, 1),
        (0, 3, 8, 8),
        (1, 3, 120, 130),
    ):
        now = replace(
            case, x=random.standard_normal(shape, np.float32), bias=None, activation=""
        )
        dense = cases.open_session(
            cases.model_of([cases.dense_nodes(now, "0")], [now]), None
        )
        expected = dense.run(None, {"x0": now.x})[0]
        np.testing.assert_allclose(
            session.run(None, {"x": now.x})[0], expected, atol=1e-4, rtol=1e-5
        )


def attention_session(**attributes: object) -> cases.onnxruntime.InferenceSession:
    """Attention whose input may have any shape of three dimensions."""
    node = helper.make_node(
        "Attention", ["x"], ["y"], domain="sparsify_fx", **attributes
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * 3)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "dynamic", [x], [y])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("sparsify_fx", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return cases.open_session(model.SerializeToString(), runtime.library())


def test_sizes_may_change_between_runs_of_attention() -> None:
    case, random = large_attention(), np.random.default_rng(0)
    session = attention_session(**case.attributes)
    for images, tokens in ((1, 7), (5, 90), (0, 7), (2, 0), (1, 1), (1, 700), (3, 12)):
        now = replace(case, x=random.standard_normal((images, tokens, 648), np.float32))
        got = session.run(None, {"x": now.x})[0]
        assert got.shape == (images, tokens, 216)
        if now.x.size:
            dense = cases.open_session(
                cases.model_of([cases.dense_nodes(now, "0")], [now]), None
            )
            np.testing.assert_allclose(
                got, dense.run(None, {"x0": now.x})[0], atol=1e-5
            )


def test_attention_to_scores_that_are_no_numbers_or_huge() -> None:
    """The rows of queries with a NaN are NaN, and a score far above the others takes all, as in onnxruntime."""
    x = np.random.default_rng(0).standard_normal((1, 9, 12), np.float32)
    x[0, 2, 0], x[0, 5, :4] = np.nan, 1e4
    got = attention_session(heads=1, head_size=4).run(None, {"x": x})[0][0]
    assert np.isnan(got[2]).all()
    assert np.isfinite(np.delete(got, 2, axis=0)).all()
    best = int((x[0, 5, :4] @ x[0, :, 4:8].T).argmax())
    np.testing.assert_array_equal(got[5], x[0, best, 8:])


def guarded(array: np.ndarray, at_end: bool) -> np.ndarray:
    """A copy whose last (or first) byte lies at a page that must not be touched."""
    page = mmap.PAGESIZE
    pages = -(-array.nbytes // page)
    memory = mmap.mmap(-1, (pages + 2) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for forbidden in (start, start + (pages + 1) * page):
        assert protect(ctypes.c_void_p(forbidden), ctypes.c_size_t(page), 0) == 0
    offset = page + (pages * page - array.nbytes if at_end else 0)
    copied = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copied[:] = array
    return copied


@pytest.mark.parametrize("at_end", [False, True])
def test_nothing_is_read_beyond_an_input(at_end: bool) -> None:
    random = np.random.default_rng(0)
    for _ in range(150):
        kinds = (
            cases.random_matmul,
            cases.random_conv,
            cases.random_conv,
            cases.random_depthwise,
            cases.random_joined,
        )
        kinds += (
            cases.random_pool,
            cases.random_pooled,
            cases.random_sum,
            cases.random_attention,
        )
        case = kinds[int(random.integers(len(kinds)))](random)
        feed = {
            name: guarded(array, at_end) for name, array in cases.feeds([case]).items()
        }
        np.testing.assert_array_equal(
            session_of(case).run(None, feed),
            session_of(case).run(None, cases.feeds([case])),
        )


def test_nan_and_infinity_pass_through() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1, -1], np.float32).reshape(1, 1, 1, 5)
    session = dynamic_session(
        {"activation": "Relu"}, w=np.ones((1, 1, 1, 1), np.float32)
    )
    np.testing.assert_array_equal(
        session.run(None, {"x": x})[0].ravel(), np.float32([np.nan, np.inf, 0, 1, 0])
    )
