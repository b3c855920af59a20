"""The weight programs of a checkpoint: their factors and masks, as the weight that their layer sees."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from sparsify_fx.errors import CheckpointError, SparsifyError
from sparsify_fx.living.place import place, places_of
from sparsify_fx.onnx_export.inspection.counting import Counted, count
from sparsify_fx.onnx_export.inspection.joined import Joined, State
from sparsify_fx.parameterizations import Parameterization
from sparsify_fx.programs.program import FOR_PLAIN_MODELS, is_extra
from sparsify_fx.programs.state import EXTRA, decode
from sparsify_fx.recipe import axis_value

_OF_VERSION_0_1 = {
    ("dense",): "dense",
    ("m", "w"): "product",
    ("dense", "s"): "soft-threshold",
    ("dense", "logit", "temperature"): "sigmoid-gate",
    ("dense", "logit"): "hard-concrete",
}
_PROGRAM = re.compile(r"(?P<weight>.+)_program\.(?P<part>[^.]+)", re.DOTALL)


def plain_names(names: Iterable[str]) -> list[str]:
    """The names of parameters and buffers: not extra states, nor what only makes plain models refuse the file."""
    known = list(names)
    # Marks have no values: they make a plain model refuse a file of programs, rather than load half.
    marks = {name for name in known if name.endswith(f"_program.{FOR_PLAIN_MODELS}")}
    marks |= {name.removesuffix(f"_program.{FOR_PLAIN_MODELS}") for name in marks}
    return [name for name in known if name not in marks and not is_extra(name)]


def program_weights(state: State) -> dict[str, Joined]:
    """The weights that programs compute, under the name of each of their tensors.

    >>> found = program_weights({"fc.weight_program.dense": torch.ones(2, 2)})
    >>> found["fc.weight_program.dense"].name
    'fc.weight'
    """
    plain = set(plain_names(state))
    parts: dict[str, dict[str, str]] = {}
    for name in state:
        # Extra states are no plain names, but tell which parameterization it is.
        match = _PROGRAM.fullmatch(name)
        if match and (name in plain or match["part"] == EXTRA):
            parts.setdefault(match["weight"], {})[match["part"]] = name
    found: dict[str, Joined] = {}
    for weight, keys in parts.items():
        # An extra state alone has lost its tensors, so there is nothing to show.
        if set(keys) != {EXTRA}:
            found |= dict.fromkeys(
                keys.values(),
                Joined(weight, tuple(keys.values()), partial(_count, keys=keys)),
            )
    return found


def _count(state: State, keys: Mapping[str, str]) -> Counted:
    parts = {part: state[key] for part, key in keys.items()}
    stored = sum(tensor.nbytes for part, tensor in parts.items() if part != EXTRA)
    return replace(
        count(_effective(parts)),
        bytes_stored=stored,
        encoding="program",
        is_weight=True,
    )


def _effective(parts: Mapping[str, Tensor]) -> Tensor:
    """The weight that the program's layer sees in evaluation; CheckpointError for tensors that make none."""
    tensors = {
        part: value for part, value in parts.items() if part not in ("mask", EXTRA)
    }
    try:
        how = _parameterization(parts)
        like = tensors[how.factors[0]]
        # What `refresh` draws anew while it trains (the noise of a gate) is in no file;
        # evaluation goes without it.
        state = {
            key: torch.zeros_like(value)
            for key, value in how.state(like).items()
            if key in how.transient
        }
        theta = torch.as_tensor(how.value({**state, **tensors}))
        if "mask" in parts and theta.shape != parts["mask"].shape:
            # In living storage: the entries that the mask keeps.
            places = places_of(parts["mask"])
            if theta.numel() != places.numel():
                raise ValueError(
                    f"it has {theta.numel()} entries where the mask keeps {places.numel()}"
                )
            return place(theta, places, parts["mask"])
    except (SparsifyError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"no weight can be made of its program of {sorted(tensors)}: {error}"
        ) from error
    if "mask" not in parts:
        return theta
    mask = parts["mask"]
    if theta.shape == mask.shape:
        return torch.where(mask.bool(), theta, torch.zeros_like(theta))
    # Living storage: there is a value for each entry that the mask keeps.
    places = places_of(mask)
    if theta.numel() < places.numel():
        raise CheckpointError(
            f"no weight can be made of its program of {sorted(tensors)}: it has {theta.numel()} values, where its mask "
            f"of {tuple(mask.shape)} keeps {places.numel()}"
        )
    return place(theta, places, mask)


def _parameterization(parts: Mapping[str, Tensor]) -> Parameterization:
    """The one that the file tells of; without that (version 0.1) the one that has these tensors, with its defaults."""
    if EXTRA in parts:
        return cast(
            Parameterization,
            axis_value("parameterization", decode(parts[EXTRA])["parameterization"]),
        )
    names = tuple(sorted(set(parts) - {"mask"}))
    if names not in _OF_VERSION_0_1:
        known = "; ".join(", ".join(each) for each in _OF_VERSION_0_1)
        raise ValueError(f"no parameterization has these; known are {known}")
    return cast(
        Parameterization, axis_value("parameterization", _OF_VERSION_0_1[names])
    )
