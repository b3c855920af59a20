"""Places in streams: the codes sum up to them, and what is left to codes with patches."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsify_fx.onnx_export.storage.codecs.decoding import Decoder
from sparsify_fx.onnx_export.storage.codecs.streams import (
    STEP_CODES,
    Streams,
    best_streams,
)
from sparsify_fx.onnx_export.storage.encodings import encode_initializers
from sparsify_fx.onnx_export.storage.options import Wanted
from tests.onnx_export.arrays import model_with, random_tensor


def steps_of(streams: Streams) -> np.ndarray:
    """[rows, columns]: the steps that the words hold."""
    code, words = streams.code, streams.words.astype(np.int64)
    digits = words.reshape(-1, 1) // code.base ** np.arange(code.per) % code.base
    return digits.reshape(-1, streams.starts.size) + code.less


@settings(max_examples=200, deadline=None)
@given(
    sides=st.tuples(
        st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 7, 16])
    ),
    density=st.one_of(st.floats(0, 1), st.floats(0, 0.02)),
    value_bits=st.sampled_from([8, 16, 32]),
    pooled=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_streams_sum_up_to_the_places(
    sides: tuple[int, int, int],
    density: float,
    value_bits: int,
    pooled: bool,
    seed: int,
) -> None:
    size = math.prod(sides)
    kept = np.flatnonzero(np.random.default_rng(seed).random(size) < density)
    streams = best_streams(kept, size, value_bits, pooled=pooled) if kept.size else None
    if streams is None:  # the next test says where there must be some
        return
    places = streams.starts.reshape(-1) + np.cumsum(steps_of(streams), axis=0)
    assert places.reshape(streams.places.shape).tolist() == streams.places.tolist()
    flat = streams.places.reshape(-1)
    assert set(kept) <= set(flat)
    assert len(set(flat)) == flat.size
    assert 0 <= flat.min() <= flat.max() < size
    assert (streams.kernel is not None) == pooled
    if streams.kernel is None:
        return
    grown = [
        side + more - 1
        for side, more in zip(streams.places.shape[2:], streams.kernel, strict=True)
    ]
    assert math.prod(grown) == size


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(10, 400),
    share=st.floats(0.05, 0.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_size_with_many_divisors_always_has_streams(
    rows: int, share: float, seed: int
) -> None:
    size = 96 * rows
    kept = np.sort(
        np.random.default_rng(seed).choice(size, int(share * size), replace=False)
    )
    for pooled in (False, True):
        assert best_streams(kept, size, 32, pooled=pooled) is not None


@pytest.mark.parametrize(
    ("density", "per"), [(0.25, 4), (0.1, 3), (0.05, 5), (0.02, 1)]
)
def test_the_code_follows_the_density(density: float, per: int) -> None:
    weight = random_tensor((256, 512), density, 0, 1)
    streams = best_streams(np.flatnonzero(weight), weight.size, 32)
    assert streams is not None
    assert streams.code in STEP_CODES
    assert streams.code.per == per


@pytest.mark.parametrize(
    ("shape", "density", "dtype", "operator"),
    [
        ((64, 32, 3, 3), 0.1, np.float32, "MaxUnpool"),
        ((301, 150), 0.1, np.float32, "MaxUnpool"),
        ((256, 512), 0.002, np.float32, "ScatterElements"),  # patches are smaller
        # MaxUnpool knows float32 only.
        ((64, 32, 3, 3), 0.1, np.float16, "ScatterElements"),
        ((101, 103), 0.1, np.float32, "ScatterElements"),  # no divisor fits
        ((3, 7), 0.9, np.float32, "ScatterElements"),  # no room for a whole row
    ],
)
def test_both_forms_give_the_same_bits(
    shape: tuple[int, ...], density: float, dtype: type, operator: str
) -> None:
    weight = random_tensor(shape, density, 0.05, 2, np.dtype(dtype))
    for target, expected in (("onnxruntime", operator), ("onnx", "ScatterElements")):
        made = encode_initializers(
            model_with({"w": weight}), Wanted("gap", target=target)
        )
        parsed = onnx.ModelProto.FromString(made.model.SerializeToString())
        kinds = {node.op_type for node in parsed.graph.node}
        assert kinds & {"MaxUnpool", "ScatterElements"} == {expected}
        assert Decoder(parsed).array("w").tobytes() == weight.tobytes()
