"""Files that are not what they say: errors in words, bounds on work and memory, and nothing read from elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx.errors import ExportError, PassError
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from sparsify_fx.onnx_tools.soundness import damaged_tensor
from sparsify_fx.passes.onnx_graph import optimize
from tests.onnx_export.arrays import save
from tests.onnx_export.places import model_of, pruned, tensor

COMMANDS: dict[str, Callable[[Path, Path], object]] = {
    "inspect": lambda file, _: inspect_file(file),
    "unpack": unpack_onnx,
    "pack": lambda file, target: pack_onnx(file, target, verify=False),
    "optimize": lambda file, _: optimize(
        onnx.load(str(file), load_external_data=False)
    ),
}


def product(
    weight: TensorProto | None = None, sparse: onnx.SparseTensorProto | None = None
) -> onnx.ModelProto:
    """y = x @ w."""
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [weight] if weight is not None else [],
    )
    if sparse is not None:
        model.graph.sparse_initializer.append(sparse)
    return model


def changed(**fields: object) -> TensorProto:
    found = tensor(pruned(1), "w")
    for name, value in fields.items():
        found.ClearField(name)
        if isinstance(value, list):
            getattr(found, name).extend(value)
        else:
            setattr(found, name, value)
    return found


def coo(**values: object) -> onnx.SparseTensorProto:
    held = TensorProto(name="w", data_type=1, dims=[1], raw_data=bytes(4))
    for name, value in values.items():
        setattr(held, name, value)
    return helper.make_sparse_tensor(
        held, numpy_helper.from_array(np.array([3]), "places"), [64, 64]
    )


DAMAGED = {
    "one float short": product(changed(raw_data=bytes(4 * 64 * 64 - 4))),
    "a side that wraps": product(changed(dims=[2**62, 4])),
    "a negative side": product(changed(dims=[-64, -64])),
    "an unknown type": product(changed(data_type=77)),
    "values in the wrong field": product(changed(raw_data=b"", int32_data=[1, 2])),
    "a sparse tensor of unknown type": product(sparse=coo(data_type=99)),
    "a sparse tensor of another length": product(sparse=coo(raw_data=bytes(12))),
    "a constant node without data": model_of(
        [
            helper.make_node("Constant", [], ["w"], value=changed(raw_data=b"")),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ]
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_tensors(tmp_path: Path, what: str, command: str) -> None:
    source = save(DAMAGED[what], tmp_path / "a.onnx")
    if command == "optimize":
        if "sparse" in what:
            return  # onnxruntime loads the model, and says what is wrong
        with pytest.raises(PassError, match="the model is damaged"):
            COMMANDS[command](source, tmp_path / "b.onnx")
        return
    with pytest.raises(ExportError, match=r"a\.onnx"):
        COMMANDS[command](source, tmp_path / "b.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("text", [b"MatMul", b"other", b"zzzz"])
def test_names_that_are_no_text(tmp_path: Path, text: bytes, command: str) -> None:
    model = product(tensor(pruned(1), "w"))
    model.graph.node[0].name = "zzzz"
    source = tmp_path / "a.onnx"
    source.write_bytes(model.SerializeToString().replace(text, text[:-1] + b"\xff"))
    with pytest.raises((ExportError, PassError), match="is no text"):
        COMMANDS[command](source, tmp_path / "b.onnx")


@pytest.mark.parametrize(
    "claim", ["[" * 5000, "{}", "7", '{"w": 3}', '{"w": ""}', '{"none": "gap fp32"}']
)
def test_metadata_of_others_under_our_name(tmp_path: Path, claim: str) -> None:
    model = product(tensor(pruned(1), "w"))
    helper.set_model_props(model, {"sparsify_fx.weights": claim})
    source = save(model, tmp_path / "a.onnx")
    assert inspect_file(source).nonzeros == np.count_nonzero(pruned(1))
    pack_onnx(source, tmp_path / "b.onnx")
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")


def claims(nodes: list[onnx.NodeProto], tensors: list[TensorProto]) -> onnx.ModelProto:
    """A file that says of what these nodes make that it is a packed weight."""
    model = model_of([*nodes, helper.make_node("MatMul", ["x", "w"], ["y"])], tensors)
    helper.set_model_props(
        model, {"sparsify_fx.weights": json.dumps({"w": "gap fp32"})}
    )
    return model


def test_only_our_operators_rebuild_weights(tmp_path: Path) -> None:
    """A loop of any length is refused before it runs."""
    body = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}2"]) for name in ("go", "v")], "body",
        [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("go", 9), ("v", 1))],
        [helper.make_tensor_value_info(name, kind, []) for name, kind in (("go2", 9), ("v2", 1))],
    )  # fmt: skip
    numbers = [
        tensor(np.array(10**6), "m"),
        tensor(np.array(True), "t"),
        tensor(np.eye(64, dtype=np.float32), "z"),
    ]
    source = save(
        claims([helper.make_node("Loop", ["m", "t", "z"], ["w"], body=body)], numbers),
        tmp_path / "a.onnx",
    )
    start = time.process_time()
    for command in ("inspect", "unpack", "pack"):
        with pytest.raises(
            ExportError, match="Loop is no operator that packed weights are rebuilt by"
        ):
            COMMANDS[command](source, tmp_path / "b.onnx")
    assert time.process_time() - start < 2


@pytest.mark.parametrize("side", [2**20, 2**40])
def test_a_few_bytes_do_not_become_gigabytes(tmp_path: Path, side: int) -> None:
    shape = tensor(np.array([side, side]), "shape")
    source = save(
        claims([helper.make_node("ConstantOfShape", ["shape"], ["w"])], [shape]),
        tmp_path / "a.onnx",
    )
    for command in ("inspect", "unpack", "pack"):
        with pytest.raises(
            ExportError,
            match=r"rebuilding it would compute [\d,]+ entries from 2 in the file",
        ):
            COMMANDS[command](source, tmp_path / "b.onnx")


def test_external_data_of_sparse_tensors_lie_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the working folder nor a folder above is read."""
    for name in ("model", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    values = np.arange(1, 65, dtype=np.float32)
    sparse = helper.make_sparse_tensor(
        TensorProto(name="w", data_type=1, dims=[64]),
        numpy_helper.from_array(np.arange(64) * 65, "places"),
        [64, 64],
    )
    sparse.values.data_location = TensorProto.EXTERNAL
    for key, text in (("location", "note.bin"), ("offset", "0"), ("length", "256")):
        sparse.values.external_data.add(key=key, value=text)
    source = save(product(sparse=sparse), tmp_path / "model" / "m.onnx")
    (tmp_path / "work" / "note.bin").write_bytes(values.tobytes())
    for command in ("inspect", "unpack", "pack"):
        with pytest.raises(ExportError, match=r"note\.bin is missing"):
            COMMANDS[command](source, tmp_path / "b.onnx")
    (tmp_path / "work" / "note.bin").rename(tmp_path / "model" / "note.bin")
    assert inspect_file(source).nonzeros == 64
    unpack_onnx(source, tmp_path / "u.onnx")
    (dense,) = onnx.load(str(tmp_path / "u.onnx")).graph.initializer
    assert np.array_equal(numpy_helper.to_array(dense), np.diag(values))
    sparse.values.external_data[0].value = "../work/note.bin"
    save(product(sparse=sparse), source)
    with pytest.raises(ExportError, match="outside the model's folder"):
        inspect_file(source)


@pytest.mark.parametrize("kind", ["FLOAT4E2M1", "INT2", "UINT2", "INT4", "UINT4"])
def test_entries_that_share_bytes_in_external_data(tmp_path: Path, kind: str) -> None:
    number = TensorProto.DataType.Value(kind)
    codes = (np.arange(66) % 2).astype(helper.tensor_dtype_to_np_dtype(number))
    model = product(tensor(pruned(1), "w"))
    model.ir_version, model.opset_import[0].version = 12, 25
    model.graph.initializer.append(numpy_helper.from_array(codes, "q"))
    assert damaged_tensor(model) is None
    onnx.save(
        model,
        tmp_path / "a.onnx",
        save_as_external_data=True,
        location="a.bin",
        size_threshold=0,
    )
    pack_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", verify=False)
    kept = {
        each.name: each
        for each in onnx.load(str(tmp_path / "b.onnx")).graph.initializer
    }["q"]
    assert np.array_equal(numpy_helper.to_array(kept), codes)


@pytest.mark.slow
def test_many_small_weights_take_linear_time(tmp_path: Path) -> None:
    """Four times as many weights: about four times as long, once and again (800 layers: 1.9 s and 0.6 s)."""

    def seconds(count: int) -> float:
        nodes = [
            helper.make_node("MatMul", [f"x{i}" if i else "x", f"w{i}"], [f"x{i + 1}"])
            for i in range(count)
        ]
        nodes[-1].output[0] = "y"
        weight = pruned(1) / 8
        source = save(
            model_of(nodes, [tensor(weight, f"w{i}") for i in range(count)]),
            tmp_path / "a.onnx",
        )
        start = time.process_time()
        pack_onnx(source, tmp_path / "b.onnx")
        unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
        return time.process_time() - start

    seconds(10)
    few, many = seconds(100), seconds(400)
    assert many < 7 * few
