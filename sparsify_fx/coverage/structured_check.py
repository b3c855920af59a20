"""The checks of whole channels: half of the multiply-adds go, and the model becomes smaller for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.budgets import MACs
from sparsify_fx.budgets.counting import Work, count_multiply_adds
from sparsify_fx.coverage.bench import Bench, bench_of, in_float64
from sparsify_fx.coverage.build import Trial, trials
from sparsify_fx.coverage.export_check import NoDenseExport, bytes_of
from sparsify_fx.coverage.measure import difference, evaluate, train
from sparsify_fx.errors import (
    CoverageError,
    ExportError,
    SparsifyError,
    SparsityError,
)
from sparsify_fx.shrinking import Shrunk

SHARE = 0.5
"""The multiply-adds that may be left."""

_NEAR = 1.1  # times what was asked for is near enough
_BOUND = 1e-5
_SIDE = 256  # of the images that most models are made for, or smaller


class _OutOfReachError(CoverageError):
    """So few multiply-adds cannot be left."""


@dataclass(frozen=True)
class Smaller:
    """A model that was shrunk.

    Attributes:
        work: the multiply-adds of the model before.
        weights: how many weights it multiplied by.
    """

    model: nn.Module
    shrunk: Shrunk
    work: Work
    weights: int


def check_shrink(bench: Bench) -> str:
    """Channels go until half of the multiply-adds are left; the shrunk model has the masked one's outputs."""
    try:
        return _check_shrink(bench)
    except CoverageError as error:
        # For the later checks: what failed once would take as long to fail again.
        bench.smaller = error
        raise


def _check_shrink(bench: Bench) -> str:
    first: _OutOfReachError | None = None
    for share, told in _attempts(bench):
        try:
            bench.smaller, note = _made_smaller(bench, share)
        except _OutOfReachError as error:
            first = first or error
            continue
        before, after = bench.smaller.shrunk.parameters
        return f"{after / before:.3f} of the parameters{note}{told}"
    assert first is not None
    raise first


def _attempts(bench: Bench) -> Iterator[tuple[float, str]]:
    """The shares of the multiply-adds to ask for, one after the other while they are out of reach, and what to say."""
    yield SHARE, ""
    yield SHARE * _NEAR, ""
    larger = _larger(bench)
    if larger is None:
        return
    # On small images windows of attention are mostly padding, and what can go is a small share of the work.
    renewed = bench_of(larger, bench.folder)
    bench.trial, bench.original = renewed.trial, renewed.original
    told = f"; inputs {larger.shape}: of smaller ones half is out of reach"
    yield SHARE, told
    yield SHARE * _NEAR, told


def _larger(bench: Bench) -> Trial | None:
    """The model with images of the size that it is made for; None where it has them, or takes no other."""
    if bench.subject is None:
        return None
    found = [t for t in trials(bench.subject) if isinstance(t.inputs[0], Tensor)]
    sized = [t for t in found if t.inputs[0].shape[-1] <= _SIDE]
    largest = max(sized, key=lambda t: t.inputs[0].numel(), default=bench.trial)
    return None if largest.shape == bench.trial.shape else largest


def _made_smaller(bench: Bench, share: float) -> tuple[Smaller, str]:
    """The shrunk model, and what is to be said of it."""
    model, inputs = bench.rebuilt().eval(), bench.trial.inputs
    bench.clear()
    work = count_multiply_adds(model, (inputs, {}))
    left = round(share * work.total)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    shrunk, found = _shrunk(model, inputs, left)
    note = ""
    # Models that feed outputs back amplify the rounding of float32: in float64 such an error is gone, another is not.
    if found > _BOUND:
        said = f"the shrunk model's outputs differ by {found:.1e}"
        exact = _difference_in_float64(bench, left)
        if exact is None:
            raise CoverageError(f"{said}, and the model does not run in float64")
        if exact > _BOUND:
            raise CoverageError(f"{said}, in float64 by {exact:.1e}")
        note = f"; {said}, in float64 by {exact:.1e}"
    used = sum(sizes[name] for name, count in work.by_weight.items() if count)
    return Smaller(model, shrunk, work, used), note


def _difference_in_float64(bench: Bench, left: int) -> float | None:
    """None for models that do not run in it."""
    model, inputs, _ = in_float64(bench)
    try:
        evaluate(model.eval(), inputs)
    except RuntimeError:
        return None
    return _shrunk(model, inputs, left)[1]


def _shrunk(
    model: nn.Module, inputs: tuple[Any, ...], left: int
) -> tuple[Shrunk, float]:
    """Shrink in place; the difference between the outputs before, under masks, and after."""
    try:
        sparsify_fx.apply(
            model,
            "magnitude",
            budget=MACs(left=left),
            granularity="channel",
            allocation="uniform",
            schedule="at-init",
            example_inputs=inputs,
        )
        masked = evaluate(model, inputs)
        sparsify_fx.merge(model)
        shrunk = sparsify_fx.shrink(model, inputs)
    except SparsityError as error:
        raise _OutOfReachError(f"{type(error).__name__}: {error}") from error
    except SparsifyError as error:
        raise CoverageError(f"{type(error).__name__}: {error}") from error
    return shrunk, difference(masked, evaluate(model, inputs))


def check_share(bench: Bench) -> str:
    """Within a tenth of half of the multiply-adds are left."""
    smaller = _smaller(bench)
    left = count_multiply_adds(smaller.model, (bench.trial.inputs, {})).total
    share = left / smaller.work.total
    said = f"{share:.3f} of the multiply-adds"
    if share > SHARE * _NEAR:
        raise CoverageError("; ".join([said, *smaller.shrunk.notes]))
    return said


def check_step(bench: Bench) -> str:
    """The shrunk model takes a step of training; no parameter is NaN or Inf after it."""
    model = _smaller(bench).model
    train(model, bench.trial.training, backward=True)
    torch.optim.SGD(model.parameters(), 1e-3).step()
    odd = [n for n, p in model.named_parameters() if not torch.isfinite(p).all()]
    if odd:
        raise CoverageError(f"{odd[0]} is not finite after a step of the shrunk model")
    return ""


def check_file(bench: Bench) -> str:
    """The shrunk model's ONNX file is smaller than the weights that the dense one multiplies by, which its file has."""
    smaller = _smaller(bench)
    try:
        found = bytes_of(bench, smaller.model.eval())
    except ExportError as error:
        raise _judged(bench, error) from error
    least = 4 * smaller.weights
    said = f"{found / least:.3f} of the dense weights' bytes"
    if found >= least:
        raise CoverageError(said)
    return said


def _judged(bench: Bench, error: ExportError) -> Exception:
    """What torch.onnx cannot write dense either is no failure of the shrink."""
    try:
        bytes_of(bench, bench.rebuilt().eval())
    except ExportError as dense:
        return NoDenseExport(str(dense))
    return CoverageError(f"the dense model exports, the shrunk one does not: {error}")


def _smaller(bench: Bench) -> Smaller:
    # A sweep that goes on later may lack this check alone.
    if bench.smaller is None:
        check_shrink(bench)
    if isinstance(bench.smaller, CoverageError):
        raise bench.smaller
    assert isinstance(bench.smaller, Smaller)
    return bench.smaller


STRUCTURED: dict[str, Callable[[Bench], str]] = {
    "shrink": check_shrink,
    "multiply-adds": check_share,
    "shrunk step": check_step,
    "shrunk file": check_file,
}
"""The checks of `--structured`, in the order in which they run."""
