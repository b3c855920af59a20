"""What the checks of one model share: the model, its inputs, and what the original did with them."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.coverage.build import Trial, trials
from sparsify_fx.coverage.measure import (
    Tensors,
    calibrate,
    check_finite,
    evaluate,
    in_double,
    train,
)
from sparsify_fx.coverage.suites import Subject
from sparsify_fx.errors import CoverageError, UnfinishedWarning
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.selection import select_layers


@dataclass(frozen=True)
class Original:
    """What the model was and did before anything was rewritten.

    Attributes:
        evaluated, trained: its outputs in both modes.
        gradients: for every parameter that a training step gives a gradient, whether that is finite.
        keys: names, shapes and dtypes of its state dict.
        classes: the class of every module.
        buffers: the calibrated statistics, to build the same model again.
    """

    evaluated: Tensors
    trained: Tensors
    gradients: Mapping[str, bool]
    keys: list[tuple[str, torch.Size, torch.dtype]]
    classes: dict[str, type[nn.Module]]
    buffers: dict[str, Tensor]


@dataclass
class Bench:
    """One model on the bench; checks leave it rewritten or merged, and ask for the state that they need."""

    trial: Trial
    model: nn.Module
    original: Original
    folder: Path
    # Of the last `apply`; None while the model is plain.
    sparsity: float | None = None
    # What `--structured` made of the model, for its later checks.
    smaller: object = None
    # Which model it is, where it is one of a suite.
    subject: Subject | None = None

    def rewritten(self, sparsity: float) -> nn.Module:
        """The model under signin at this sparsity (0.0: masks of ones), balanced.

        Before pruning, weights grow by (1 - sparsity)^-1/2, and after it batch norms see a batch: untrained, each
        layer would else pass on a tenth of the variance, and deep nets would answer every input alike.
        """
        # Checks that follow one another ask for the same state: rewriting a model of gigabytes once is enough.
        if self.sparsity != sparsity:
            self.plain()
            for layer in select_layers(self.model).values():
                layer.weight.data.mul_((1 - sparsity) ** -0.5)
            # In full storage, whose gradients have entries to look at where weights are masked; a check of its own
            # trains in the other.
            sparsify_fx.apply(
                self.model,
                "signin",
                sparsity=sparsity,
                allocation="balanced",
                storage="full",
            )
            # With masks of ones the outputs must be the original's, whose statistics are set already.
            if sparsity > 0:
                calibrate(self.model, self.trial.training)
            self.sparsity = sparsity
        return self.model

    def clear(self) -> None:
        """No model, until `start_again`: some hold gigabytes."""
        self.model, self.sparsity = nn.Module(), None
        gc.collect()

    def start_again(self) -> None:
        """The original model in the place of the one that was pruned and merged."""
        self.clear()
        self.model = self.rebuilt()

    def ready_to_copy(self, sparsity: float) -> tuple[nn.Module, Tensors]:
        """The rewritten model, and its outputs."""
        # The forward is not for the outputs alone: RAFT keeps tensors of its last one, and such that have a gradient
        # cannot be copied; those of an evaluation have none.
        model = self.rewritten(sparsity)
        return model, evaluate(model, self.trial.inputs)

    def plain(self) -> nn.Module:
        """The merged model."""
        with warnings.catch_warnings():
            # `check_prune` prunes further than apply was asked to, of which `merge` warns.
            warnings.simplefilter("ignore", UnfinishedWarning)
            sparsify_fx.merge(self.model)
        self.sparsity = None
        # Modules of torch.fx lie in cycles of references, and their weights with them.
        gc.collect()
        return self.model

    def rebuilt(self) -> nn.Module:
        """The original model once more, in training mode."""
        model = self.trial.build()
        restore_buffers(model, self.original.buffers)
        return model

    def names(self) -> list[str]:
        """The weights that are computed now."""
        return list(programs(self.model))


def set_up(subject: Subject, folder: Path) -> Bench:
    """Build the model, find the inputs that it takes, and note what it does.

    Raises CoverageError when the plain model fails on every input, with the last reason.
    """
    reason = "it takes no input"
    for trial in trials(subject):
        try:
            return replace(bench_of(trial, folder), subject=subject)
        # As text: the error itself holds the frames that hold the model, while the next trial builds another.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
    raise CoverageError(f"the original model does not run: {reason}")


def bench_of(trial: Trial, folder: Path) -> Bench:
    """Build the model, and note what it does with the inputs of this trial; raises its error when it refuses them."""
    # Calibrated before it is observed, since running statistics of 0 and 1 let deep random nets explode.
    model = trial.build()
    calibrate(model, trial.training)
    return Bench(trial, model, observe(model, trial.inputs, trial.training), folder)


def observe(
    model: nn.Module, inputs: tuple[Any, ...], training: tuple[Any, ...]
) -> Original:
    """Run the plain model in both modes, and one backward."""
    evaluated = evaluate(model, inputs)
    check_finite(evaluated)
    trained = train(model, training, backward=True)
    check_finite(trained)
    # One bit for each parameter: the gradients themselves would take as much memory as the model.
    gradients = {
        n: bool(torch.isfinite(p.grad).all())
        for n, p in model.named_parameters()
        if p.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return Original(
        evaluated,
        trained,
        gradients,
        keys=signature(model),
        classes={name: type(module) for name, module in model.named_modules()},
        buffers={name: buffer.clone() for name, buffer in model.named_buffers()},
    )


def signature(model: nn.Module) -> list[tuple[str, torch.Size, torch.dtype]]:
    """Keys of the state dict in their order, with shapes and dtypes."""
    return [
        (key, value.shape, value.dtype)
        for key, value in model.state_dict().items()
        if isinstance(value, Tensor)
    ]


def restore_buffers(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Copy buffers of the same name and shape."""
    # A buffer that a forward makes or resizes, such as a cache, differs in a fresh model and is left to it.
    for name, buffer in model.named_buffers():
        if name in buffers and buffers[name].shape == buffer.shape:
            buffer.data.copy_(buffers[name])


def in_float64(bench: Bench) -> tuple[nn.Module, tuple[Any, ...], tuple[Any, ...]]:
    """The original model and its inputs in float64, where rounding is 5e8 times smaller."""
    return (
        bench.rebuilt().double(),
        in_double(bench.trial.inputs),
        in_double(bench.trial.training),
    )
