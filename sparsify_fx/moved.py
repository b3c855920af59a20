"""Old import paths: each still gives the module that took its place, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

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
    "fitting_table": "tables.fitting",
    "flow": "programs.flow",
    "grids": "tables.grids",
    "guards": "scheduler.guards",
    "input_layouts": "programs.input_layouts",
    "layers": "programs.selection",
    "mask_updates": "schedules.updates",
    "onnx_export.batch_axis": "onnx_export.tracing.batch_axis",
    "onnx_export.clean": "onnx_export.tracing.clean",
    "onnx_export.codecs": "onnx_export.storage.codecs",
    "onnx_export.comparing": "onnx_export.checks.comparing",
    "onnx_export.constants": "onnx_tools.constants",
    "onnx_export.counting": "onnx_export.inspection.counting",
    "onnx_export.encodings": "onnx_export.storage.encodings",
    "onnx_export.history": "onnx_export.storage.history",
    "onnx_export.hoisting": "onnx_export.storage.hoisting",
    "onnx_export.inputs": "onnx_export.tracing.inputs",
    "onnx_export.inspect_checkpoint": "onnx_export.inspection.inspect_checkpoint",
    "onnx_export.inspect_onnx": "onnx_export.inspection.inspect_onnx",
    "onnx_export.joined": "onnx_export.inspection.joined",
    "onnx_export.kinds": "onnx_export.files.kinds",
    "onnx_export.macs": "onnx_export.report.macs",
    "onnx_export.measure": "onnx_export.checks.measure",
    "onnx_export.metadata": "onnx_export.files.metadata",
    "onnx_export.names": "onnx_export.tracing.names",
    "onnx_export.notes": "onnx_export.report.notes",
    "onnx_export.open_axes": "onnx_export.tracing.open_axes",
    "onnx_export.open_trace": "onnx_export.tracing.open_trace",
    "onnx_export.optimized": "onnx_export.tracing.optimized",
    "onnx_export.other_sizes": "onnx_export.tracing.other_sizes",
    "onnx_export.outputs": "onnx_export.tracing.outputs",
    "onnx_export.packed_weights": "onnx_export.inspection.packed_weights",
    "onnx_export.padding": "onnx_export.tracing.padding",
    "onnx_export.parts": "onnx_export.inspection.parts",
    "onnx_export.picture": "onnx_export.report.picture",
    "onnx_export.pieces": "onnx_export.files.pieces",
    "onnx_export.predictions": "onnx_export.checks.predictions",
    "onnx_export.prepare": "onnx_export.tracing.prepare",
    "onnx_export.probe": "onnx_export.checks.probe",
    "onnx_export.program_weights": "onnx_export.inspection.program_weights",
    "onnx_export.protobuf_kinds": "onnx_export.files.protobuf_kinds",
    "onnx_export.quantized": "onnx_export.storage.quantized",
    "onnx_export.reading": "onnx_export.files.reading",
    "onnx_export.reference": "onnx_export.tracing.reference",
    "onnx_export.rows": "onnx_export.report.rows",
    "onnx_export.run_shapes": "onnx_export.checks.run_shapes",
    "onnx_export.shards": "onnx_export.files.shards",
    "onnx_export.sparse_initializers": "onnx_export.storage.sparse_initializers",
    "onnx_export.subclasses": "onnx_export.inspection.subclasses",
    "onnx_export.tables": "onnx_export.report.tables",
    "onnx_export.tensor_bytes": "onnx_export.files.tensor_bytes",
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
    "passes.onnx_graph.feeds": "onnx_tools.feeds",
    "passes.onnx_graph.lengths": "onnx_tools.lengths",
    "passes.onnx_graph.outside": "onnx_tools.outside",
    "passes.onnx_graph.randomness": "onnx_tools.randomness",
    "passes.onnx_graph.shapes": "onnx_tools.shapes",
    "passes.onnx_graph.signature": "onnx_tools.signature",
    "passes.onnx_graph.soundness": "onnx_tools.soundness",
    "passes.onnx_graph.uses": "onnx_tools.uses",
    "passes.onnx_graph.values": "onnx_tools.values",
    "passes.onnx_graph.view": "onnx_tools.view",
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
    "runtime.giving_back": "runtime.choice.giving_back",
    "runtime.halve": "runtime.fusion.halve",
    "runtime.in_place": "runtime.choice.in_place",
    "runtime.join": "runtime.fusion.join",
    "runtime.join_attention": "runtime.attention.join",
    "runtime.join_pool": "runtime.fusion.join_pool",
    "runtime.join_sum": "runtime.fusion.join_sum",
    "runtime.layouts": "runtime.choice.layouts",
    "runtime.moves": "runtime.attention.moves",
    "runtime.planes": "runtime.fusion.planes",
    "runtime.pools": "runtime.fusion.pools",
    "runtime.racing": "runtime.choice.racing",
    "sharing": "programs.sharing",
    "signs": "numerics",
    "snapshots": "scheduler.snapshots",
    "step_counts": "scheduler.step_counts",
    "strengths": "scheduler.strengths",
    "taking": "transfer",
    "tensor_hash": "distributed.tensor_hash",
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
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for an old path, None for all others."""
        if not fullname.startswith(PACKAGE) or _now(fullname) is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The module at the new path."""
        new = f"{PACKAGE}{_now(spec.name)}"
        warnings.warn(f"{spec.name} is now {new}; the old path goes with version 1.0", DeprecationWarning, stacklevel=4)
        module = importlib.import_module(new)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run again; the import system has put the old path's spec into the module, which keeps its own."""
        module.__spec__ = self._spec


def _now(fullname: str) -> str | None:
    """Where a module of this path is now; modules inside a folder that moved are found there."""
    old = fullname.removeprefix(PACKAGE)
    parent, _, name = old.rpartition(".")
    if old in MOVED:
        return MOVED[old]
    return f"{MOVED[parent]}.{name}" if parent == "onnx_export.codecs" else None


def find_old_paths() -> None:
    """Let old paths be imported, once."""
    if not any(isinstance(finder, OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(OldPaths())
