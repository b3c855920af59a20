"""Every check fails on a model that breaks its promise: nothing passes because nothing was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify_fx.coverage.bench import Bench, bench_of
from sparsify_fx.coverage.build import Trial, seed_everything
from sparsify_fx.coverage.checks import CHECKS
from sparsify_fx.coverage.export_check import NoDenseExport
from sparsify_fx.errors import CoverageError
from sparsify_fx.programs.owners import programs
from tests.conftest import small_net

pytestmark = pytest.mark.slow


def bench(folder: Path, build: Callable[[], nn.Module], *shape: int) -> Bench:
    def seeded() -> nn.Module:
        seed_everything(0)
        return build()

    inputs = (torch.randn(*shape, generator=torch.Generator().manual_seed(1)),)
    return bench_of(Trial(seeded, inputs, inputs, "small"), folder)


class Reader(nn.Module):
    """A linear layer whose weight is read by `read`."""

    def __init__(self, read: Callable[[nn.Linear], Tensor]) -> None:
        super().__init__()
        self.layer, self.head, self.read = nn.Linear(16, 16), nn.Linear(16, 4), read

    def forward(self, inputs: Tensor) -> Any:
        return self.head(inputs @ self.read(self.layer).T)


def scaled_when_plain(layer: nn.Linear) -> Tensor:
    return layer.weight * 2 if isinstance(layer.weight, nn.Parameter) else layer.weight


def scaled_when_plain_in_training(layer: nn.Linear) -> Tensor:
    return layer.weight * (
        2 if isinstance(layer.weight, nn.Parameter) and layer.training else 1
    )


def trained_when_plain(layer: nn.Linear) -> Tensor:
    return (
        layer.weight
        if isinstance(layer.weight, nn.Parameter)
        else layer.weight.detach()
    )


def infinite_when_rewritten(layer: nn.Linear) -> Tensor:
    return (
        layer.weight
        if isinstance(layer.weight, nn.Parameter)
        else layer.weight * torch.sqrt(layer.weight.sum() * 0)
    )


def drawing_when_rewritten(layer: nn.Linear) -> Tensor:
    return (
        layer.weight
        if isinstance(layer.weight, nn.Parameter)
        else layer.weight + torch.randn(())
    )


class Loud(nn.Linear):
    """A layer that cannot be copied or written."""

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("this layer keeps a socket")


class Lone(nn.Module):
    """A model that is its own copy."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, inputs: Tensor) -> Any:
        return self.layer(inputs)

    def __deepcopy__(self, memo: Any) -> Lone:
        return self


class Growing(Reader):
    """A model with a new buffer in every forward."""

    def forward(self, inputs: Tensor) -> Any:
        self.register_buffer(f"seen_{len(self._buffers)}", torch.ones(1))
        return super().forward(inputs)


def test_a_usual_model_passes_every_check(tmp_path: Path) -> None:
    usual = bench(tmp_path, small_net, 2, 3, 8, 8)
    for name, check in CHECKS.items():
        assert "float64" not in check(usual), name


@pytest.mark.cross_section(
    "forward-drawing_when_rewritten-differs by .* in float64",
    "merge-scaled_when_plain-merging changes the outputs",
    "gradients-infinite_when_rewritten-NaN or Inf",
)
@pytest.mark.parametrize(
    ("check", "read", "reason"),
    [
        ("forward", scaled_when_plain, "differs by .* in float64"),
        ("forward", drawing_when_rewritten, "differs by .* in float64"),
        ("train", scaled_when_plain_in_training, "differs by .* in float64"),
        ("gradients", trained_when_plain, r"layer.weight \(m\) gets no gradient"),
        ("gradients", infinite_when_rewritten, "NaN or Inf"),
        ("merge", scaled_when_plain, "merging changes the outputs"),
    ],
)
def test_a_model_that_notices_fails(
    check: str, read: Callable[[nn.Linear], Tensor], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CoverageError, match=reason):
        CHECKS[check](bench(tmp_path, lambda: Reader(read), 2, 16))


def test_a_difference_that_only_rounding_makes_is_said_with_both_figures(
    tmp_path: Path,
) -> None:
    """The last bit of a weight makes 1e-4 of the sine of 10000 weights in float32, and 1e-12 in float64."""
    note = CHECKS["forward"](
        bench(
            tmp_path, lambda: Reader(lambda layer: torch.sin(1e4 * layer.weight)), 2, 16
        )
    )
    assert "by rounding of float32" in note
    assert "0.0e+00 with weights m·w" in note
    assert "in float64" in note


def test_a_copy_that_shares_memory_fails(tmp_path: Path) -> None:
    with pytest.raises(CoverageError, match="shares memory"):
        CHECKS["deepcopy"](bench(tmp_path, Lone, 2, 16))


def test_a_layer_that_cannot_be_written_fails(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="socket"):
        CHECKS["pickle"](bench(tmp_path, lambda: nn.Sequential(Loud(16, 4)), 2, 16))


def test_new_keys_fail(tmp_path: Path) -> None:
    growing = bench(tmp_path, lambda: Growing(lambda layer: layer.weight), 2, 16)
    CHECKS["forward"](growing)
    with pytest.raises(CoverageError, match="seen_2"):
        CHECKS["keys"](growing)


def test_gradients_at_masked_entries_fail(tmp_path: Path) -> None:
    """A hook puts them there."""
    usual = bench(tmp_path, small_net, 2, 3, 8, 8)
    for program in programs(usual.rewritten(0.9)).values():
        program.get_parameter("m").register_hook(torch.ones_like)
    with pytest.raises(CoverageError, match="gradient at masked entries"):
        CHECKS["gradients"](usual)


def test_a_wrong_number_of_weights_fails(tmp_path: Path) -> None:
    usual = bench(tmp_path, small_net, 2, 3, 8, 8)
    program = next(iter(programs(usual.rewritten(0.9)).values()))
    program.set_mask(torch.zeros_like(program.get_buffer("mask")))
    with pytest.raises(CoverageError, match="were asked for"):
        CHECKS["gradients"](usual)


def test_another_class_after_the_merge_fails(tmp_path: Path) -> None:
    usual = bench(tmp_path, small_net, 2, 3, 8, 8)
    usual.original = replace(
        usual.original, classes={**usual.original.classes, "0": nn.Conv1d}
    )
    with pytest.raises(CoverageError, match="0 has another class after the merge"):
        CHECKS["merge"](usual)


@pytest.mark.sweep
def test_a_dense_model_that_cannot_be_exported_is_told_from_a_failure(
    tmp_path: Path,
) -> None:
    class Branching(Lone):
        def forward(self, inputs: Tensor) -> Any:
            return self.layer(inputs) if inputs.sum() > -1e9 else self.layer(-inputs)

    with pytest.raises(NoDenseExport, match="cannot export"):
        CHECKS["onnx"](bench(tmp_path, Branching, 2, 16))


@pytest.mark.sweep
def test_an_export_that_differs_by_rounding_alone_is_said_with_both_figures(
    tmp_path: Path,
) -> None:
    """The order of a sum of 2048 products changes its last bit, and that the sine of 1e4 times it by 1e-3."""

    class Steep(Lone):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2048, 64)

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.sin(1e4 * self.layer(inputs).tanh())

    note = CHECKS["onnx"](bench(tmp_path, Steep, 2, 2048))
    assert "by rounding of float32, which makes" in note
    assert "fixed batch size" not in note


class Normed(nn.Module):
    """A norm divides by how much the samples differ that it saw; `steepness` times that reaches a sine."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.layer, self.norm, self.steepness = (
            nn.Linear(512, 64),
            nn.BatchNorm1d(64, eps=1e-30),
            steepness,
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.sin(self.steepness * self.norm(self.layer(inputs)))


def nearly_equal_samples(folder: Path, steepness: float) -> Bench:
    """A bench whose norms are calibrated on two samples that hardly differ: a chaotic model."""

    def seeded() -> nn.Module:
        seed_everything(0)
        return Normed(steepness)

    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(2, 512, generator=generator)
    training = inputs[:1] + 1e-6 * torch.randn(2, 512, generator=generator)
    return bench_of(Trial(seeded, (inputs,), (training,), "small"), folder)


@pytest.mark.sweep
def test_norms_that_saw_too_little_are_calibrated_once_more(tmp_path: Path) -> None:
    note = CHECKS["onnx"](nearly_equal_samples(tmp_path, 1.0))
    assert note.endswith(", norms calibrated on 32 samples")
    assert float(note.split()[0].rstrip(",")) < 1e-4


@pytest.mark.sweep
def test_outputs_that_rounding_alone_decides_prove_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        CoverageError, match=r"rounding to float32 makes .* such outputs prove nothing"
    ):
        CHECKS["onnx"](nearly_equal_samples(tmp_path, 1e8))


@pytest.mark.sweep
def test_an_export_that_answers_otherwise_fails(tmp_path: Path) -> None:
    """A hundredth of the output is no rounding, and the dense model's file shows it too."""

    class Exported(Lone):
        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.layer(inputs)
            return outputs * (1.01 if torch.compiler.is_exporting() else 1.0)

    with pytest.raises(
        CoverageError,
        match=r"PyTorch by 1\.0e-02.* -- the dense model's file differs too",
    ):
        CHECKS["onnx"](bench(tmp_path, Exported, 2, 16))
