"""Old import paths and old names: each still gives what took its place, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

PACKAGE = "sparsify_fx."

MOVED = {
    "checksums": "checkpoints.checksums",
    "clock": "scheduler.clock",
    "collapse": "programs.collapse",
    "collectives": "distributed.collectives",
    "computed_weight": "programs.computed_weight",
    "data_parallel": "distributed.data_parallel",
    "demo_speed": "demo.speed",
    "example_inputs": "programs.example_inputs",
    "fingerprint": "scheduler.fingerprint",
    "flow": "programs.flow",
    "grids": "tables.fitting",
    "guards": "scheduler.guards",
    "input_layouts": "programs.input_layouts",
    "lab.bregman": "lab.diagonal.bregman",
    "lab.diagonal_problem": "lab.diagonal.problem",
    "lab.diagonal_runs": "lab.diagonal.runs",
    "lab.experiments": "lab.run",
    "lab.flow": "lab.common.flow",
    "lab.lbfgs": "lab.neuron_lrr.lbfgs",
    "lab.neuron": "lab.common.neuron",
    "lab.neuron_closed": "lab.neuron_lrr.closed_forms",
    "lab.neuron_descent": "lab.neuron_signin.descent",
    "lab.neuron_signin_runs": "lab.neuron_signin.runs",
    "lab.neurons": "lab.neurons_signin.neurons",
    "lab.sample_rates": "lab.sample_complexity.rates",
    "lab.sample_runs": "lab.sample_complexity.runs",
    "lab.statistics": "lab.common.statistics",
    "lab.teacher": "lab.sample_complexity.teacher",
    "lab.tensor_start": "lab.sample_complexity.tensor_start",
    "layers": "programs.selection",
    "mask_updates": "schedules.updates",
    "onnx_export.clean": "onnx_export.tracing.clean",
    "onnx_export.codecs": "onnx_export.storage.codecs",
    "onnx_export.encodings": "onnx_export.storage.encodings",
    "onnx_export.inspect_checkpoint": "onnx_export.inspection.inspect_checkpoint",
    "onnx_export.inspect_onnx": "onnx_export.inspection.inspect_onnx",
    "onnx_export.macs": "onnx_export.report.macs",
    "onnx_export.measure": "onnx_export.checks.measure",
    "onnx_export.metadata": "onnx_export.files.metadata",
    "onnx_export.names": "onnx_export.tracing.names",
    "onnx_export.optimized": "onnx_export.tracing.clean",
    "onnx_export.outputs": "onnx_export.tracing.outputs",
    "onnx_export.padding": "onnx_export.tracing.clean",
    "onnx_export.picture": "onnx_export.report.picture",
    "onnx_export.pieces": "onnx_export.files.pieces",
    "onnx_export.predictions": "onnx_export.checks.verify",
    "onnx_export.prepare": "onnx_export.tracing.prepare",
    "onnx_export.probe": "onnx_export.checks.probe",
    "onnx_export.rows": "onnx_export.report.rows",
    "onnx_export.sparse_initializers": "onnx_export.storage.sparse_initializers",
    "onnx_export.tables": "onnx_export.report.tables",
    "onnx_export.tensors": "onnx_export.files.tensors",
    "onnx_export.trace": "onnx_export.tracing.trace",
    "onnx_export.twins": "onnx_export.checks.twins",
    "onnx_export.unpacking": "onnx_export.storage.unpacking",
    "onnx_export.verify": "onnx_export.checks.verify",
    "onnx_export.weights": "onnx_tools.weights",
    "onnx_export.writing": "onnx_export.files.writing",
    "options": "registry",
    "overshoot": "scheduler.overshoot",
    "owner_class": "programs.owner_class",
    "owner_kinds": "programs.owner_kinds",
    "owners": "programs.owners",
    "parts": "scheduler.parts",
    "passes.onnx_graph.evaluate": "onnx_tools.evaluate",
    "passes.onnx_graph.outside": "onnx_tools.outside",
    "passes.onnx_graph.rows": "passes.onnx_graph.base",
    "passes.onnx_graph.shapes": "onnx_tools.shapes",
    "parameterizations.power": "parameterizations.power_propagation",
    "passes.onnx_graph.view": "onnx_tools.view",
    "passes.parameterize": "passes.reparameterize",
    "program": "programs.program",
    "program_state": "programs.state",
    "progress": "programs.progress",
    "pruner": "scheduler.pruner",
    "pruning": "criteria.choosing",
    "rates": "scheduler.rates",
    "refresh": "scheduler.refresh",
    "replicas": "distributed.replicas",
    "run_files": "checkpoints.run_files",
    "runtime.attention_core": "runtime.attention.core",
    "runtime.attention_trial": "runtime.attention.trial",
    "runtime.cost": "runtime.choice.cost",
    "runtime.cut": "runtime.choice.cut",
    "runtime.fuse": "runtime.fusion.fuse",
    "runtime.halve": "runtime.fusion.halve",
    "runtime.join": "runtime.fusion.join",
    "runtime.join_attention": "runtime.attention.join",
    "runtime.join_pool": "runtime.fusion.join_pool",
    "runtime.join_sum": "runtime.fusion.join_sum",
    "runtime.layouts": "runtime.choice.layouts",
    "runtime.moves": "runtime.attention.moves",
    "runtime.planes": "runtime.fusion.planes",
    "runtime.pools": "runtime.fusion.pools",
    "sharing": "programs.sharing",
    "signs": "numerics",
    "snapshots": "scheduler.snapshots",
    "step_counts": "scheduler.step_counts",
    "strengths": "scheduler.strengths",
    "tables.grids": "tables.fitting",
    "taking": "transfer",
    "tensor_hash": "distributed.tensor_hash",
    "testing.axes": "testing",
    "thresholds": "numerics",
    "ties": "criteria.ties",
    "timeline": "scheduler.timeline",
    "track": "scheduler.track",
    "transaction": "passes.transaction",
    "undisturbed": "randomness",
    "undo": "scheduler.undo",
    "unfinished": "scheduler.unfinished",
}
"""Paths of version 0.1 without the package's name: where each module is now."""


class OldPaths(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by their old paths; what is imported is the module at the new one, the very same object."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for an old path, None for all others."""
        # Last on the meta path: this is asked only for what no other finder has.
        if not fullname.startswith(PACKAGE) or _now(fullname) is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The module at the new path."""
        new = f"{PACKAGE}{_now(spec.name)}"
        warnings.warn(
            f"{spec.name} is now {new}; the old path goes with version 1.0",
            DeprecationWarning,
            stacklevel=4,
        )
        module = importlib.import_module(new)
        # The import system puts the old spec on the module that it gets; `exec_module` gives this one back.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing runs again; the import system has given the module the old path's spec, and it gets its own back."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


def _now(fullname: str) -> str | None:
    """Where a module of this path is now; modules inside a folder that moved are found there."""
    old = fullname.removeprefix(PACKAGE)
    parent, _, name = old.rpartition(".")
    if old in MOVED:
        return MOVED[old]
    return f"{MOVED[parent]}.{name}" if parent == "onnx_export.codecs" else None


def find_old_paths() -> None:
    """Let old paths be imported, once."""
    # Once: each finder is asked at every import that fails elsewhere.
    if not any(isinstance(finder, OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(OldPaths())


def old_names(module: str, renamed: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` (PEP 562) for the module: every old name gives the object under the new one, and a warning.

    It is the same object, so `isinstance`, `except` and pickles that were written under the old name go on working.

    Args:
        module: its `__name__`.
        renamed: new names by old ones; with the path of their module where that is another one.

    >>> import sparsify_fx.recipe
    >>> with warnings.catch_warnings(action="ignore"):
    ...     sparsify_fx.recipe.Recipe is sparsify_fx.recipe.Method
    True
    """

    def get(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        where, _, new = renamed[name].rpartition(".")
        # Never stored in the module: every place that still uses the old name is to be told of.
        warnings.warn(
            f"{module}.{name} is now {renamed[name]}; the old name goes with version 1.0",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(where or module), new)

    return get
