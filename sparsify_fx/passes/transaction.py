"""Rewriting a model as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from sparsify_fx.programs.owner_class import set_class
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import WeightProgram

_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


@contextmanager
def untouched_on_error(model: nn.Module) -> Iterator[None]:
    """Within this context an exception leaves the modules of `model` as they were before.

    Classes, attributes, parameters, buffers, submodules and the graphs of weight programs come back. What was written
    into a tensor stays: write last, after everything that can fail.

    >>> model = nn.Linear(2, 2)
    >>> with untouched_on_error(model):
    ...     model.bias = None
    ...     raise KeyError("too late")
    Traceback (most recent call last):
    KeyError: 'too late'
    >>> model.bias is None
    False
    """
    # Programs too: a view of some of them (`Subset`) has none among its modules.
    modules = {
        id(module): module for module in (*model.modules(), *programs(model).values())
    }
    saved = [_saved(module) for module in modules.values()]
    try:
        yield
    # A KeyboardInterrupt in the middle must not leave half of a model either.
    except BaseException:
        for record in saved:
            record.restore()
        raise


@dataclass(frozen=True)
class _Record:
    """One module as it was."""

    module: nn.Module
    kind: type[nn.Module]
    attributes: dict[str, Any]
    tables: dict[str, Any]
    graph: fx.Graph | None

    def restore(self) -> None:
        """Bring it back, in the same containers."""
        if type(self.module) is not self.kind:
            set_class(self.module, self.kind)
        # Cleared and refilled, not replaced: others may hold the dict itself.
        self.module.__dict__.clear()
        self.module.__dict__.update(self.attributes)
        for name, content in self.tables.items():
            # The same containers again: optimizers and hooks refer to them.
            table = self.attributes[name]
            table.clear()
            table.update(content)
        if self.graph is not None:
            assert isinstance(self.module, WeightProgram)
            self.module.graph = self.graph


def _saved(module: nn.Module) -> _Record:
    attributes = dict(module.__dict__)
    tables = {
        name: type(attributes[name])(attributes[name])
        for name in _TABLES
        if name in attributes
    }
    graph = None
    if isinstance(module, WeightProgram):
        graph = fx.Graph()
        # A copy: passes edit the graph in place. graph_copy leaves the output node to the caller.
        graph.output(graph.graph_copy(module.graph, {}))
    return _Record(module, type(module), attributes, tables, graph)
