"""What the state dict of a weight program holds beside its tensors: its parameterization and the training's progress.

    conv1.weight_program._extra_state    uint8 tensor: JSON, padded with spaces to a multiple of 512 bytes
    {"parameterization": {"name": "product", "beta": 1.0}, "step": 300, "steps": 1000, "schedule": "5f0c..."}

A tensor goes through safetensors, `torch.distributed.checkpoint` and `weights_only` loading; padded, its shape stays
the same from step to step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from sparsify_fx.parameterizations import PARAMETERIZATIONS, Parameterization
from sparsify_fx.programs.progress import UNKNOWN, Progress
from sparsify_fx.registry import described

EXTRA = "_extra_state"  # what torch calls it
BLOCK = 512  # bytes

# The state dict of a rewritten model must not load into a plain one, whose biases and norms alone it would fill under
# strict=False. An empty tensor under one original key makes torch raise in any case; this key says what to do.
FOR_PLAIN_MODELS = "this is the state of a rewritten model; for a plain one save sparsify_fx dense_state_dict(model)"


def unmarked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters and buffers of a state dict.

    Not the two entries that only make plain models refuse it, nor what modules, weight programs among them, keep as
    extra state: a fresh object at every call, of any type.
    """
    marks = {key for key in state if key.endswith(f"_program.{FOR_PLAIN_MODELS}")}
    # Beside each mark stands the empty tensor under the original key.
    marks |= {key.removesuffix(f"_program.{FOR_PLAIN_MODELS}") for key in marks}
    marks |= {
        key
        for key, value in state.items()
        if is_extra(key) or not isinstance(value, Tensor)
    }
    return {key: tensor for key, tensor in state.items() if key not in marks}


def is_extra(key: str) -> bool:
    """Whether a key of a state dict is the extra state of a module (`get_extra_state`)."""
    return key.rpartition(".")[2] == EXTRA


def encode(parameterization: Parameterization, progress: Progress) -> Tensor:
    """The extra state of a program (uint8, on the CPU).

    >>> from sparsify_fx.parameterizations import Product
    >>> decode(encode(Product(beta=0.5), Progress(step=3, steps=9)))["parameterization"]
    {'name': 'product', 'beta': 0.5}
    """
    content = {
        "parameterization": described(PARAMETERIZATIONS, parameterization, stored=True),
        "step": progress.step,
        "steps": progress.steps,
        "schedule": progress.schedule,
    }
    text = json.dumps(content, default=repr).encode()
    # Whole blocks: savers that shard or preallocate compare shapes, and the digits of the step grow.
    padded = text.ljust(-(-len(text) // BLOCK) * BLOCK)
    return torch.tensor(list(padded), dtype=torch.uint8, device="cpu")


def decode(state: Any) -> dict[str, Any]:
    """The content of an extra state; ValueError when it is none, with what was found.

    An empty result stands for a state without values (on the meta device, or a fake tensor).
    """
    if not isinstance(state, Tensor):
        raise ValueError(f"a {type(state).__name__} in place of a uint8 tensor")
    # A state on its way to be filled, by torch.distributed.checkpoint for instance, is not damaged.
    if state.is_meta or isinstance(state, FakeTensor):
        return {}
    try:
        content = json.loads(bytes(state.detach().cpu().tolist()))
        # UNKNOWN is −1, so that minus it the step is >= 0 as the number of steps is.
        numbers = [content["step"] - UNKNOWN, content["steps"]]
        whole = all(
            type(number) is int and number >= 0 for number in numbers
        ) and isinstance(content["schedule"], str)
        name_of(content["parameterization"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not whole:
        raise ValueError(
            f"a progress of {content['step']!r} of {content['steps']!r} steps"
        )
    return dict(content)


def name_of(description: Any) -> str:
    """The registered name in the description of a parameterization; TypeError when there is none."""
    name = description if isinstance(description, str) else description["name"]
    if not isinstance(name, str):
        raise TypeError(f"a parameterization called {name!r}")
    return name


def restored(own: Parameterization, description: Any) -> Parameterization:
    """The parameterization that `description` tells of, given the one of the program that it is loaded into.

    Raises ValueError, in words, when it is another one, or when with its options the program would be another graph.
    """
    ours = described(PARAMETERIZATIONS, own, stored=True)
    # Told alike, they are alike: the object stays, and with it options that JSON cannot tell.
    if as_json(ours) == description:
        return own
    here, there = (
        PARAMETERIZATIONS.present_name(name_of(each)) for each in (ours, description)
    )
    if here != there:
        raise ValueError(
            f"the state is that of the parameterization {there!r}, the program of this model has {here!r}: they are of "
            "different methods"
        )
    told = (
        f"the state was saved with {description}, the program of this model has {ours}"
    )
    try:
        new = _with_options(own, description)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{told}: {error}") from error
    # Options in the graph are fixed when the program is made; only those of `split` and `refresh` may change.
    if recorded(new) != recorded(own):
        raise ValueError(f"{told}: they compute different weights")
    return new


def as_json(value: Any) -> Any:
    """A description as it comes back from JSON: tuples are lists."""
    return json.loads(json.dumps(value, default=repr))


def _with_options(own: Parameterization, description: Any) -> Parameterization:
    """`own` with the options of the description; those that are alike keep their Python types."""
    options = (
        {}
        if isinstance(description, str)
        else {k: v for k, v in description.items() if k != "name"}
    )
    known: dict[str, Any] = (
        {f.name: getattr(own, f.name) for f in fields(own)} if is_dataclass(own) else {}
    )
    if options.keys() != known.keys():
        raise ValueError(f"its options are {sorted(known)}")
    changed = {
        key: value for key, value in options.items() if as_json(known[key]) != value
    }
    for key, value in changed.items():
        # Callables and other objects are told by their text alone.
        if not isinstance(known[key], (str, int, float, bool, tuple, list, type(None))):
            raise ValueError(f"the option {key} cannot be restored from {value!r}")
    new = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in changed.items()
    }
    return replace(own, **new)  # type: ignore[type-var]


class _Recorder(Mapping[str, Any]):
    """Tensors by any name that are proxies of one graph."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.proxies: dict[str, fx.Proxy] = {}

    def __getitem__(self, name: str) -> fx.Proxy:
        if name not in self.proxies:
            self.proxies[name] = fx.Proxy(self.graph.get_attr(name))
        return self.proxies[name]

    def __iter__(self) -> Any:
        return iter(self.proxies)

    def __len__(self) -> int:
        return len(self.proxies)


def recorded(parameterization: Parameterization) -> str:
    """The graph of `value` as text: alike for two parameterizations, if and only if they compute one program."""
    recorder = _Recorder()
    value = parameterization.value(recorder)
    recorder.graph.output(value.node if isinstance(value, fx.Proxy) else value)
    return str(recorder.graph)
