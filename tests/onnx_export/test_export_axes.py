"""Open axes: `dynamic_shapes` in every form, the batch where it is not first, and what cannot be open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from sparsify_fx import export
from sparsify_fx.errors import ExportError, SparsifyError

pytestmark = pytest.mark.slow

IMAGE = torch.randn(2, 3, 12, 16)
HW = {0: "batch", 2: "height", 3: "width"}


class Net(nn.Module):
    """Takes images of any size, a mask of the same and a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(
        self, image: Tensor, mask: Tensor | None = None, *, factor: Tensor | None = None
    ) -> Tensor:
        y = self.conv(image).relu()
        y = y if mask is None else y * mask
        y = y if factor is None else y * factor
        out: Tensor = self.head(y.mean((2, 3)))
        return out


class Positions(nn.Module):
    """Knows a place for each of 12 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(1, 1, 12, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.rows


class Down(nn.Module):
    """Takes sizes of multiples of four only."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = (
            nn.Conv2d(3, 4, 4, stride=4),
            nn.ConvTranspose2d(4, 3, 4, stride=4),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.up(self.down(x).relu())
        return out


class Last(nn.Module):
    """The answer after the last step of a sequence, time first."""

    def __init__(self, cell: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell, self.head = cell(4, 6), nn.Linear(6, 2)  # type: ignore[call-arg, arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.cell(x)[0][-1])
        return out


def axes(path: Path) -> list[list[str | int]]:
    """The axes of the inputs, names where they are open."""
    graph = onnx.load(path).graph
    return [
        [dim.dim_param or dim.dim_value for dim in item.type.tensor_type.shape.dim]
        for item in graph.input
    ]


def check(path: Path, model: nn.Module, *inputs: Tensor) -> None:
    """onnxruntime and PyTorch agree on inputs of any size."""
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    feed = {
        item.name: value.numpy()
        for item, value in zip(session.get_inputs(), inputs, strict=True)
    }
    expected = model.eval()(*inputs)
    expected = expected[0] if isinstance(expected, tuple) else expected
    np.testing.assert_allclose(
        session.run(None, feed)[0], expected.detach().numpy(), atol=1e-5
    )


FORMS: dict[str, tuple[Any, list[str | int]]] = {
    "names": ({"image": HW}, ["batch", 3, "height", "width"]),
    "dims": (
        ({0: Dim("batch"), 2: Dim("h", min=4, max=64), 3: Dim("w")},),
        ["batch", 3, "h", "w"],
    ),
    "a row": ([[Dim("n"), None, Dim("h"), Dim.STATIC]], ["n", 3, "h", 16]),
    "a number": ({"image": ("n", 3, "h", 16)}, ["n", 3, "h", 16]),
    "multiples": ({"image": {2: 4 * Dim("h"), 3: 2 * Dim("w")}}, [2, 3, "4*h", "2*w"]),
    "from the end": ({"image": {-1: "width"}}, [2, 3, 12, "width"]),
    "none": ({"image": None}, [2, 3, 12, 16]),
    "nothing": ({}, [2, 3, 12, 16]),
}


@pytest.mark.cross_section("names", "none", "multiples", "a number")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_dynamic_shapes(tmp_path: Path, form: str) -> None:
    wanted, expected = FORMS[form]
    model, path = Net(), tmp_path / "model.onnx"
    export(model, path, IMAGE, dynamic_shapes=wanted)
    assert axes(path) == [expected]
    sizes = [
        2 * size if isinstance(name, str) else size
        for name, size in zip(expected, IMAGE.shape, strict=True)
    ]
    check(path, model, torch.randn(*sizes))


def test_axes_of_size_one_are_open_too(tmp_path: Path) -> None:
    model, path = Net(), tmp_path / "model.onnx"
    export(model, path, IMAGE[:1], dynamic_shapes={"image": {0: "batch"}})
    check(path, model, torch.randn(3, 3, 12, 16))


def test_inputs_share_the_names_of_their_axes(tmp_path: Path) -> None:
    model, path = Net(), tmp_path / "model.onnx"
    export(
        model,
        path,
        (IMAGE, torch.ones(2, 1, 12, 16)),
        dynamic_shapes={"image": HW, "mask": HW},
    )
    assert axes(path) == [
        ["batch", 3, "height", "width"],
        ["batch", 1, "height", "width"],
    ]
    check(path, model, torch.randn(1, 3, 5, 9), torch.rand(1, 1, 5, 9))


@pytest.mark.sweep
def test_hints_end_up_open_where_they_can(tmp_path: Path) -> None:
    path, hints = tmp_path / "model.onnx", {0: Dim.DYNAMIC, 1: Dim.AUTO, 2: Dim.AUTO}
    export(Net(), path, IMAGE, dynamic_shapes={"image": hints})
    batch, channels, height, width = axes(path)[0]
    assert (channels, width) == (3, 16)
    assert isinstance(batch, str)
    assert isinstance(height, str)
    export(Positions(), path, IMAGE, dynamic_shapes={"x": {2: Dim.AUTO, 3: Dim.AUTO}})
    assert axes(path)[0][2] == 12


def test_a_model_for_multiples_is_verified_with_a_multiple(tmp_path: Path) -> None:
    model, path = Down(), tmp_path / "model.onnx"
    export(model, path, IMAGE, dynamic_shapes={"x": {2: "h", 3: "w"}})
    check(path, model, torch.randn(2, 3, 20, 8))


def test_sparse_operators_take_other_sizes(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)
    )
    with torch.no_grad():
        model[2].weight.masked_fill_(torch.rand_like(model[2].weight) < 0.98, 0)
    report = export(
        model,
        tmp_path / "model.onnx",
        torch.randn(1, 3, 28, 28),
        target="sparse-ort",
        dynamic_shapes=(HW,),
    )
    assert report.sparse_layers
    assert report.max_rel_difference is not None


FAILURES: dict[str, tuple[nn.Module, Tensor, dict[str, Any], str]] = {
    "another name": (
        Net(),
        IMAGE,
        {"dynamic_shapes": {"imag": HW}},
        "unknown input .*'imag'; did you mean 'image'",
    ),
    "no such axis": (
        Net(),
        IMAGE,
        {"dynamic_shapes": {"image": {4: "h"}}},
        r"4 is no axis of \[2, 3, 12, 16\]",
    ),
    "an axis by name": (
        Net(),
        IMAGE,
        {"dynamic_shapes": {"image": {"h": 2}}},
        "'h' is no axis",
    ),
    "no name": (
        Net(),
        IMAGE,
        {"dynamic_shapes": {"image": {2: "a height"}}},
        "'a height' is no name",
    ),
    "another size": (
        Net(),
        IMAGE,
        {"dynamic_shapes": {"image": {2: 13}}},
        "fixed to 13, but example_inputs have 12",
    ),
    "a truth": (
        Net(),
        IMAGE,
        {"dynamic_shapes": {"image": {2: True}}},
        "expected a name, .* got bool",
    ),
    "too few": (Net(), IMAGE, {"dynamic_shapes": ()}, "0 entries for 1 inputs"),
    "too short": (
        Net(),
        IMAGE,
        {"dynamic_shapes": (("n", None),)},
        "2 entries for 4 axes",
    ),
    "a word": (
        Net(),
        IMAGE,
        {"dynamic_shapes": "batch"},
        "expected a dict or a tuple, got str",
    ),
    "beyond a Dim": (
        Net(),
        IMAGE,
        {"dynamic_shapes": ({2: Dim("h", min=32)},)},
        "have 12, but the Dim goes from 32",
    ),
    "both": (
        Net(),
        IMAGE,
        {"dynamic_shapes": ({2: "h"},), "dynamic_batch": True},
        "leave dynamic_batch out",
    ),
    "channels": (
        Net(),
        IMAGE,
        {"dynamic_shapes": ({1: "c"},)},
        "static shape of 3 .*leave the axis out",
    ),
    "channels as Dim": (
        Net(),
        IMAGE,
        {"dynamic_shapes": ({1: Dim("c")},)},
        "axis 1 of image cannot be open: .* 3",
    ),
    "rows": (
        Positions(),
        IMAGE,
        {"dynamic_shapes": ({2: Dim("h")},)},
        "axis 2 of x cannot be open: .* 12",
    ),
    "time of an LSTM": (
        nn.LSTM(4, 6),
        torch.randn(5, 3, 4),
        {"dynamic_shapes": ({0: "t", 1: "n"},)},
        "leave the axis",
    ),
}


@pytest.mark.cross_section(
    "another name",
    "no such axis",
    "no name",
    "a truth",
    "too short",
    "beyond a Dim",
    "channels",
    "rows",
)
@pytest.mark.parametrize("case", FAILURES)
def test_what_cannot_be_open_is_told_in_words(tmp_path: Path, case: str) -> None:
    model, inputs, options, message = FAILURES[case]
    with pytest.raises(SparsifyError, match=f"(?s){message}"):
        export(model, tmp_path / "model.onnx", inputs, **options)
    assert not list(tmp_path.iterdir())


TIME_FIRST: dict[str, tuple[nn.Module, tuple[Tensor, ...], list[str | int]]] = {
    "lstm": (nn.LSTM(4, 6), (torch.randn(5, 3, 4),), [5, "batch", 4]),
    "both ways": (
        nn.GRU(4, 6, bidirectional=True),
        (torch.randn(2, 3, 4),),
        [2, "batch", 4],
    ),
    "one sample": (nn.LSTM(4, 6), (torch.randn(2, 1, 4),), [2, "batch", 4]),
    "as many steps as samples": (
        Last(nn.LSTM),
        (torch.randn(3, 3, 4),),
        [3, "batch", 4],
    ),
    "inside": (Last(nn.RNN), (torch.randn(5, 3, 4),), [5, "batch", 4]),
    "attention": (
        nn.TransformerEncoderLayer(4, 2, 8),
        (torch.randn(5, 3, 4),),
        ["length", "batch", 4],
    ),
}


@pytest.mark.cross_section("one sample", "lstm")
@pytest.mark.parametrize("case", TIME_FIRST)
def test_the_batch_of_time_first_models_is_open(tmp_path: Path, case: str) -> None:
    model, inputs, expected = TIME_FIRST[case]
    path = tmp_path / "model.onnx"
    report = export(model, path, inputs)
    assert axes(path) == [expected]
    assert any(
        "the second axis of the inputs is taken for the batch" in note
        for note in report.notes
    )
    check(path, model, torch.randn(inputs[0].shape[0], 7, 4))


@pytest.mark.cross_section("model0")
@pytest.mark.parametrize(
    "model", [nn.LSTM(4, 6, batch_first=True), nn.Linear(4, 4), Last(nn.GRU)]
)
def test_the_first_axis_is_the_batch_where_it_is(
    tmp_path: Path, model: nn.Module
) -> None:
    path = tmp_path / "model.onnx"
    if isinstance(model, Last):  # said to be the batch, it is held to that
        with pytest.raises(
            ExportError, match=r"(?s)dynamic_batch=False.*dynamic_shapes"
        ):
            export(model, path, torch.randn(5, 3, 4), dynamic_batch=True)
        return
    assert export(model, path, torch.randn(5, 3, 4)).notes == ()
    assert axes(path) == [["batch", 3, 4]]


class Contrast(nn.Module):
    """The similarities of all samples of a batch: they depend on each other, and there is no other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.map(x)
        return (y @ y.T).softmax(1)


def test_a_batch_whose_samples_meet_stays_the_batch_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    report = export(Contrast(), path, torch.randn(5, 4))
    assert axes(path) == [["batch", 4]]
    assert "depends on the other samples" in report.notes[0]
