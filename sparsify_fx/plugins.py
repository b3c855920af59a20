"""Plugins: modules of other packages that register methods, criteria and other axis values when they are imported.

A package names them in the entry point group `sparsify_fx.plugins`:

    [project.entry-points."sparsify_fx.plugins"]
    distance = "my_package.distance"
"""

from __future__ import annotations

import threading
from importlib.metadata import EntryPoint, entry_points

from sparsify_fx.errors import PluginError

GROUP = "sparsify_fx.plugins"
_errors: list[PluginError] | None = None
_LOADING = threading.RLock()


def load_plugins() -> None:
    """Import the zoo's methods and every installed plugin, once a process; the first look-up of a method does it.

    Raises PluginError for a plugin that cannot be imported, and again at every later look-up.
    """
    global _errors
    with _LOADING:  # other threads wait until the registry is full
        if _errors is None:
            _errors = []  # from here on: a plugin may itself look up methods while it is imported
            import sparsify_fx.zoo.methods  # noqa: F401 - fills the registry; here, since the methods import the recipes

            for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
                _load(point, _errors)
        if _errors:
            raise _errors[0]


def _load(point: EntryPoint, errors: list[PluginError]) -> None:
    try:
        point.load()
    except Exception as error:
        owner = f" of the package {point.dist.name!r}" if point.dist is not None else ""
        told = PluginError(
            f"the plugin {point.name!r} ({point.value}){owner} cannot be loaded: {type(error).__name__}: {error}; "
            "mend or uninstall that package"
        )
        told.__cause__ = error
        errors.append(told)
