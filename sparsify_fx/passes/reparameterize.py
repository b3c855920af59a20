"""Reparameterize and SplitProduct: `return dense` becomes `return m * w`, or another parameterization."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx, nn

from sparsify_fx.parameterizations import Dense, Parameterization, Product
from sparsify_fx.passes.base import ProgramPass
from sparsify_fx.programs.program import WeightProgram


class Reparameterize(ProgramPass):
    """Replace the trainable dense tensor by the factors of a parameterization, with the same value.

    The parameterization's own `value` is recorded as the program's graph. Build the optimizer afterwards: the dense
    parameters are gone. A plain model is lifted first.

    Args:
        parameterization: for instance `Product(beta=1.0)`.

    Raises PassError when a program is parameterized already, but otherwise.
    """

    lifts = True

    def __init__(self, parameterization: Parameterization) -> None:
        self.parameterization = parameterization

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.parameterization})"

    def check(self, name: str, program: WeightProgram) -> None:
        """Only a dense program can be split."""
        if program.parameterization not in (Dense(), self.parameterization):
            raise self.fail(
                name,
                program,
                f"a dense program, found {program.parameterization}; merge the model first",
            )

    def rewrite(self, name: str, program: WeightProgram) -> bool:
        """Swap the parameter for its factors and the graph's `dense` for their value."""
        if program.parameterization == self.parameterization:
            return False
        dense, new = program.get_parameter("dense"), self.parameterization
        theta, trains = program.effective(), dense.requires_grad
        trained, state = {**new.split(theta), **new.shared(theta)}, new.state(theta)
        for name, value in trained.items():
            program.register_parameter(name, nn.Parameter(value, requires_grad=trains))
        for name, value in state.items():
            program.register_buffer(name, value, persistent=name not in new.transient)
        self._record(program, (*trained, *state))
        if "dense" not in trained:
            del program.dense
        program.parameterization = new
        program.train(program.training)
        return True

    def _record(self, program: WeightProgram, names: Iterable[str]) -> None:
        (old,) = (
            node
            for node in program.graph.nodes
            if node.op == "get_attr" and node.target == "dense"
        )
        with program.graph.inserting_before(old):
            tensors = {name: fx.Proxy(program.graph.get_attr(name)) for name in names}
            old.replace_all_uses_with(self.parameterization.value(tensors).node)
        program.graph.erase_node(old)
        program.recompile()


class SplitProduct(Reparameterize):
    """θ -> m ⊙ w with m = sqrt(β/2 + sqrt(θ² + β²/4)) and w = θ/m, so that m ⊙ w = θ and m² − w² = β.

    Args:
        beta: the inner scaling β > 0.

    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = SplitProduct(beta=1.0)(model)
    >>> sorted(name for name, _ in model.named_parameters())
    ['weight_program.m', 'weight_program.w']

    Source: [Gadhikar 2025], Algorithm 1 and Appendix B.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__(Product(beta))

    def __str__(self) -> str:
        parameterization = self.parameterization
        assert isinstance(parameterization, Product)
        return f"SplitProduct(beta={parameterization.beta:g})"
