"""What the two benchmarks of training share: the papers' listing as a case, and their files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsify_fx.programs.selection import select_layers
from sparsify_fx.training_cost.setting import Setting
from sparsify_fx.training_cost.trainee import Case

RESULTS = Path(__file__).parents[1] / "docs" / "results"
NAIVE = "m ⊙ w by parametrize"


class Product(nn.Module):
    """The listing of the papers: both factors and the mask have the weight's shape."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, m: Tensor, w: Tensor) -> Tensor:
        return m * w * self.mask

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(weight), weight


def naive_case(setting: Setting, sparsity: float) -> Case:
    """Sign-In's weights without this package, under random masks."""
    return Case(NAIVE, partial(_naive, setting, sparsity))


def _naive(setting: Setting, sparsity: float) -> nn.Module:
    model = setting.model()
    generator = torch.Generator().manual_seed(setting.seed)
    for layer in select_layers(model).values():
        owner, tensor = layer.places[0]
        draw = torch.rand(layer.weight.shape, generator=generator)
        mask = (draw >= sparsity).to(torch.uint8)
        product = Product(mask.to(layer.weight.device))
        parametrize.register_parametrization(owner, tensor, product)
    return model


def read(name: str) -> dict[str, Any]:
    """The results that are there; {} before the first run."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def write(name: str, results: dict[str, Any], page: str) -> None:
    """Results and the page that is made of them."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(results, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")


def table(*rows: tuple[str, ...]) -> str:
    """A table in Markdown; the first row is its head."""
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *others])


def machine(found: dict[str, Any]) -> str:
    """A sentence on where the figures are from."""
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items() if v)
    threads = "one thread" if found["threads"] == 1 else f"{found['threads']} threads"
    where = f"{found['processor']}, {found['instructions']}, {threads}"
    return f"Commit {found['commit']}; {where}; {versions}."
