"""A model by its name: from the zoo, torchvision or timm."""

from __future__ import annotations

import difflib

from torch import nn

from sparsify_fx.errors import UnknownNameError, unknown
from sparsify_fx.plugins import if_a_module, load_plugins, names_module
from sparsify_fx.zoo.models.libraries import LIBRARIES, build_from
from sparsify_fx.zoo.models.own import own_model
from sparsify_fx.zoo.models.spec import MODELS, ModelSpec

_ORDER = ("torchvision", "timm")


def build_model(
    name: str, *, num_classes: int, in_channels: int = 3, image_size: int = 32
) -> nn.Module:
    """A model with fresh weights on the CPU: [N, in_channels, image_size, image_size] -> [N, num_classes].

    The weights come from torch's global generator, as every torch module's do: call `torch.manual_seed` first.

    Args:
        name: one of `MODELS`, `torchvision:NAME`, `timm:NAME`, or a bare name, which is looked up in this order; or the
            import path of a function or class, `package.module:name`, which gets those of the numbers below that it
            takes by their names.
        num_classes: length of the output.
        in_channels: channels of the images; torchvision's models take 3 only.
        image_size: side of the images in pixels.

    Raises UnknownNameError with the nearest names, ConfigError when the model cannot be built for these images.

    >>> import torch
    >>> model = build_model("lenet5", num_classes=10, in_channels=1, image_size=28)
    >>> model(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    spec = ModelSpec(num_classes, in_channels, image_size)
    load_plugins()
    # The zoo first: its names win over equal ones of the libraries, whose lists grow with every version.
    if name in MODELS:
        return MODELS[name](spec)
    module, colon, _ = name.partition(":")
    if colon and module not in LIBRARIES and names_module(module):
        return own_model(name, spec)
    if colon and module not in LIBRARIES:
        raise if_a_module(unknown("model library", module, LIBRARIES))
    library, bare = _locate(name)
    return build_from(library, bare, spec)


def _locate(name: str) -> tuple[str, str]:
    """(library, name in it) of a name that the zoo lacks."""
    prefix, colon, bare = name.partition(":")
    # A prefix names the library; many models are in both, under one name but with other weights at the start.
    libraries = [prefix] if colon else list(_ORDER)
    bare = bare if colon else name
    for library in libraries:
        if LIBRARIES[library].holds(bare):
            return library, bare
    raise _unknown(name, libraries, bare)


def _unknown(name: str, libraries: list[str], bare: str) -> UnknownNameError:
    """The nearest names of the zoo and the libraries. `errors.unknown` would list all their 1,400 names."""
    known = set(MODELS)
    for library in libraries:
        known.update(LIBRARIES[library].names())
    close = difflib.get_close_matches(bare, sorted(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return UnknownNameError(
        f"unknown model {name!r}; {hint}Known: {', '.join(MODELS)}, and the models of {' and '.join(libraries)}"
    )
