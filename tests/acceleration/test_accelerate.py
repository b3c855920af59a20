"""Accelerated models train as they did, and know their way back."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sparsify_fx
from sparsify_fx.errors import LayerError, MethodError
from sparsify_fx.living.products.choice import estimate
from sparsify_fx.living.products.shapes import Shape, lies_side_by_side
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.products import CHOICE


class Block(nn.Module):
    """A residual block with what stands between convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding="same")
        self.norm2 = nn.BatchNorm2d(channels, momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return torch.relu_(self.norm2(self.conv2(y)) + x)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        Block(16),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 32),
        nn.ReLU(),
        nn.Linear(32, 4),
    )


def sparse(method: str = "random", storage: str = "living") -> nn.Module:
    return sparsify_fx.apply(small(), method, sparsity=0.7, storage=storage)


def data(images: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(images, 3, 19, 17, generator=generator)
    return inputs, torch.randint(0, 4, (images,), generator=generator)


def train(model: nn.Module, steps: int = 3, images: int = 16) -> list[float]:
    """Losses of some steps."""
    inputs, targets = data(images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("images", [16, 5])
@pytest.mark.parametrize("method", ["random", "signin"])
def test_a_training_is_the_same_but_for_rounding(method: str, images: int) -> None:
    one, other = sparse(method), sparse(method)
    sparsify_fx.accelerate(other, kernels="always")
    assert train(other, images=images) == pytest.approx(
        train(one, images=images), rel=1e-4
    )
    for (name, wanted), found in zip(
        sparsify_fx.dense_state_dict(one).items(),
        sparsify_fx.dense_state_dict(other).values(),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4, msg=name)


def test_two_trainings_have_the_same_bits_on_any_number_of_threads() -> None:
    before, losses = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            model = sparsify_fx.accelerate(sparse("signin"), kernels="always")
            layer = model[4].conv1  # type: ignore[index]
            made = layer(torch.ones(16, 16, 6, 6))
            losses.append(
                (made, *torch.autograd.grad(made.sum(), [*layer.parameters()]))
            )
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *losses))


def test_images_lie_side_by_side_between_layers() -> None:
    model = sparsify_fx.accelerate(sparse(), kernels="always")
    x, seen = data()[0], []
    for layer in model[:6]:  # type: ignore[index]
        x = layer(x)
        seen.append(lies_side_by_side(x))
    assert all(seen)


def test_merging_leaves_nothing_behind() -> None:
    model = sparsify_fx.accelerate(sparse(), data()[0])
    wanted = model.eval()(data()[0])
    sparsify_fx.merge(model)
    plain = small()
    for merged, module in zip(model.modules(), plain.modules(), strict=True):
        assert type(merged) is type(module)
        assert merged.__dict__.keys() == module.__dict__.keys()
    torch.testing.assert_close(model(data()[0]), wanted, rtol=1e-4, atol=1e-5)


def test_copies_and_pickles_go_on() -> None:
    model = sparsify_fx.accelerate(sparse(), kernels="always")
    wanted = train(copy.deepcopy(model))
    assert train(pickle.loads(pickle.dumps(model))) == pytest.approx(wanted, rel=1e-5)
    assert train(model) == wanted


def test_masks_that_change_are_followed() -> None:
    found = []
    for fast in (False, True):
        torch.manual_seed(0)
        model = sparsify_fx.apply(small(), "set", sparsity=0.7, storage="living")
        if fast:
            sparsify_fx.accelerate(model, kernels="always")
        inputs, targets = data()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=4, steps_per_epoch=3)
        for _ in range(12):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            scheduler.step()
        found.append(loss.item())
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_checkpointing_and_functional_call() -> None:
    model = sparsify_fx.accelerate(sparse(), kernels="always").eval()
    inputs, targets = data()
    leaves = [*model.parameters()]
    wanted = torch.autograd.grad(F.cross_entropy(model(inputs), targets), leaves)
    made = checkpoint(model, inputs, use_reentrant=False)
    found = torch.autograd.grad(F.cross_entropy(made, targets), leaves)
    assert all(map(torch.equal, found, wanted))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    called = torch.func.functional_call(model, tensors, (inputs,))
    assert torch.equal(called, model(inputs))


def test_in_other_precisions_layers_compute_as_before() -> None:
    one = sparse().eval()
    other = sparsify_fx.accelerate(sparse(), kernels="always").eval()
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(one(data()[0]), other(data()[0]))
    with pytest.raises(RuntimeError, match="should be the same"):
        other(data()[0].bfloat16())
    inputs = data()[0].double()
    assert torch.equal(one.double()(inputs), other.double()(inputs))


@pytest.mark.parametrize("compiled", [False, True])
def test_under_autocast_images_are_bfloat16_and_gradients_near_those_in_float32(
    compiled: bool,
) -> None:
    model = sparsify_fx.accelerate(sparse(), data()[0], kernels="always").eval()
    run = torch.compile(model, backend="aot_eager") if compiled else model
    inputs, targets = data()
    leaves = [*model.parameters()]
    wanted = torch.autograd.grad(F.cross_entropy(model(inputs), targets), leaves)
    kept: set[torch.dtype] = set()

    def note(tensor: Tensor) -> Tensor:
        images = tensor.dim() > 1 and len(tensor) == len(inputs)
        if images and tensor.is_floating_point():
            kept.add(tensor.dtype)
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        made = run(inputs)
    loss = F.cross_entropy(made.float(), targets)
    assert made.dtype == torch.bfloat16
    assert compiled or kept == {torch.bfloat16}
    found = torch.autograd.grad(loss, leaves)
    assert all(each.dtype == torch.float32 for each in found)
    for one, other in zip(found, wanted, strict=True):
        assert F.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.99


def test_dense_layers_stay_dense(caplog: pytest.LogCaptureFixture) -> None:
    model = sparsify_fx.apply(small(), "random", sparsity=0.0, storage="living")
    twin = copy.deepcopy(model)
    with caplog.at_level(logging.INFO, logger="sparsify_fx"):
        sparsify_fx.accelerate(model, data()[0])
    told = [record for record in caplog.messages if "dense products" in record]
    assert len(told) == 6
    assert torch.equal(model(data()[0]), twin(data()[0]))


def test_an_estimate_falls_with_the_density() -> None:
    shape = Shape(16, 64, 16, 16, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 16, 16)
    assert estimate(shape, 36864) < 1 < estimate(shape, 3686) < estimate(shape, 369)


@pytest.mark.parametrize(
    ("model", "kernels", "told"),
    [
        (nn.Linear(4, 4), "auto", 'storage="living"'),
        (sparse(storage="full"), "auto", 'storage="living"'),
        (sparse(), "fast", "did you mean|Known: always, auto"),
    ],
)
def test_what_cannot_be_is_refused(model: nn.Module, kernels: str, told: str) -> None:
    with pytest.raises(LayerError, match=told):
        sparsify_fx.accelerate(model, kernels=kernels)


def test_apply_accelerates_and_keeps_living_entries_also_where_masks_change() -> None:
    inputs, targets = data()
    for method in ("random", "gmp"):
        model = sparsify_fx.apply(small(), method, sparsity=0.7, kernels="always")
        wanted = sparsify_fx.accelerate(sparse(method), kernels="always")
        assert all(program.places() is not None for program in programs(model).values())
        loss, other = (
            F.cross_entropy(each(inputs), targets) for each in (model, wanted)
        )
        assert torch.equal(loss, other)
        assert CHOICE in model[0].__dict__


def test_apply_decides_at_the_batch_it_is_given(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "sparsify_fx.living.products"):
        sparsify_fx.apply(
            small(), "random", sparsity=0.9, kernels="auto", example_inputs=data()[0]
        )
    assert len(caplog.records) == 6


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ({"kernels": "fast"}, MethodError, "unknown kernels 'fast'"),
        ({"kernels": "auto", "storage": "full"}, MethodError, "storage='full' keeps none"),
        ({"kernels": "auto", "include": "12"}, LayerError, "no layer of this model"),
    ],
)  # fmt: skip
def test_kernels_that_cannot_be(
    axes: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = nn.Sequential(
        *small(), nn.Unflatten(1, (4, 1)), nn.ConvTranspose1d(4, 2, 1)
    )
    with pytest.raises(error, match=message):
        sparsify_fx.apply(model, "random", **axes)
    assert not programs(model)
