"""The common part of the passes over weight programs."""

from __future__ import annotations

import abc

from torch import nn
from torch.fx.passes.infra.pass_base import PassResult

from sparsify_fx.errors import PassError
from sparsify_fx.passes.lift import Lift
from sparsify_fx.passes.module_pass import ModulePass
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import WeightProgram, dense_program
from sparsify_fx.programs.selection import select_layers


class ProgramPass(ModulePass):
    """Rewrites every weight program of a module (`nn.Module`, traced `GraphModule`, or one `WeightProgram`) in place.

    A pass checks every program before it changes the first one, checks the result, and says truthfully in
    `PassResult.modified` whether anything changed. It fits torch's `PassManager`.
    """

    # Whether a plain model is lifted first, or refused.
    lifts: bool = False

    def call(self, graph_module: nn.Module) -> PassResult:
        """Rewrite all programs of `graph_module`; the same object comes back."""
        modified = self.lifts and Lift()(graph_module).modified
        for name, program in programs(graph_module).items():
            if self.rewrite(name, program):
                # A history for error messages: "passes before it: ..." says how a program came to be what it is.
                program.passes = (*program.passes, str(self))
                modified = True
        return PassResult(graph_module, modified)

    def requires(self, graph_module: nn.Module) -> None:
        """Check the precondition on every program."""
        for name, program in self.seen(graph_module).items():
            self.check(name, program)

    def seen(self, graph_module: nn.Module) -> dict[str, WeightProgram]:
        """The programs that `call` will meet; for a plain model those that Lift would install, not installed yet."""
        # Before anything is lifted: a check that fails must leave a plain model plain.
        found = programs(graph_module)
        if found:
            return found
        if not self.lifts:
            raise PassError(
                f"{self}: {type(graph_module).__name__} has no weight programs; run Lift() first"
            )
        return {
            name: dense_program(layer.weight)
            for name, layer in select_layers(graph_module).items()
        }

    @abc.abstractmethod
    def check(self, name: str, program: WeightProgram) -> None:
        """Raise PassError when the program does not fit this pass."""

    @abc.abstractmethod
    def rewrite(self, name: str, program: WeightProgram) -> bool:
        """Rewrite one program; True when it changed."""

    def __str__(self) -> str:
        return type(self).__name__

    def fail(self, name: str, program: WeightProgram, expected: str) -> PassError:
        """The error that names this pass, the tensor, what was expected and the passes before it."""
        before = ", ".join(program.passes) or "none"
        return PassError(
            f"{self}: {name or 'program'}: expected {expected}; passes before it: {before}"
        )
