"""Plugins: modules of others that register methods, axis values, curves, models, data, analyses or experiments.

A package names them in the entry point group `sparsify_fx.plugins`:

    [project.entry-points."sparsify_fx.plugins"]
    distance = "my_package.distance"

A loose file is loaded by `load_file("distance.py")`, or `--plugin distance.py` on the command line.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import traceback
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from sparsify_fx.errors import PluginError, UnknownNameError, unknown

GROUP = "sparsify_fx.plugins"
_errors: list[PluginError] | None = None
_files: dict[Path, ModuleType] = {}
_LONGEST = 400
"""Characters of an error that lists the names of a module."""
_LOADING = threading.RLock()


def load_plugins() -> None:
    """Import the zoo's methods and every installed plugin, once a process; the first look-up of a name does it.

    Raises PluginError for a plugin that cannot be imported, and again at every later look-up.
    """
    global _errors
    # Other threads wait until the registry is full.
    with _LOADING:
        if _errors is None:
            # Set before anything is imported: a plugin may itself look up methods meanwhile.
            _errors = []
            # Fills the registry; here and not above, since the methods import this module.
            import sparsify_fx.zoo.methods  # noqa: F401

            # Sorted, so that of two plugins that clash the same one fails in every environment.
            for point in sorted(
                entry_points(group=GROUP), key=lambda point: (point.name, point.value)
            ):
                _load(point, _errors)
        # Kept and raised at every look-up: a name that is missing because its plugin failed would be called unknown.
        if _errors:
            raise _errors[0]


def load_file(path: str | os.PathLike[str]) -> ModuleType:
    """Run a Python file whose names are registered from then on, once a process however often it is asked for.

    The names of this package and of installed plugins come first, so that a name that is taken is told of the file.

    Raises PluginError when there is no such file, when it is no Python file, or when it raises.
    """
    load_plugins()
    file = Path(path).expanduser()
    if file.suffix != ".py" or not file.is_file():
        what = "does not exist" if not file.exists() else "is no Python file"
        raise PluginError(
            f"the plugin {path} {what}; give the path of a file such as distance.py"
        )
    with _LOADING:
        known = _files.get(file.resolve())
        if known is None:
            known = _files[file.resolve()] = _run(file, str(path))
        return known


def names_module(name: str) -> bool:
    """Whether a name is meant for a module: it has dots, or is one that can be imported; nothing is imported for it.

    >>> names_module("torch"), names_module("no_such_module.nn"), names_module("no_such_module")
    (True, True, False)
    """
    first, dot, _ = name.partition(".")
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    # No name of this package has a dot, so an error shall speak of the module.
    if dot:
        return True
    # "__main__" of some programs has no specification, which is an error to ask for.
    try:
        return importlib.util.find_spec(first) is not None
    except ValueError:
        return first in sys.modules


def imported(path: str, what: str) -> Any:
    """The object of an import path, "package.module:name"; the module's code runs.

    Args:
        what: what it is wanted for, for errors.

    Raises PluginError when the module cannot be imported or has no such name.

    >>> imported("torch.nn:Linear", "model").__name__
    'Linear'
    """
    module, _, name = path.partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise PluginError(
            f"{what} {path!r}: {module} cannot be imported: {type(error).__name__}: {error}; install it, or put its "
            "folder into PYTHONPATH"
        ) from error
    if not hasattr(found, name):
        public = [known for known in vars(found) if not known.startswith("_")]
        told = str(unknown(what, name, public))
        # Modules such as numpy have a page of names; the nearest one comes first.
        cut = told if len(told) <= _LONGEST else f"{told[:_LONGEST]} ..."
        raise PluginError(f"{path!r}: {cut}")
    return getattr(found, name)


def failure(error: BaseException) -> str:
    """What code of the user's raised, and in which line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    kind = type(error).__name__
    return f"{kind}: {error} ({place.filename}, line {place.lineno})"


def if_a_module(error: UnknownNameError) -> UnknownNameError:
    """The error for an unknown name that may have been meant for a module."""
    return UnknownNameError(
        f"{error}; if it is a module of your own, install it, or put its folder into PYTHONPATH"
    )


def load_files(paths: Iterable[str | os.PathLike[str]] | None) -> None:
    """`load_file` for each, in order; what the option `--plugin` of the command line does."""
    for path in paths or ():
        load_file(path)


def _run(file: Path, told: str) -> ModuleType:
    # A name of its own: a file called random.py must not take the place of the standard library's.
    name = f"sparsify_fx_plugin_{file.stem}"
    if name in sys.modules:
        raise PluginError(
            f"the plugin {told} has the name of another plugin file, {sys.modules[name].__file__}; rename one of them"
        )
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles of the file look it up there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(
            f"the plugin {told} cannot be loaded: {type(error).__name__}: {error}{_line(error, file)}; fix the file"
        ) from error
    return module


def _line(error: BaseException, file: Path) -> str:
    """Where in the file it happened; a syntax error says so itself."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == file.absolute()
    ]
    return f" (line {frames[-1].lineno})" if frames else ""


def _load(point: EntryPoint, errors: list[PluginError]) -> None:
    try:
        point.load()
    except Exception as error:
        owner = f" of the package {point.dist.name!r}" if point.dist is not None else ""
        told = PluginError(
            f"the plugin {point.name!r} ({point.value}){owner} cannot be loaded: {type(error).__name__}: {error}; "
            "fix or uninstall that package"
        )
        told.__cause__ = error
        errors.append(told)
