"""Zeros before a max pooling stay zeros in onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from sparsify_fx import export
from sparsify_fx.onnx_export.tracing.clean import keep_zero_padding


class Padded(nn.Module):
    """The stem of hgnetv2: a convolution with negative outputs, zeros below and to the right, a max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(
            F.max_pool2d(F.pad(-self.first(x).abs(), (0, 1, 0, 1)), 2, 1)
        )
        return out


def pooled(
    opset: int, inputs: str, mode: str = "constant", reader: str = "MaxPool"
) -> onnx.ModelProto:
    """x [1, 1, 4, 4] -> Pad by one below and to the right -> pooling."""
    constants = {
        "pads": np.array([0, 0, 0, 0, 0, 0, 1, 1]),
        "zero": np.float32(0),
        "axes": np.arange(4),
    }
    x, y = (helper.make_tensor_value_info(name, 1, [1, 1, 4, 4]) for name in "xy")
    nodes = [
        helper.make_node("Pad", ["x", *inputs.split(" ")], ["p"], mode=mode),
        helper.make_node(reader, ["p"], ["y"], kernel_shape=[2, 2]),
    ]
    tensors = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)]
    )


@pytest.mark.parametrize("inputs", ["pads", "pads zero", "pads "])
def test_a_border_of_zeros_wins_over_negative_values(inputs: str) -> None:
    model, x = pooled(18, inputs), -np.ones((1, 1, 4, 4), np.float32)
    assert keep_zero_padding(model) == 1
    assert keep_zero_padding(model) == 0
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"x": x})
    assert (found[..., -1, :] == 0).all()
    assert (found[..., :, -1] == 0).all()
    assert (found[..., :3, :3] == -1).all()


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(pooled(18, "pads zero axes"), id="axes are given"),
        pytest.param(pooled(18, "pads", mode="reflect"), id="no zeros"),
        pytest.param(
            pooled(18, "pads", reader="AveragePool"),
            id="an average takes the zeros as they are",
        ),
        pytest.param(pooled(17, "pads"), id="axes are not known yet"),
    ],
)
def test_other_padding_stays(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    assert keep_zero_padding(model) == 0
    assert model.SerializeToString() == before


def test_an_exported_model_keeps_its_zeros_while_channels_go(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Padded().eval()
    with torch.no_grad():
        model.first.weight[:3] = 0.0
        model.first.bias[:3] = 0.0  # type: ignore[index]
        model.last.weight[:, 5] = 0.0
    report = export(model, tmp_path / "model.onnx", torch.randn(2, 3, 9, 9))
    assert report.max_rel_difference is not None
    assert report.max_rel_difference < 1e-5
    assert sum(row.channels for row in report.passes) == 4
    (pad,) = [
        node
        for node in onnx.load(tmp_path / "model.onnx").graph.node
        if node.op_type == "Pad"
    ]
    assert len(pad.input) == 4
