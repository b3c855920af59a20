"""Lift: plain weights become programs `return dense`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn
from torch.fx.passes.infra.pass_base import PassResult

from sparsify_fx.passes.module_pass import ModulePass
from sparsify_fx.programs.owners import check_owner, install, programs
from sparsify_fx.programs.program import WeightProgram, dense_program
from sparsify_fx.programs.selection import Layer, Selection, select_layers


class Lift(ModulePass):
    """Turn every selected weight into the program `return dense`, around the very same parameter.

    A module that has programs already is left alone (modified = False).

    Args:
        include, exclude: as in `sparsify_fx.apply`.

    Raises LayerError when nothing can be selected, or when a selected layer's class cannot be changed.

    >>> model = nn.Linear(2, 3)
    >>> Lift()(model).modified, Lift()(model).modified
    (True, False)
    """

    def __init__(self, include: Selection = None, exclude: Selection = None) -> None:
        self.include, self.exclude = include, exclude

    def call(self, graph_module: nn.Module) -> PassResult:
        """Install one program per distinct weight; tied weights share one."""
        if programs(graph_module):
            return PassResult(graph_module, False)
        lift_layers(select_layers(graph_module, self.include, self.exclude))
        return PassResult(graph_module, True)


def lift_layers(layers: Mapping[str, Layer]) -> dict[str, WeightProgram]:
    """Install the program `return dense` for each selected layer; the programs by the layers' names.

    Raises LayerError, with nothing changed, when the class of a layer cannot be changed.
    """
    # All owners are checked before the first is changed.
    for owner, tensors in _by_owner(layers.values()):
        check_owner(owner, tensors)
    found = {}
    for name, layer in layers.items():
        found[name] = program = dense_program(layer.weight)
        program.passes = ("Lift",)
        for owner, tensor in layer.places:
            install(owner, tensor, program)
    return found


def _by_owner(layers: Iterable[Layer]) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """Every owner once, with the tensors of it that are selected."""
    tensors: dict[int, list[str]] = {}
    owners: dict[int, nn.Module] = {}
    for layer in layers:
        for owner, tensor in layer.places:
            owners[id(owner)] = owner
            tensors.setdefault(id(owner), []).append(tensor)
    return [(owners[key], tuple(names)) for key, names in tensors.items()]
