"""Models with channels that nothing reads become smaller, and compute what they did."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
from torch import Tensor, nn

from sparsify_fx.coupling.groups import coupled_groups
from sparsify_fx.errors import LayerError
from sparsify_fx.shrinking import Shrunk, shrink
from tests.coupling.nets import NETS, Helped, Untraceable, made, some, unread


def prepared(name: str) -> tuple[nn.Module, Tensor]:
    net, inputs = made(name)
    coupling = coupled_groups(net, inputs)
    unread(net, coupling, some(coupling))
    return net, inputs


@pytest.mark.parametrize("name", NETS)
def test_outputs_stay_and_layers_shrink(name: str) -> None:
    net, inputs = prepared(name)
    original, expected = copy.deepcopy(net), net(inputs)
    shrunk = shrink(net, inputs)
    assert type(net) is type(original)
    assert shrunk.changed
    assert all("as a whole" in note for note in shrunk.notes)
    assert len(shrunk.notes) == (name == "parts")
    before, after = shrunk.parameters
    assert after == sum(p.numel() for p in net.parameters()) < before
    assert torch.allclose(net(inputs), expected, atol=1e-6)
    # The way back: into an unshrunk model, and in place.
    original.load_state_dict(shrunk.full_state_dict(net))
    assert torch.allclose(original(inputs), expected, atol=1e-6)
    shrunk.undo(net)
    shapes = {n: p.shape for n, p in original.state_dict().items()}
    assert {n: p.shape for n, p in net.state_dict().items()} == shapes
    assert torch.allclose(net(inputs), expected, atol=1e-6)
    assert str(net) == str(original)


@pytest.mark.parametrize("name", NETS)
def test_gradients_of_what_is_left_are_those_of_the_model(name: str) -> None:
    net, inputs = prepared(name)
    whole = copy.deepcopy(net)
    shrunk = shrink(net, inputs)
    for model in (net, whole):
        model(inputs).square().sum().backward()
    for (key, small), large in zip(
        net.named_parameters(), whole.parameters(), strict=True
    ):
        expected = large.grad
        assert expected is not None
        for axis, index in shrunk.kept.get(key, {}).items():
            expected = expected.index_select(axis, index)
        assert torch.allclose(small.grad, expected, rtol=1e-4, atol=1e-5), key  # type: ignore[arg-type]


def test_nothing_goes_that_is_read() -> None:
    net, inputs = made("residual")
    shrunk = shrink(net, inputs)
    assert not shrunk.changed


def test_reads_for_channels_that_go_do_not_count() -> None:
    net = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)
    )
    with torch.no_grad():
        net[4].weight[:, 1:] = 0
        net[2].weight[0, 3:] = 0
    shrink(net, torch.ones(1, 4))
    assert [net[i].out_features for i in (0, 2, 4)] == [3, 1, 2]


def test_the_last_channel_of_a_layer_stays() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.zeros_(net[2].weight)
    expected = net(torch.ones(1, 4))
    shrink(net, torch.ones(1, 4))
    assert net[0].out_features == 1
    assert torch.equal(net(torch.ones(1, 4)), expected)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_training_goes_on_as_with_the_whole_model(kind: type) -> None:
    net, inputs = prepared("residual")
    options = {"lr": 0.01} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
    optimizer = kind(net.parameters(), **options)
    net.zero_grad()
    net(inputs).square().sum().backward()
    # Columns that are zero must stay so, as masks keep them.
    for parameter in net.parameters():
        parameter.grad[parameter == 0] = 0  # type: ignore[index]
    optimizer.step()
    whole = copy.deepcopy(net)
    twin = kind(whole.parameters(), **options)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    shrunk = shrink(net, inputs, optimizer)
    for model, one in ((net, optimizer), (whole, twin)):
        model.zero_grad()
        model(inputs).square().sum().backward()
        one.step()
    for key, value in net.state_dict().items():
        expected = whole.state_dict()[key]
        for axis, index in shrunk.kept.get(key, {}).items():
            expected = expected.index_select(axis, index)
        assert torch.allclose(value, expected, rtol=1e-4, atol=1e-6), key


def test_state_of_another_shape_is_refused_before_anything_changes() -> None:
    net, inputs = prepared("residual")
    optimizer = torch.optim.Adafactor(net.parameters())
    net(inputs).square().sum().backward()
    optimizer.step()
    net, inputs = _unread_again(net, inputs)
    before = {name: value.shape for name, value in net.state_dict().items()}
    with pytest.raises(LayerError, match="build a new one"):
        shrink(net, inputs, optimizer)
    assert {name: value.shape for name, value in net.state_dict().items()} == before


def _unread_again(net: nn.Module, inputs: Tensor) -> tuple[nn.Module, Tensor]:
    coupling = coupled_groups(net, inputs)
    unread(net, coupling, some(coupling))
    return net, inputs


class WrittenDown(nn.Module):
    """The number of heads is a constant of the code, which no shrink can change."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.out = nn.Linear(5, 12), nn.Linear(12, 5)
        self.hidden, self.last = nn.Linear(5, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.rows(x).view(len(x), 4, 3).flip(1).reshape(len(x), 12)
        return self.out(y) + self.last(self.hidden(x).relu())


def test_sizes_that_are_written_in_the_code_stay_with_a_note(
    caplog: pytest.LogCaptureFixture,
) -> None:
    net, inputs = WrittenDown(), torch.randn(2, 5)
    _unread_again(net, inputs)
    expected = net(inputs)
    with caplog.at_level(logging.WARNING):
        shrunk = shrink(net, inputs)
    assert net.rows.out_features == 12
    assert net.hidden.out_features < 9
    assert torch.allclose(net(inputs), expected, atol=1e-6)
    (note,) = shrunk.notes
    assert "rows.weight" in note
    assert note in caplog.text


def test_a_model_that_cannot_be_traced_stays_with_a_note() -> None:
    shrunk = shrink(Untraceable(), torch.randn(2, 5))
    assert not shrunk.changed
    assert "cannot be traced" in shrunk.notes[0]


def test_the_map_can_be_saved() -> None:
    net, inputs = prepared("attention")
    expected = net(inputs)
    stored = json.loads(json.dumps(shrink(net, inputs).to_dict()))
    Shrunk.from_dict(stored).undo(net)
    assert net.heads == 4
    assert torch.allclose(net(inputs), expected, atol=1e-6)


def test_what_only_training_reads_stays() -> None:
    net, inputs = Helped(), torch.randn(2, 5)
    with torch.no_grad():
        net.last.weight[:, :4] = 0
    assert not shrink(net, inputs).changed
    with torch.no_grad():
        net.helper.weight[:, :2] = 0
    shrunk = shrink(net, inputs)
    assert shrunk.notes == ()
    assert net.helper.in_features == net.first.out_features == 6
    assert net.training
    net(inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    net, inputs = prepared("residual")
    net, inputs = net.to(dtype), inputs.to(dtype)
    expected = net(inputs)
    assert shrink(net, inputs).changed
    assert next(net.parameters()).dtype == dtype
    assert torch.allclose(net(inputs), expected, atol=0.02)


def test_the_memory_format_stays() -> None:
    net, inputs = prepared("residual")
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shrink(net, inputs)
    for layer in (net.stem, net.inner, net.outer):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_part_of_a_model_within_another() -> None:
    net, inputs = prepared("residual")
    whole = nn.ModuleDict({"net": net})
    expected = net(inputs)
    assert shrink(whole["net"], inputs).changed
    assert torch.allclose(whole["net"](inputs), expected, atol=1e-6)


@pytest.mark.parametrize("what", ["meta", "inputs", "lazy", "none"])
def test_what_cannot_be_shrunk_is_told_in_words(what: str) -> None:
    net, inputs = made("residual")
    given: object = inputs
    if what == "meta":
        net = net.to("meta")
    elif what == "inputs":
        given = torch.ones(2, 3)
    elif what == "lazy":
        net.head = nn.LazyLinear(5)  # type: ignore[assignment]
    else:
        net = None  # type: ignore[assignment]
    words = {
        "meta": "meta device",
        "inputs": "does not take the example inputs",
        "lazy": "not initialized",
        "none": "expected a torch.nn.Module",
    }
    with pytest.raises(LayerError, match=words[what]):
        shrink(net, given)
