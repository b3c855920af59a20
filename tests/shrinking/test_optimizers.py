"""State of optimizers that is no value for each entry is refused, that of wrapped ones is cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.errors import LayerError
from sparsify_fx.shrinking.optimizer import check_states, cut_states

KEPT = {"0.weight": {0: torch.arange(4)}, "0.bias": {0: torch.arange(4)}}


class Preconditioned(Optimizer):
    """A matrix for the rows and one for the columns, as in Shampoo; in a list, as in SOAP."""

    def __init__(self, params: Any, listed: bool = False) -> None:
        super().__init__(params, {"listed": listed})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                matrices = [torch.eye(size) for size in parameter.shape]
                own = {"matrices": matrices}
                self.state[parameter] = own if group["listed"] else dict(enumerate(matrices))  # fmt: skip


class Wrapping(Optimizer):
    """Another optimizer inside, and a slow copy of each parameter beside it."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {"slow": parameter.detach().clone()}


def trained(make: Any, rows: int = 8) -> tuple[nn.Module, Optimizer]:
    net = nn.Sequential(nn.Linear(8, rows), nn.Linear(rows, 2))
    optimizer = make(net)
    net(torch.ones(1, 8)).sum().backward()
    optimizer.step(lambda: _loss(net))
    return net, optimizer


def _loss(net: nn.Module) -> Tensor:
    net.zero_grad()
    loss: Tensor = net(torch.ones(1, 8)).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("rows", [8, 6])
def test_preconditioners_are_refused_also_of_square_weights(
    rows: int, listed: bool
) -> None:
    net, optimizer = trained(lambda m: Preconditioned(m.parameters(), listed), rows)
    with pytest.raises(LayerError, match="build a new one"):
        check_states(net, KEPT, [optimizer])


def test_a_row_of_all_parameters_is_refused_though_its_first_one_stays() -> None:
    net, optimizer = trained(
        lambda m: torch.optim.LBFGS([m[1].bias, *m[0].parameters(), m[1].weight])
    )
    with pytest.raises(LayerError, match="all parameters in one row"):
        check_states(net, KEPT, [optimizer])


def test_states_of_square_weights_and_of_wrapped_optimizers_are_cut() -> None:
    net, optimizer = trained(
        lambda m: Wrapping(torch.optim.AdamW(m.parameters(), amsgrad=True))
    )
    check_states(net, KEPT, [optimizer])
    cut_states(net, KEPT, [optimizer])
    weight = net[0].weight  # type: ignore[index]
    held = {**optimizer.state[weight], **optimizer.inner.state[weight]}  # type: ignore[attr-defined]
    shapes = {key: tuple(value.shape) for key, value in held.items()}
    assert shapes.pop("step") == ()
    assert set(shapes) == {"slow", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    assert set(shapes.values()) == {(4, 8)}
