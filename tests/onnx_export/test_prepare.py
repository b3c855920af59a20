"""The copy that is exported."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify_fx import export


class Remembering(nn.Module):
    """Keeps what it computed last, as RAFT keeps its correlations."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.last: dict[str, list[Tensor]] = {"seen": []}

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        self.last["seen"] = [out]
        return out.relu()


def test_a_model_is_exported_between_training_steps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Remembering(), torch.randn(3, 4)
    loss = model(x).sum()
    kept = model.last["seen"][0]
    export(model, tmp_path / "model.onnx", x)
    assert model.last["seen"][0] is kept
    assert model.training
    loss.backward()
    assert model.layer.weight.grad is not None


class Sharing(nn.Linear):
    """Its copies share its weight, as some modules do with large frozen tables."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Sharing:
        copied = Sharing(4, 4)
        copied.weight = self.weight
        return copied


def test_what_a_copy_shares_with_the_model_stays(tmp_path: Path) -> None:
    model = nn.Sequential(Sharing(4, 4), nn.Linear(4, 4)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export(model, tmp_path / "model.onnx", torch.randn(3, 4))
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()
    )


@pytest.mark.slow
def test_nothing_of_the_copy_stays_in_memory(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(500, 501), nn.ReLU(), nn.Linear(501, 3))
    export(model, tmp_path / "model.onnx", torch.randn(3, 500))
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) is nn.Parameter]
    own = {id(parameter) for parameter in model.parameters()}
    assert not [
        each.shape
        for each in tensors
        if id(each) not in own and tuple(each.shape) == (501, 500)
    ]
