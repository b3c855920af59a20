"""What cannot be kept right is refused in words before anything is written; quantized state that can, is."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_optimizer
import torch
import torchao.optim
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.errors import OptimizerStateWarning, SchedulerError
from sparsify_fx.optimizer_states import check_supported, clear_entries
from sparsify_fx.programs.owners import programs
from tests.conftest import small_net, train_step


class Coded(torch.optim.SGD):
    """Keeps momentum as integers of which nobody else knows what they mean."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if "codes" not in state:
                        state["codes"] = torch.zeros_like(parameter, dtype=torch.uint8)
                    state["codes"].add_(1)


class CPUOffloadOptimizer(torch.optim.SGD):
    """Called as torchao's, which starts with a GPU only."""


class ByName(torch.optim.SGD):
    """Keeps a velocity under the parameters' names."""

    def __init__(
        self, params: Any, lr: float = 0.1, names: dict[nn.Parameter, str] | None = None
    ) -> None:
        super().__init__(params, lr=lr)
        self.names = names

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for number, parameter in enumerate(group["params"]):
                if parameter.grad is None:
                    continue
                name = (
                    group["param_names"][number]
                    if "param_names" in group
                    else f"p{number}"
                )
                velocity = self.state[name].setdefault(
                    "velocity", torch.zeros_like(parameter)
                )
                velocity.mul_(0.9).add_(parameter.grad)
                with torch.no_grad():
                    parameter.sub_(velocity, alpha=group["lr"])


def prepared() -> nn.Module:
    return sparsify_fx.apply(small_net(), "set", sparsity=0.5)


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(
        torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()
    )


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda m: torch.optim.SparseAdam(m.parameters()),
            "SparseAdam takes sparse gradients only",
        ),
        (
            lambda m: pytorch_optimizer.load_optimizer("lomo")(m),
            "LOMO updates weights within backward",
        ),
        (
            lambda m: Coded(m.parameters(), lr=0.1),
            "Coded keeps its state 'codes' as torch.uint8 codes of a layout",
        ),
        (
            lambda m: CPUOffloadOptimizer(m.parameters(), lr=0.1),
            "copies of the weights elsewhere",
        ),
    ],
)
def test_what_cannot_be_kept_right_is_refused_at_the_scheduler(
    build: Any, words: str
) -> None:
    model = prepared()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SchedulerError, match=words):
        sparsify_fx.Scheduler(model, build(model), epochs=2, steps_per_epoch=2)
    assert unchanged(model, before)


def test_a_parameter_in_two_optimizers_is_named() -> None:
    model = prepared()
    parameters = dict(model.named_parameters())
    optimizers = [
        torch.optim.SGD(model.parameters(), lr=0.1),
        torch.optim.Adam([parameters["1.weight"]]),
    ]
    with pytest.raises(
        SchedulerError,
        match=r"1.weight is in two optimizers, number 0 \(SGD\) and number 1 \(Adam\)",
    ):
        check_supported(optimizers, parameters)
    with pytest.raises(SchedulerError, match="there is no optimizer"):
        check_supported([], parameters)
    with pytest.raises(SchedulerError, match="Linear is no optimizer"):
        check_supported([nn.Linear(2, 2)], parameters)


def test_state_under_names_is_found_or_refused() -> None:
    model = prepared()
    optimizer = ByName(list(model.named_parameters()))
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=3, steps_per_epoch=2, learning_rate="constant"
    )
    for step in range(4):
        train_step(model, optimizer, seed=step)
        scheduler.step()
        for name, program in programs(model).items():
            velocity = optimizer.state[f"{name}_program.dense"]["velocity"]
            pruned = program.current_mask() == 0
            assert not velocity[pruned].any()
            assert velocity[~pruned].any()
    anonymous = ByName(model.parameters())
    train_step(model, anonymous)
    with pytest.raises(
        SchedulerError, match=r"keeps state under the name 'p0'.*named_parameters"
    ):
        check_supported([anonymous], dict(model.named_parameters()))


def test_layouts_that_come_later_are_refused_before_masks_change() -> None:
    """The first mask update is an event; the layout is new since the check at the Scheduler."""
    model = prepared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=3, steps_per_epoch=1, learning_rate="constant"
    )
    train_step(model, optimizer)
    last = list(programs(model).values())[-1].get_parameter("dense")
    optimizer.state[last]["codes"] = torch.zeros_like(last, dtype=torch.uint8)
    masks = {
        name: program.current_mask().clone()
        for name, program in programs(model).items()
    }
    with pytest.raises(SchedulerError, match="codes of a layout"):
        scheduler.step()
    assert all(
        torch.equal(program.current_mask(), masks[name])
        for name, program in programs(model).items()
    )


@pytest.mark.parametrize("kind", ["AdamW8bit", "AdamW4bit", "AdamWFp8"])
def test_quantized_state_is_edited_by_its_codes(kind: str) -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(64, 128))
    optimizer = getattr(torchao.optim, kind)([parameter], lr=0.01)
    with torch.compiler.set_stance("force_eager"):
        for _ in range(3):
            parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    state = optimizer.state[parameter]
    entries = torch.rand(64, 128) < 0.7
    entries[:4] = True  # whole blocks
    before = {key: state[key].dequantize().clone() for key in ("exp_avg", "exp_avg_sq")}
    coarse = kind == "AdamW4bit"
    with (
        pytest.warns(OptimizerStateWarning, match="no code for 0")
        if coarse
        else torch.no_grad()
    ):
        clear_entries([optimizer], parameter, entries)
    for key, old in before.items():
        new = state[key].dequantize()
        assert torch.equal(new[~entries], old[~entries]), key
        if not (coarse and key == "exp_avg_sq"):
            assert not new[entries].any(), key
    assert not state["exp_avg_sq"].dequantize()[:4].any(), (
        "a block that is zero wholly is exactly zero"
    )


def test_several_optimizers_share_a_schedule() -> None:
    """Muon for matrices, which moves entries without a gradient, and AdamW for the rest."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    )
    sparsify_fx.apply(model, "set", sparsity=0.8)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02),
        torch.optim.AdamW([p for p in model.parameters() if p.dim() != 2], lr=1e-3),
    ]
    scheduler = sparsify_fx.Scheduler(
        model, optimizers, epochs=3, steps_per_epoch=2, learning_rate="constant"
    )
    moved = 0
    while not scheduler.finished:
        for optimizer in optimizers[1:]:
            optimizer.zero_grad()
        train_step(model, optimizers[0], seed=scheduler.step_count)
        optimizers[1].step()
        dense = [program.get_parameter("dense") for program in programs(model).values()]
        masks = [program.current_mask() == 0 for program in programs(model).values()]
        moved += sum(
            int(factor[mask].count_nonzero())
            for factor, mask in zip(dense, masks, strict=True)
        )
        scheduler.step()
        for program in programs(model).values():
            assert not program.get_parameter("dense")[program.current_mask() == 0].any()
    assert moved, "Muon moves pruned entries within its step"
