"""N:M patterns run along the inputs of an output unit, whatever the layout of the weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest
import timm.layers
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import sparsify_fx
from sparsify_fx.programs.input_layouts import InputLayout, input_layouts, layout_of

Run = Callable[[nn.Module, Tensor], Tensor]


def channels(module: nn.Module, x: Tensor) -> Tensor:
    """Outputs by channel, of inputs by channel that are one everywhere else."""
    return module(x.reshape(1, -1, *[1] * (module.weight.dim() - 2))).reshape(-1)  # type: ignore[attr-defined]


def features(module: nn.Module, x: Tensor) -> Tensor:
    return module(x[None]).reshape(-1)


def routed(module: nn.Module, x: Tensor) -> Tensor:
    """Every expert of a mixture in turn, one after the other."""
    routes = torch.eye(module.num_experts)  # type: ignore[arg-type]
    outputs = module(x.reshape(1, -1, 1, 1).repeat(len(routes), 1, 1, 1), routes)
    return outputs.reshape(-1)


CASES: list[tuple[Callable[[], nn.Module], Run, int]] = [
    (lambda: nn.Linear(16, 6, bias=False), features, 16),
    (lambda: Conv1D(6, 16), features, 16),
    (lambda: nn.Conv1d(16, 6, 1, bias=False), channels, 16),
    (lambda: nn.Conv2d(16, 6, 1, groups=2, bias=False), channels, 16),
    (lambda: nn.ConvTranspose1d(16, 6, 1, bias=False), channels, 16),
    (lambda: nn.ConvTranspose2d(16, 6, 1, groups=2, bias=False), channels, 16),
    (lambda: nn.ConvTranspose3d(8, 12, 1, groups=2, bias=False), channels, 8),
    (lambda: timm.layers.CondConv2d(16, 6, 1, bias=False, num_experts=3), routed, 16),
]


def connections(
    module: nn.Module, run: Run, inputs: int
) -> dict[int, list[tuple[int, int]]]:
    """For each output unit the (input, flat position of the weight) that reach it, found by running the module."""
    size = module.weight.numel()  # type: ignore[union-attr]
    found = defaultdict(list)
    for position in range(size):
        with torch.no_grad():
            weight = torch.zeros(size)
            weight[position] = 1
            module.weight.copy_(weight.reshape(module.weight.shape))  # type: ignore[operator,union-attr]
            for i in range(inputs):
                for unit in (
                    run(module, torch.eye(inputs)[i]).nonzero().flatten().tolist()
                ):
                    found[unit].append((i, position))
    return {unit: sorted(pairs) for unit, pairs in found.items()}


@pytest.mark.cross_section(
    "random-2-4-<lambda>-features-16_0",
    "random-2-4-<lambda>-channels-16_0",
    "random-2-4-<lambda>-channels-16_2",
    "random-2-4-<lambda>-channels-8",
    "random-1-4-<lambda>-features-16_0",
    "random-1-4-<lambda>-channels-16_0",
    "random-1-4-<lambda>-channels-16_2",
    "random-1-4-<lambda>-channels-8",
    "random-3-4-<lambda>-features-16_0",
    "random-3-4-<lambda>-channels-16_0",
    "random-3-4-<lambda>-channels-16_2",
    "random-3-4-<lambda>-channels-8",
    "magnitude-2-4-<lambda>-features-16_0",
    "magnitude-2-4-<lambda>-channels-16_0",
    "magnitude-2-4-<lambda>-channels-16_2",
    "magnitude-2-4-<lambda>-channels-8",
    "magnitude-1-4-<lambda>-features-16_0",
    "magnitude-1-4-<lambda>-channels-16_0",
    "magnitude-1-4-<lambda>-channels-16_2",
    "magnitude-1-4-<lambda>-channels-8",
    "magnitude-3-4-<lambda>-features-16_0",
    "magnitude-3-4-<lambda>-channels-16_0",
    "magnitude-3-4-<lambda>-channels-16_2",
    "magnitude-3-4-<lambda>-channels-8",
)
@pytest.mark.slow
@pytest.mark.parametrize(("build", "run", "inputs"), CASES)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4)])
@pytest.mark.parametrize("method", ["random", "magnitude"])
def test_every_group_of_inputs_of_every_unit_keeps_n(
    build: Callable[[], nn.Module], run: Run, inputs: int, n: int, m: int, method: str
) -> None:
    torch.manual_seed(0)
    table = connections(build(), run, inputs)
    given = {"sparsity": 1 - n / m, "allocation": {"name": "n:m", "n": n, "m": m}}
    model = nn.Sequential(build())
    sparsify_fx.apply(model, method, **given)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=1, steps_per_epoch=1)
    while not scheduler.finished:
        run(model[0], torch.randn(inputs)).sum().backward()
        optimizer.step()
        scheduler.step()
    kept = (sparsify_fx.merge(model)[0].weight != 0).flatten()
    for pairs in table.values():
        for start in range(0, len(pairs), m):
            assert (
                sum(bool(kept[position]) for _, position in pairs[start : start + m])
                == n
            )


def test_layouts_go_there_and_back() -> None:
    for build, _, _ in CASES:
        layer = build()
        layout, weight = layout_of(layer), layer.weight.detach()
        standard = layout.standard(weight)
        assert standard.shape == layout.shape(tuple(weight.shape))
        assert torch.equal(layout.back(standard, tuple(weight.shape)), weight)
    deep = nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.ReLU(), nn.GRU(4, 4))
    sparsify_fx.apply(deep, "random", sparsity=0.5)
    assert input_layouts(deep)["0.weight"] == InputLayout(transposed=True)
    assert input_layouts(deep)["2.weight_hh_l0"] == InputLayout()


def test_groups_that_inputs_do_not_fill_stay_dense() -> None:
    model = nn.Sequential(
        nn.ConvTranspose2d(12, 8, 1, groups=2, bias=False),
        nn.Conv2d(8, 8, 1, bias=False),
    )
    sparsify_fx.apply(
        model, "random", sparsity=32 / 112, allocation={"name": "n:m"}
    )  # six inputs a unit: no groups
    left = [int((layer.weight != 0).sum()) for layer in sparsify_fx.merge(model)]
    assert left == [48, 32]
