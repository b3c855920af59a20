"""Merge: programs are evaluated and become plain parameters again."""

from __future__ import annotations

from torch import nn
from torch.fx.passes.infra.pass_base import PassResult

from sparsify_fx.errors import PassError
from sparsify_fx.parameterizations import Dense
from sparsify_fx.passes.module_pass import ModulePass
from sparsify_fx.programs.owners import owners, program_of, programs, uninstall
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.sharding import sharded


class Merge(ModulePass):
    """Evaluate every program: plain weights, original classes and keys, exact +0.0 at pruned entries.

    merged = θ where mask = 1, and 0 elsewhere; for the dense parameterization bit for bit, and in the same parameters:
    an optimizer goes on with them. Tied weights stay tied.
    A plain model is left alone (modified = False).

    >>> from sparsify_fx.passes import Product
    >>> model = nn.Linear(2, 2)
    >>> _ = Product()(model)
    >>> Merge()(model).modified, list(model.state_dict()), type(model) is nn.Linear
    (True, ['weight', 'bias'], True)
    """

    def call(self, graph_module: nn.Module) -> PassResult:
        """Evaluate every program, then uninstall them."""
        if isinstance(graph_module, WeightProgram):
            raise PassError(
                "Merge: expected a model; a weight program has no owner to merge into"
            )
        places = [
            (owner, tensor, program_of(owner, tensor))
            for _, owner, tensor in owners(graph_module)
        ]
        merged = {id(program): program for _, _, program in places}
        # All values before the first program goes: one may fail. One value for each program, so that tied weights
        # stay one parameter.
        weights = {key: _weight(program) for key, program in merged.items()}
        for owner, tensor, program in places:
            uninstall(owner, tensor, weights[id(program)])
        return PassResult(graph_module, bool(merged))

    def ensures(self, graph_module: nn.Module) -> None:
        """No program may be left."""
        left = list(programs(graph_module))
        if left:
            raise PassError(f"Merge: {left} were not merged")


def _weight(program: WeightProgram) -> nn.Parameter:
    # A weight that was frozen before `apply` is frozen after merging.
    trainable = any(tensor.requires_grad for tensor in program.parameters())
    own = program.get_parameter(program.parameterization.factors[0])
    same = own.shape == program.full_shape() and not sharded(own)
    if same and program.parameterization == Dense():
        own.data = program.effective()
        return own
    return nn.Parameter(program.effective(), requires_grad=trainable)
