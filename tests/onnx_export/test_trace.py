"""What torch.onnx writes is checked before anything is done with it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sparsify_fx import export


class Clamped(nn.Module):
    """Two clamps of one value between limits in buffers, as in timm's gemma4: torch's optimizer loses two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        for name, limit in (
            ("low", -1.0),
            ("high", 1.0),
            ("lower", -2.0),
            ("higher", 2.0),
        ):
            self.register_buffer(name, torch.tensor(limit))

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        narrow, wide = (
            self.first(y.clamp(self.low, self.high)),
            self.second(y.clamp(self.lower, self.higher)),
        )
        return narrow.clamp(self.low, self.high) + wide.clamp(self.low, self.high)


def test_a_graph_with_missing_values_is_traced_once_more(tmp_path: Path) -> None:
    torch.manual_seed(0)
    report = export(Clamped().eval(), tmp_path / "model.onnx", 3 * torch.randn(3, 4))
    assert report.max_rel_difference is not None
    assert report.max_rel_difference < 1e-5
