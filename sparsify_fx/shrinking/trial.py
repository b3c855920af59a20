"""Try a cut on a copy: the outputs of the copy must be those of the model."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparsify_fx.budgets.plain import untouched_randomness
from sparsify_fx.coupling.parts import first_line, inputs_error
from sparsify_fx.coupling.tracing import as_call, in_mode
from sparsify_fx.sharding import copy_in_full
from sparsify_fx.shrinking.comparing import difference, tensors_of
from sparsify_fx.shrinking.lively import (
    WithoutDropout,
    enliven,
    faint_tensors,
    lively_inputs,
)
from sparsify_fx.shrinking.spying import Place, sizes_read

_EXACT = 1e-6  # of the outputs, in double precision
_SINGLE = 1e-5  # where the model runs in single precision alone: sums in another order round otherwise


class Trial:
    """The outputs of a model at its example inputs, and cuts of copies to compare with them.

    Where the model's outputs stay finite so, constant inputs are made random, and vectors and numbers that are zero
    or faint get values: what is multiplied by close to nothing would tell nothing about a cut.

    Args:
        mixing: the names of weights whose zeros say what is read, and which stay as they are.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Any, mixing: Collection[str] = ()
    ) -> None:
        self.model, self.faint = model, faint_tensors(model, mixing)
        self.dtype: torch.dtype | None = torch.float64
        self.inputs = example_inputs
        self.lively = True
        self.expected = self._first_outputs(example_inputs)

    @cached_property
    def training_problem(self) -> str:
        """What the model raises in training mode at these inputs; empty where it runs."""
        return self._training_failure(self._copy())

    @property
    def trains(self) -> bool:
        """Whether the model runs in training mode at these inputs."""
        return not self.training_problem

    def failure(
        self, change: Callable[[nn.Module], None], training: bool = False
    ) -> str:
        """Why a copy that is changed so does not do what the model does; empty if it does.

        With `training` it must do so in training mode too, where the model runs in it, but for dropout.
        """
        trial = self._copy()
        try:
            change(trial)
            found = self._outputs(trial)
        except Exception as error:
            # Whatever the model's own code raises at sizes that it does not expect.
            return f"{type(error).__name__}: {first_line(error)}"
        different = self._difference(found, self.expected)
        if different or not training or not self.trains:
            return different
        different = self._training_failure(trial, compared=True)
        return f"in training mode {different}" if different else ""

    def sizes_read(self, places: Collection[Place]) -> set[Place]:
        """Those of these numbers of modules that the code uses as sizes of tensors; all where it cannot be seen."""
        found = sizes_read(self._copy(), places, self._outputs)
        if self.trains:
            found |= sizes_read(
                self._copy(), places, lambda trial: self._training_outputs(trial, 0)
            )
        return found

    def _first_outputs(self, example_inputs: Any) -> list[Tensor]:
        """The model's own, in double precision if it runs so, and with lively inputs and vectors if it takes them."""
        varied = [lively_inputs(example_inputs, numbers) for numbers in (True, False)]
        for self.dtype in (torch.float64, None):
            for self.lively, self.inputs in (
                *((True, inputs) for inputs in varied),
                (False, example_inputs),
            ):
                try:
                    found = self._outputs(self._copy())
                except Exception as error:
                    # Code that names its precision cannot run in another one.
                    reason = error
                    continue
                if not self.lively or not any(bool(v.isnan().any()) for v in found):
                    return found
        raise inputs_error(self.model, reason) from reason

    @property
    def _tolerance(self) -> float:
        return _EXACT if self.dtype is not None else _SINGLE

    @cached_property
    def _trained(self) -> list[Tensor] | None:
        """The outputs in training mode; None where they are random."""
        first, again = (self._training_outputs(self._copy(), seed) for seed in (0, 1))
        return None if self._difference(again, first) else first

    def _training_failure(self, model: nn.Module, compared: bool = False) -> str:
        """Why a copy does not run in training mode, or does not do what the model does in it; empty if it does."""
        try:
            found = self._training_outputs(model, 0)
        except Exception as error:
            # A model may ask for targets in training, or for more samples than there are here.
            return f"{type(error).__name__}: {first_line(error)}"
        if not compared or self._trained is None:
            return ""
        return self._difference(found, self._trained)

    def _training_outputs(self, model: nn.Module, seed: int) -> list[Tensor]:
        args, kwargs = self._call()
        with torch.no_grad(), untouched_randomness(), WithoutDropout():
            _seed(seed)
            return tensors_of(model.train()(*args, **kwargs))

    def _copy(self) -> nn.Module:
        trial = copy_in_full(self.model)
        if self.lively:
            enliven(trial, self.faint)
        return trial if self.dtype is None else trial.to(self.dtype)

    def _outputs(self, model: nn.Module) -> list[Tensor]:
        args, kwargs = self._call()
        # Noise that a model draws in evaluation is the same in each trial.
        with in_mode(model), torch.no_grad(), untouched_randomness():
            _seed(0)
            return tensors_of(model(*args, **kwargs))

    def _call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        found: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(
            Tensor, self._cast, as_call(self.inputs)
        )
        return found

    def _cast(self, value: Tensor) -> Tensor:
        if self.dtype is None or not value.is_floating_point():
            return value.clone()
        return value.to(self.dtype)

    def _difference(self, found: list[Tensor], expected: list[Tensor]) -> str:
        least = 1.0 if self.dtype is None else 1e-6
        return difference(found, expected, self._tolerance, least)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    # Where CUDA is not in use, a seed would wait for the user's own first use of it.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
