"""Reparameterize, and a pass for each parameterization: `return dense` becomes `return m * w`, for instance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import fx, nn

from sparsify_fx import parameterizations
from sparsify_fx.moved import old_names
from sparsify_fx.parameterizations import Dense, Parameterization
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
        # The passes below are called as what they install: saying both would say it twice.
        told = str(self.parameterization)
        mine = type(self).__name__
        return told if told.startswith(f"{mine}(") else f"{mine}({told})"

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
        # 1. All values are computed before anything is registered: `split` of a plugin may fail.
        dense, new = program.get_parameter("dense"), self.parameterization
        theta, trains = program.effective(), dense.requires_grad
        trained, state = {**new.split(theta), **new.shared(theta)}, new.state(theta)
        # 2. Factors are parameters, which optimizers see; state is a buffer.
        for name, value in trained.items():
            program.register_parameter(name, nn.Parameter(value, requires_grad=trains))
        for name, value in state.items():
            program.register_buffer(name, value, persistent=name not in new.transient)
        # 3. `value`, called with proxies, puts its operations into the graph where `dense` was.
        self._record(program, (*trained, *state))
        if "dense" not in trained:
            del program.dense
        program.parameterization = new
        program.train(program.training)
        return True

    def _record(self, program: WeightProgram, names: Iterable[str]) -> None:
        # Exactly one: a dense program reads its parameter once, whatever masks follow.
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


class Product(Reparameterize):
    """θ -> m ⊙ w with m = sqrt(β/2 + sqrt(θ² + β²/4)) and w = θ/m, so that m ⊙ w = θ and m² − w² = β.

    Args:
        beta: the inner scaling β > 0.

    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = Product(beta=1.0)(model)
    >>> sorted(name for name, _ in model.named_parameters())
    ['weight_program.m', 'weight_program.w']

    Source: [Gadhikar 2025], Algorithm 1 and Appendix B.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__(parameterizations.Product(beta))


class SoftThreshold(Reparameterize):
    """θ -> sign(d)·relu(abs(d) − g(s)) with a trained threshold s; inverse: see `parameterizations.SoftThreshold`.

    Args:
        start: s at the beginning; sigmoid(−200) is exactly 0 in float32.
        gate: g, "sigmoid" or "exp".
        per: one s for each "layer" or "channel".

    >>> from torch import nn
    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = SoftThreshold()(model)
    >>> sorted(name for name, _ in model.named_parameters())
    ['weight_program.dense', 'weight_program.s']

    Source: [Kusupati 2020].
    """

    def __init__(
        self, start: float = -200.0, gate: str = "sigmoid", per: str = "layer"
    ) -> None:
        super().__init__(parameterizations.SoftThreshold(start, gate, per))


class SigmoidGate(Reparameterize):
    """θ -> d·σ(τ·s) with a trained s for every weight; inverse: see `parameterizations.SigmoidGate`.

    Args:
        start: s at the beginning.
        temperature: the largest τ.

    Source: [Savarese 2020].
    """

    def __init__(self, start: float = 0.2, temperature: float = 200.0) -> None:
        super().__init__(parameterizations.SigmoidGate(start, temperature))


class HardConcrete(Reparameterize):
    """θ -> d·z with a random gate z whose log α is trained; inverse: see `parameterizations.HardConcrete`.

    Args:
        start: log α at the beginning.

    Source: [Louizos 2018].
    """

    def __init__(self, start: float = 2.5) -> None:
        super().__init__(parameterizations.HardConcrete(start))


class PowerPropagation(Reparameterize):
    """θ -> sign(d)·abs(d)^α; inverse: see `parameterizations.PowerPropagation`.

    Args:
        alpha: α >= 1.

    Source: [Schwarz 2021].
    """

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__(parameterizations.PowerPropagation(alpha))


class BalancedProduct(Reparameterize):
    """θ -> m ⊙ w with abs(m) = abs(w); inverse: see `parameterizations.BalancedProduct`.

    Source: [Ziyin 2023].
    """

    def __init__(self) -> None:
        super().__init__(parameterizations.BalancedProduct())


if not TYPE_CHECKING:
    __getattr__ = old_names(
        __name__, {"SplitBalanced": "BalancedProduct", "SplitProduct": "Product"}
    )
