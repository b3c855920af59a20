"""Which form of file each runtime folds into constants at load: `export(target=NAME)`, `pack --target NAME`.

To add a runtime, copy the file of one that is alike in this folder, give it the runtime's name, and let a test in
`tests/onnx_export/test_runtimes.py` open a file in it. A profile is data, and every file of this folder with a
`PROFILE` is found; nothing else has to be changed. Which operators a runtime folds is to be measured: `python -m
benchmarks.runtimes` writes what was seen to `docs/results/runtimes.md`. One that computes weights again in every run
gets no operators at all, and dense files of their honest size.
"""

from __future__ import annotations

import importlib
import pkgutil

from sparsify_fx.onnx_export.profiles.profile import Profile


def _found() -> dict[str, Profile]:
    """The profiles of this folder by name, those for onnxruntime first."""
    profiles: list[Profile] = []
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        profile = getattr(importlib.import_module(module.name), "PROFILE", None)
        if isinstance(profile, Profile):
            profiles.append(profile)
    profiles.sort(key=lambda each: (each.runs_in != "onnxruntime", each.name))
    return {each.name: each for each in profiles}


PROFILES = _found()
"""Profiles by name, as `export(target=...)` takes them."""

__all__ = ["PROFILES", "Profile"]
