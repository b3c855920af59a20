"""What a training loop may do beside the usual: it is the same in both storages, or an error in words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import Lookahead
from torch import nn
from torch.distributed import checkpoint
from torch.optim import Adafactor, Muon, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparsify_fx
from sparsify_fx.errors import CollapseWarning, LayerError, SchedulerError
from sparsify_fx.programs.owners import programs
from tests.living.common import STORAGES, check_alike, storages

INPUTS = torch.linspace(-1, 1, 8 * 16).sin().view(8, 16)


def net(hidden: int = 32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, hidden), nn.ReLU(), nn.Linear(hidden, 32), nn.Linear(32, 4)
    )


def applied(storage: str, method: str = "signin", **options: Any) -> nn.Sequential:
    options = {"sparsity": 0.8, **options}
    return sparsify_fx.apply(net(), method, storage=storage, **options)


def losses(model: nn.Module, optimizer: Any, steps: int = 4) -> list[float]:
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(INPUTS).square().mean()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def matrices(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.dim() == 2]


@pytest.mark.parametrize("kind", [Muon, Adafactor])
def test_layers_that_are_unfrozen_later_are_looked_at(
    kind: Callable[..., Optimizer],
) -> None:
    """The optimizer made steps with others before; its groups get more parameters."""
    found = []
    for storage in ("full", "auto"):
        model = applied(storage)
        optimizer = kind(matrices(model[3]), lr=1e-2)
        trained = losses(model, optimizer)
        optimizer.add_param_group({"params": matrices(model[0])})
        trained += losses(model, optimizer)
        optimizer.param_groups[0]["params"].extend(matrices(model[2]))
        found.append(trained + losses(model, optimizer))
        assert storages(model) == {"full"}
    check_alike(*found)


def test_a_wrapper_and_its_optimizer_move_state_once() -> None:
    """Both made steps, so both are asked for the state that follows."""
    model = applied("living", "random")
    optimizer = Lookahead(torch.optim.AdamW(model.parameters(), lr=1e-2), k=3)
    losses(model, optimizer)
    program = programs(model)["0.weight"]
    state = optimizer._base_optimizer.state[program.dense]
    moment = program.restored(state["exp_avg"]).clone()
    mask = program.mask.clone()
    mask[:5] = 0
    program.set_mask(mask)
    assert torch.equal(program.restored(state["exp_avg"]), moment * mask)
    losses(model, optimizer)


def test_state_of_optimizers_that_the_scheduler_does_not_know_follows() -> None:
    """One optimizer for each parameter, which steps in a hook of the backward pass."""
    found = []
    for storage in STORAGES:
        model = applied(storage, "gmp")
        for parameter in model.parameters():
            own = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
            step_in_backward(parameter, own)
        told = torch.optim.SGD(model.parameters(), lr=0.0)
        scheduler = sparsify_fx.Scheduler(model, told, epochs=3, steps_per_epoch=3)
        trained = []
        while not scheduler.finished:
            trained += losses(model, told, 1)
            scheduler.step()
        found.append(trained)
    check_alike(*found)


def step_in_backward(parameter: nn.Parameter, optimizer: Optimizer) -> None:
    parameter.register_post_accumulate_grad_hook(lambda _: optimizer.step())


def test_first_steps_within_a_backward_pass_are_refused_where_storage_changes() -> None:
    model = applied("auto")
    for parameter in model.parameters():
        step_in_backward(parameter, Adafactor([parameter], lr=1e-2))
    with pytest.raises(SchedulerError, match="inside a backward pass"):
        model(INPUTS).sum().backward()


def test_averages_follow_into_full_storage() -> None:
    """An average that is made before the first step of an optimizer that needs whole weights."""
    found = []
    for storage in ("full", "auto"):
        model = applied(storage)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        optimizer = Muon(matrices(model), lr=1e-2)
        for _ in range(3):
            losses(model, optimizer, 1)
            average.update_parameters(model)
        found.append(average(INPUTS))
    assert torch.allclose(*found, atol=1e-6)


def test_vectors_of_layers_without_a_living_entry_are_not_empty() -> None:
    """Clipping by the largest gradient is an error for a tensor without entries."""
    model = net()
    with torch.no_grad():
        model[2].weight.mul_(1e-6)
    with pytest.warns(CollapseWarning):
        sparsify_fx.apply(model, "random", criterion="magnitude", allocation="global")
    program = programs(model)["2.weight"]
    assert program.dense.shape == (1, 1)
    assert not program.mask.any()
    optimizer = torch.optim.AdamW(model.parameters())
    losses(model, optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0, norm_type=float("inf"))
    assert not model[2].weight.any()
    assert not model.state_dict()["2.weight_program.dense"].numel()
    model.load_state_dict(model.state_dict())


def test_sparse_gradients_of_embeddings() -> None:
    words = torch.arange(12).view(2, 6)
    found = []
    for storage in STORAGES:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(20, 8, sparse=True), nn.Linear(8, 4))
        sparsify_fx.apply(model, "random", include=["0", "1"], storage=storage)
        model(words).square().sum().backward()
        program = programs(model)["0.weight"]
        gradient = program.dense.grad
        full = gradient.to_dense() if gradient.is_sparse else gradient
        found.append(program.restored(full))
    assert torch.equal(*found)


def test_masks_that_change_in_inference_mode() -> None:
    """What is made there could never be trained."""
    found = []
    for storage in STORAGES:
        model = applied(storage, "gmp")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=3, steps_per_epoch=3)
        trained = []
        while not scheduler.finished:
            trained += losses(model, optimizer, 1)
            with torch.inference_mode():
                scheduler.step()
        other = applied(storage, "gmp")
        with torch.inference_mode():
            model.load_state_dict(other.state_dict())
        found.append(trained + losses(model, optimizer, 1))
    check_alike(*found)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_states_that_are_read_in_place(tmp_path: Path) -> None:
    """torch.distributed.checkpoint writes into the tensors of the state dict that it is given."""
    for storage in STORAGES:
        other = applied(storage, "random", seed=4)
        model = applied(storage, "random")
        losses(other, torch.optim.SGD(other.parameters(), lr=0.1))
        folder = str(tmp_path / storage)
        checkpoint.save(other.state_dict(), checkpoint_id=folder)
        state = model.state_dict()
        checkpoint.load(state, checkpoint_id=folder)
        model.load_state_dict(state)
        assert torch.equal(model(INPUTS), other(INPUTS))


@pytest.mark.parametrize("hidden", [32, 4992])
def test_masks_that_are_written_in_place_are_refused(hidden: int) -> None:
    """The large layer makes the gradient of its weight in blocks, and places its weight itself."""
    model = sparsify_fx.apply(net(hidden), "random", storage="living")
    mask = programs(model)["0.weight"].mask
    mask.copy_(mask.clone())
    model(INPUTS)
    mask.copy_(mask.flip(0))
    for use in (lambda: model(INPUTS), lambda: sparsify_fx.dense_state_dict(model)):
        with pytest.raises(LayerError, match="written in place"):
            use()


def test_vectors_of_another_length_do_not_load_without_their_mask() -> None:
    model, other = (applied("living", "random", sparsity=s) for s in (0.8, 0.7))
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.load_state_dict(own, strict=False)
    state = {n: t for n, t in other.state_dict().items() if not n.endswith("mask")}
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(state, strict=False)


def test_a_step_between_two_losses() -> None:
    """A parameter may be written before a loss that was computed with it goes backward."""
    found = []
    for storage in STORAGES:
        model = sparsify_fx.apply(net(4992), "random", storage=storage)[0]
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        several = [model(INPUTS * k).square().sum() for k in (1, 2)]
        for loss in several:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append(programs(model)["weight"].effective())
    assert torch.equal(*found)


def test_derivatives_of_gradients_see_a_step_in_between() -> None:
    model = sparsify_fx.apply(net(4992), "random", storage="living")[0]
    inputs = INPUTS.clone().requires_grad_()
    loss = model(inputs).square().sum()
    with torch.no_grad():
        programs(model)["weight"].dense.mul_(2)
    with pytest.raises(RuntimeError, match="modified in place"):
        torch.autograd.grad(loss, inputs, create_graph=True)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_programs_run_without_this_package(strict: bool) -> None:
    model = applied("living").eval()
    exported = torch.export.export(model, (INPUTS,), strict=strict)
    assert torch.allclose(exported.module()(INPUTS), model(INPUTS), atol=1e-6)
    targets = {str(node.target).partition(".")[0] for node in exported.graph.nodes}
    assert "sparsify_fx" not in targets


def test_trainings_in_several_threads() -> None:
    found: dict[int, list[float]] = {}

    def work(number: int) -> None:
        model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
        with torch.no_grad():
            for each in model.parameters():
                each.copy_(torch.linspace(-1, 1, each.numel()).view_as(each))
        sparsify_fx.apply(model, "gmp", storage="living")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=3, steps_per_epoch=3)
        trained = []
        while not scheduler.finished:
            trained += losses(model, optimizer, 1)
            scheduler.step()
        found[number] = trained

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work(3)
    assert len(found) == 4
    assert all(trained == found[3] for trained in found.values())
