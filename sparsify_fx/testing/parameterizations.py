"""The laws of a parameterization: θ comes back from its factors, and a model trains, copies and merges with it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sparsify_fx.api import apply, merge
from sparsify_fx.parameterizations import Balancing, Moment, Parameterization
from sparsify_fx.passes import Rescale
from sparsify_fx.programs.owners import programs
from sparsify_fx.recipe import axis_value
from sparsify_fx.testing.small import (
    alike,
    effective,
    ensure,
    merged_at_once,
    small_net,
    train_step,
)
from sparsify_fx.testing.training import masks_of, sgd


def check_parameterization(parameterization: str | Parameterization) -> None:
    """θ comes back from its factors, within `error_bound`; in a model it trains, copies, loads, prunes and merges.

    Stored for living entries alone (see `sparsify_fx.apply`) it trains the same, unless some entries share a tensor.
    One with a balance (see `Balancing`) is restored without a change of θ, and a second time changes nothing.

    >>> from sparsify_fx.parameterizations import Product
    >>> check_parameterization(Product(beta=0.5))
    """
    how: Parameterization = axis_value("parameterization", parameterization)
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        # Every order of magnitude, both signs, and zero: square roots of tiny numbers lose more than
        # those of weights, and a root at zero has no slope.
        sizes = torch.logspace(-30, 15, 46, dtype=dtype)
        theta = torch.cat(
            [
                torch.randn(200, generator=generator).to(dtype),
                sizes,
                -sizes,
                torch.zeros(2, dtype=dtype),
            ]
        )
        _splits(how, theta)
    _trains_and_merges(how)
    _trains_alike_when_living(how)


def _splits(how: Parameterization, theta: Tensor) -> None:
    """The factors that `split` gives are what the class says, and make θ again."""
    parts, state = how.split(theta), how.state(theta)
    ensure(
        set(parts) == set(how.factors),
        f"{how}: split gives {sorted(parts)}, the factors are {how.factors}",
    )
    for name, part in parts.items():
        ensure(
            part.shape == theta.shape,
            f"{how}: split gives {name} the shape {tuple(part.shape)} of no weight",
        )
        ensure(
            part.dtype == theta.dtype,
            f"{how}: split gives {name} the dtype {part.dtype}, not {theta.dtype}",
        )
    ensure(
        set(how.transient) <= set(state),
        f"{how}: transient names {how.transient}, the state is {sorted(state)}",
    )

    # Noise is part of the state and not of θ: with none of it the value has to be θ.
    how.refresh(state, Moment(progress=0.0, seed=0))
    if "noisy" in state:
        state["noisy"].zero_()
    value = how.value({**parts, **how.shared(theta), **state})
    off = (value - theta).abs() > how.error_bound(theta)
    # The first θ that is off is told: its size says whether it is small numbers or large ones.
    if off.any():
        worst = theta[off][0].item()
        ensure(
            False,
            f"{how}: value(split(θ)) misses θ = {worst:g} by more than error_bound, in {theta.dtype}",
        )


def _trains_and_merges(how: Parameterization) -> None:
    """In the small net at half of the weights."""
    # 1. Training: SGD with momentum and weight decay, which would move pruned entries if they could.
    model = apply(small_net(), "random", parameterization=how, sparsity=0.5)
    masks, optimizer = masks_of(model), sgd(model)
    twin = copy.deepcopy(model)
    for step in range(3):
        train_step(model, optimizer, step)
    for name, weight in effective(model).items():
        ensure(
            torch.isfinite(weight).all(),
            f"{how}: three steps of SGD make {name} infinite or NaN",
        )
        ensure(
            (weight[masks[name] == 0] == 0).all(),
            f"{how}: SGD moves pruned entries of {name}",
        )

    # 2. The balance, on trained factors: those that `split` gave are balanced already.
    if isinstance(how, Balancing):
        _rescales(how, model)

    # 3. A copy takes the state dict and computes the same bits. In eval mode: noise would differ.
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    model.eval(), twin.eval()
    ensure(
        alike(effective(model), effective(twin)),
        f"{how}: a loaded state dict computes other weights",
    )

    # 4. What merge leaves is what the programs computed.
    expected = {
        name: program.effective().clone() for name, program in programs(model).items()
    }
    with merged_at_once():
        merge(model)
    for name, weight in expected.items():
        ensure(
            torch.equal(model.get_parameter(name), weight),
            f"{how}: merge gives another {name} than the program",
        )


def _rescales(how: Parameterization, model: nn.Module) -> None:
    """`Rescale` keeps θ and the zeros, and leaves nothing for a second one to do."""
    found = programs(model)
    before = {name: program.theta() for name, program in found.items()}
    pruned = {name: program.effective() == 0 for name, program in found.items()}
    Rescale()(model)
    for name, program in programs(model).items():
        moved = (program.theta() - before[name]).abs() > how.error_bound(before[name])
        ensure(
            not moved.any(),
            f"{how}: Rescale changes the weight {name} by more than error_bound",
        )
        ensure(
            (program.effective()[pruned[name]] == 0).all(),
            f"{how}: Rescale brings pruned entries of {name} back",
        )
    ensure(
        not Rescale()(model).modified,
        f"{how}: factors are unbalanced right after a Rescale, see unbalanced()",
    )


def _trains_alike_when_living(how: Parameterization) -> None:
    """Vectors of living entries train as whole tensors do, and take each other's states."""
    # Entries that compete, or share a tensor with some others: such a weight is never stored so.
    if getattr(how, "together", False) or any(
        tensor.dim() > 0 for tensor in how.shared(torch.zeros(2, 2)).values()
    ):
        return
    full, living = (
        apply(
            small_net(), "random", parameterization=how, sparsity=0.5, storage=storage
        )
        for storage in ("full", "living")
    )
    for model in (full, living):
        optimizer = sgd(model)
        for step in range(3):
            train_step(model, optimizer, step)
        model.eval()
    told = f"{how}: value, split and refresh must make each entry by itself"
    for name, weight in effective(full).items():
        ensure(
            torch.allclose(effective(living)[name], weight, rtol=1e-4, atol=1e-6),
            f"{told}; with storage='living' three steps of SGD make another {name}",
        )
    for model, other in ((full, living), (living, full)):
        expected = copy.deepcopy(effective(other))
        model.load_state_dict(copy.deepcopy(other.state_dict()))
        ensure(
            alike(effective(model.eval()), expected),
            f"{told}; a state of the other storage computes other weights",
        )
