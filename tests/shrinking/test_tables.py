"""Tables of positions keep the places that an example does not reach: they are no channels."""

from __future__ import annotations

import copy
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import sparsify_fx
from sparsify_fx.shrinking import shrink


class Positions(nn.Module):
    """Adds what stands in a table of 20 places; `mask`: causal attention by a buffer of 20 by 20, too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        table = torch.randn(1, 20, 16)
        if kind == "parameter":
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)
        self.register_buffer("mask", torch.ones(1, 20, 20).tril())
        self.last.weight.data[:, 8:] = 0

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        y = self.first(x) + self.table[:, :length]
        if self.kind == "mask":
            scores = torch.ones(1, length, length)
            scores = scores.masked_fill(self.mask[:, :length, :length] == 0, 0.0)
            y = scores @ y
        return self.last(y.relu())


@pytest.mark.parametrize("kind", ["parameter", "buffer", "mask"])
@pytest.mark.parametrize("length", [1, 5, 20])
def test_longer_inputs_go_through_afterwards(kind: str, length: int) -> None:
    model = Positions(kind).eval()
    before = copy.deepcopy(model)
    report = shrink(model, torch.randn(2, length, 6))
    assert report.changed
    x = torch.randn(2, 20, 6)
    torch.testing.assert_close(model(x), before(x), rtol=1e-5, atol=1e-5)
    assert model.mask.shape == (1, 20, 20)
    assert model.table.shape[1] == 20


@pytest.mark.slow
def test_a_file_of_a_masked_model_takes_longer_inputs(tmp_path: Path) -> None:
    model = Positions("parameter")
    x = torch.randn(2, 6, 6)
    sparsify_fx.apply(
        model,
        "magnitude",
        schedule="at-init",
        sparsity=0.4,
        granularity="channel",
        example_inputs=x,
    )
    path = str(tmp_path / "model.onnx")
    sparsify_fx.export(
        model, path, x, dynamic_shapes={"x": {1: Dim("n", min=2, max=20)}}
    )
    longer = torch.randn(2, 12, 6)
    with torch.no_grad():
        expected = model.eval()(longer)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": longer.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
