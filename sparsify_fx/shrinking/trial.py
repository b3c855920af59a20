"""Try a cut on a copy: the outputs of the copy must be those of the model."""

from __future__ import annotations

import random
from collections.abc import Callable
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

EXACT = 1e-6  # of the largest output, in double precision
SINGLE = 1e-5  # where the model runs in single precision alone: sums in another order round otherwise


class Trial:
    """The outputs of a model at its example inputs, and cuts of copies to compare with them."""

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self.model, self.tolerance = model, EXACT
        self.dtype: torch.dtype | None = torch.float64
        self.inputs = example_inputs
        try:
            self.expected = self._outputs(self._copy())
        except Exception:
            # Code that names its precision cannot run in another one; what else is wrong is raised below.
            self.dtype, self.tolerance = None, SINGLE
            self.expected = self._own_outputs()

    @cached_property
    def trains(self) -> bool:
        """Whether the model runs in training mode at these inputs."""
        return not self._training_failure(self._copy())

    def failure(
        self, change: Callable[[nn.Module], None], training: bool = False
    ) -> str:
        """Why a copy that is changed so does not do what the model does; empty if it does.

        With `training` it must run in training mode too, where the model does.
        """
        trial = self._copy()
        try:
            change(trial)
            found = self._outputs(trial)
        except Exception as error:
            # Whatever the model's own code raises at sizes that it does not expect.
            return f"{type(error).__name__}: {first_line(error)}"
        different = self._difference(found)
        if different or not training or not self.trains:
            return different
        return self._training_failure(trial)

    def _own_outputs(self) -> list[Tensor]:
        try:
            return self._outputs(self._copy())
        except Exception as error:
            raise inputs_error(self.model, error) from error

    def _training_failure(self, model: nn.Module) -> str:
        """Why a copy does not run in training mode; empty if it does."""
        args, kwargs = pytree.tree_map_only(Tensor, self._cast, as_call(self.inputs))
        try:
            # What dropout draws here must not be missing in the training.
            with torch.random.fork_rng(), torch.no_grad():
                model.train()(*args, **kwargs)
        except Exception as error:
            # A model may ask for targets in training, or for more samples than there are here.
            return f"in training mode {type(error).__name__}: {first_line(error)}"
        return ""

    def _copy(self) -> nn.Module:
        trial = copy_in_full(self.model)
        return trial if self.dtype is None else trial.to(self.dtype)

    def _outputs(self, model: nn.Module) -> list[Tensor]:
        args, kwargs = pytree.tree_map_only(Tensor, self._cast, as_call(self.inputs))
        # Noise that a model draws in evaluation is the same in each trial.
        with in_mode(model), torch.no_grad(), untouched_randomness():
            _seed()
            return tensors_of(model(*args, **kwargs))

    def _cast(self, value: Tensor) -> Tensor:
        if self.dtype is None or not value.is_floating_point():
            return value.clone()
        return value.to(self.dtype)

    def _difference(self, found: list[Tensor]) -> str:
        if [value.shape for value in found] != [v.shape for v in self.expected]:
            return "outputs of other shapes"
        if not found:
            return "the outputs hold no tensors that could be compared"
        for value, expected in zip(found, self.expected, strict=True):
            if not value.numel():
                continue
            error, scale = _error_and_scale(_wide(value), _wide(expected))
            # Written so that NaN is a failure.
            if not error <= self.tolerance * scale:
                return f"outputs differ by {error:.2g}"
        return ""


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors in what a model returns; where there are none, numbers as tensors and those in its objects.

    >>> tensors_of({"loss": torch.ones(1), "steps": 3, "name": "a"})
    [tensor([1.])]
    """
    leaves = pytree.tree_leaves(outputs)
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    seen = set[int]()
    # Dataclasses, and objects such as the distributions that policies return.
    while leaves and not found:
        found = [
            torch.tensor(n) for n in leaves if isinstance(n, int | float | complex)
        ]
        inner = [leaf for leaf in leaves if hasattr(leaf, "__dict__") and id(leaf) not in seen]  # fmt: skip
        seen.update(map(id, inner))
        leaves = pytree.tree_leaves([dict(vars(leaf)) for leaf in inner])
        found += [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return found


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)
    # Where CUDA is not in use, a seed would wait for the user's own first use of it.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(0)


def _wide(value: Tensor) -> Tensor:
    """In double precision, in which truth values and small numbers have differences, too."""
    return value if value.is_complex() else value.double()


def _error_and_scale(value: Tensor, expected: Tensor) -> tuple[float, float]:
    """(the largest difference, the largest finite output, of 1 at least): equal infinities do not differ."""
    error = (value - expected).abs().masked_fill(value == expected, 0.0)
    sizes = expected.abs()
    finite = sizes[sizes.isfinite()]
    return float(error.max()), max(1.0, float(finite.max()) if finite.numel() else 1.0)
