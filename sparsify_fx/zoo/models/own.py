"""Models of one's own by import path."""

from __future__ import annotations

import inspect
from dataclasses import asdict

from torch import nn

from sparsify_fx.errors import ConfigError
from sparsify_fx.plugins import failure, imported
from sparsify_fx.zoo.models.spec import ModelSpec


def own_model(path: str, spec: ModelSpec) -> nn.Module:
    """What a function or class at "package.module:name" makes for a task.

    It gets `num_classes`, `in_channels` and `image_size`, those of them that it names; with ** the first as well.

    Raises PluginError when it is not there, ConfigError when it fails or makes no module.
    """
    function = imported(path, "model")
    if not callable(function):
        raise ConfigError(f"model {path!r} cannot be called; give a function or class")
    given = asdict(spec)
    try:
        taken = inspect.signature(function).parameters
        takes_any = any(each.kind is each.VAR_KEYWORD for each in taken.values())
        names = {*taken, *(("num_classes",) if takes_any else ())}
        model = function(**{name: given[name] for name in given if name in names})
    # Code of the user's may raise anything.
    except Exception as error:
        raise ConfigError(
            f"model {path!r} cannot be built for {spec}: {failure(error)}; it is called with num_classes, "
            "in_channels and image_size, as far as it names them"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model {path!r} made a {type(model).__name__}; expected a torch.nn.Module"
        )
    return model
