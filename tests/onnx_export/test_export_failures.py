"""`export` on bad input: a clear error, and nothing on disk has changed."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsify_fx.errors import ExportError, UnknownNameError
from sparsify_fx.onnx_export import export
from sparsify_fx.onnx_export.checks.verify import compare


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def conv_net() -> nn.Module:
    layers = (
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, bias=False),
    )
    return nn.Sequential(
        *layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Counter(nn.Module):
    """A model whose answer changes from call to call, so that the traced one is wrong."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 4) * 2


class NoTensor(nn.Module):
    def forward(self, x: Tensor) -> int:
        return 3


class NoCopy(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("I am one of a kind")


def with_bad_weight(value: float) -> nn.Module:
    model = conv_net()
    with torch.no_grad():
        model.get_parameter("3.weight")[0, 0, 0, 0] = value
    return model


X, IMAGE = torch.randn(2, 4), torch.randn(2, 3, 12, 12)

FAILURES: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "nan weight": (
        lambda: with_bad_weight(float("nan")),
        IMAGE,
        {},
        r"3\.weight holds 1 NaN or Inf among 2304",
    ),
    "inf weight": (
        lambda: with_bad_weight(float("inf")),
        IMAGE,
        {},
        r"3\.weight holds 1 NaN or Inf",
    ),
    "wrong shape": (
        conv_net,
        X,
        {},
        r"does not take these example_inputs \(\[2, 4\] float32\): RuntimeError",
    ),
    "too many inputs": (
        conv_net,
        (IMAGE, IMAGE),
        {},
        "does not take these example_inputs.*TypeError",
    ),
    "wrong probe": (
        conv_net,
        IMAGE,
        {"verify_inputs": X},
        "does not take these verify_inputs",
    ),
    "inputs of another type": (
        conv_net,
        {"x": IMAGE},
        {},
        "got an unexpected keyword argument 'x'",
    ),
    "a number as input": (
        conv_net,
        (IMAGE, 3),
        {},
        r"example_inputs\[1\]: expected a Tensor, got int",
    ),
    "no inputs": (conv_net, (), {}, "got nothing"),
    "empty input": (conv_net, IMAGE[:0], {}, "is empty"),
    "scalar input": (Counter, torch.tensor(1.0), {}, "without a batch axis"),
    "control flow": (
        Branch,
        X,
        {},
        "torch.onnx cannot export this model: .*dynamic_batch=False",
    ),
    "fixed batch": (
        FixedBatch,
        X,
        {},
        "does not take another batch size; pass dynamic_batch=False",
    ),
    "wrong result": (Counter, X, {}, "differs from PyTorch by .*tolerance is 0.0001"),
    "no tensor": (NoTensor, X, {}, "returns no tensor"),
    "no copy": (lambda: NoCopy(4, 4), X, {}, "cannot be copied .I am one of a kind"),
    "no module": (lambda: torch.relu, X, {}, "expected a torch.nn.Module"),
    "tolerance": (lambda: nn.Linear(4, 4), X, {"tolerance": 0.0}, "must be a positive"),
    "tolerance in words": (
        lambda: nn.Linear(4, 4),
        X,
        {"tolerance": "1e-4"},
        "must be a positive",
    ),
    "metadata": (
        lambda: nn.Linear(4, 4),
        X,
        {"metadata": {"epoch": 3}},
        r"metadata=\{'epoch': 3\} must be a mapping from text to text",
    ),
    "opset in words": (
        lambda: nn.Linear(4, 4),
        X,
        {"opset": "18"},
        "opset='18' must be a whole number",
    ),
    "opset": (
        lambda: nn.Linear(4, 4),
        X,
        {"opset": 999},
        "opset|torch.onnx cannot export",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_change_nothing_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make, inputs, options, message = FAILURES[case]
    path = tmp_path / "model.onnx"
    path.write_bytes(b"older file")
    with pytest.raises(ExportError, match=re.compile(message, re.DOTALL)):
        export(make(), path, inputs, **options)
    assert path.read_bytes() == b"older file"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_cause_of_a_failure_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export(Branch(), tmp_path / "m.onnx", X)
    assert caught.value.__cause__ is not None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "option", [{"encoding": "cooo"}, {"values": "fp31"}, {"target": "onx"}]
)
def test_unknown_words_are_refused(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        export(nn.Linear(4, 4), tmp_path / "m.onnx", X, **option)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing/m.onnx", "does not exist"),
        (".", "is a folder"),
        ("/proc/m.onnx", "not writable"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(nn.Linear(4, 4), tmp_path / path, X)
    assert not list(tmp_path.iterdir())


def test_compare_finds_every_kind_of_mismatch() -> None:
    nan, inf = float("nan"), float("inf")
    one = f32([1, 2])

    def check(a: Any, b: Any) -> tuple[float, float]:
        return compare([np.asarray(a)], [np.asarray(b)], ["y"], 1e-4)

    assert check(f32([nan, inf, -4]), f32([nan, inf, -4.0001])) == pytest.approx(
        (1e-4, 2.5e-5), rel=0.1
    )
    assert check(f32([nan]), f32([nan])) == (0.0, 0.0)
    assert check(np.zeros((0, 3)), np.zeros((0, 3))) == (0.0, 0.0)
    assert check(f32([0.0]), f32([5e-8])) == pytest.approx((5e-8, 5e-5))
    for other in (one[:1], one.astype(np.float64)):
        with pytest.raises(ExportError, match=r"output 'y' of onnxruntime is"):
            check(one, other)
    for bad in ([nan, 2], [inf, 2]):
        with pytest.raises(ExportError, match="NaN or Inf"):
            check(one, f32(bad))
        with pytest.raises(ExportError, match="NaN or Inf"):
            check(f32(bad), one)
    with pytest.raises(ExportError, match="NaN or Inf"):
        check(f32([inf]), f32([-inf]))
    with pytest.raises(ExportError, match="differs from PyTorch by 1 "):
        check(np.array([1, 2]), np.array([1, 3]))
    with pytest.raises(ExportError, match="gives 0 outputs"):
        compare([one], [], ["y"], 1e-4)
