"""Rehearsal: a criterion that will score late in a training is tried at its start, so that it fails before the work."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.criteria.base import Brief, Criterion, PruningContext, criterion_name
from sparsify_fx.distributed.ranks import independent, together
from sparsify_fx.errors import MethodError, SparsifyError


def rehearse(criterion: Criterion, context: PruningContext) -> None:
    """Score once, on the first batch alone, and forget the scores.

    Nothing is left changed in the model, in random states (torch's, Python's, numpy's, those of a loader's own
    generator) or in `context.batches`. An iterator, which can be read only once, is not touched, so that nothing is
    tried with it. Costs a few evaluations of one batch; criteria with a `brief` form see only as many samples as that
    needs. In a process group every rank must call it, and an error on one is raised on all.

    Raises MethodError when the criterion cannot score this model: it says why.
    """
    name = criterion_name(criterion)
    with together(f"the rehearsal of {name}"):
        # An iterator that is spent here would be empty when it counts; and what needs nothing cannot fail on it.
        if not criterion.needs or _read_once(context.batches):
            return
        trial, samples = (
            criterion.brief() if isinstance(criterion, Brief) else (criterion, None)
        )
        # No collective call in here: a rank that fails on its first batch would leave the others waiting in one.
        # `together` tells them afterwards.
        with independent(), _random_states(context):
            batches = (
                None if context.batches is None else _first(context.batches, samples)
            )
            try:
                trial.scores(replace(context, batches=batches))
            # These say already what is wrong and what to do.
            except SparsifyError:
                raise
            except Exception as error:
                first = (str(error).strip().splitlines() or [""])[0]
                raise MethodError(
                    f"{name} cannot score this model on the first batch of batches=: {type(error).__name__}: {first}; "
                    "check that model(inputs) and loss_fn(outputs, targets) work for it, or choose another criterion"
                ) from error


def _read_once(batches: Any) -> bool:
    return isinstance(batches, Iterator)


def _first(batches: Iterable[Any], samples: int | None) -> list[Any]:
    """The first batch in a list, cut to `samples` where inputs and targets can be; empty when there is none."""
    first = next(iter(batches), None)
    if first is None:
        return []
    if samples is None or not (isinstance(first, (tuple, list)) and len(first) == 2):
        return [first]
    inputs, targets = first
    if (
        # Cut only where inputs and targets count samples along the same first axis.
        isinstance(inputs, Tensor)
        and isinstance(targets, Tensor)
        and inputs.shape[:1] == targets.shape[:1]
    ):
        return [(inputs[:samples], targets[:samples])]
    return [first]


@contextlib.contextmanager
def _random_states(context: PruningContext) -> Iterator[None]:
    """Every random state that a loader or a model may draw from, given back."""
    loader = context.batches
    # Loaders draw from generators of their own; reading one batch would move them, and shift every later epoch.
    owned = [
        getattr(holder, "generator", None)
        for holder in (loader, getattr(loader, "sampler", None))
    ]
    generators = [
        generator for generator in owned if isinstance(generator, torch.Generator)
    ]
    before = [generator.get_state() for generator in generators]
    # Not imported for this: where nobody imported numpy, nobody draws from it.
    numpy, python = sys.modules.get("numpy"), random.getstate()
    numbers = None if numpy is None else numpy.random.get_state()
    devices = sorted(
        {weight.get_device() for weight in context.weights.values() if weight.is_cuda}
    )
    draws = context.generator.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
        context.generator.set_state(draws)
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(numbers)
