"""The copy that is exported."""

from __future__ import annotations

from pathlib import Path

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
