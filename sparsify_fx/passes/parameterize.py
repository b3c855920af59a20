"""The passes that install one parameterization each, beside SplitProduct."""

from __future__ import annotations

from sparsify_fx.parameterizations import Balanced, Concrete, Power, Sigmoid, Threshold
from sparsify_fx.passes.reparameterize import Reparameterize


class SoftThreshold(Reparameterize):
    """θ -> sign(d)·relu(abs(d) − g(s)) with a trained threshold s; the inverse law is that of `Threshold`.

    Args:
        start: s at the beginning; sigmoid(−200) is exactly 0 in float32.
        gate: g, "sigmoid" or "exp".
        per: one s for each "layer" or "channel".

    >>> from torch import nn
    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = SoftThreshold()(model)
    >>> sorted(name for name, _ in model.named_parameters())
    ['weight_program.dense', 'weight_program.s']

    Source: Kusupati et al. 2020.
    """

    def __init__(
        self, start: float = -200.0, gate: str = "sigmoid", per: str = "layer"
    ) -> None:
        super().__init__(Threshold(start, gate, per))


class SigmoidGate(Reparameterize):
    """θ -> d·σ(τ·s) with a trained s for every weight; the inverse law is that of `Sigmoid`.

    Args:
        start: s at the beginning.
        temperature: the largest τ.

    Source: Savarese et al. 2020.
    """

    def __init__(self, start: float = 0.2, temperature: float = 200.0) -> None:
        super().__init__(Sigmoid(start, temperature))


class HardConcrete(Reparameterize):
    """θ -> d·z with a random gate z whose log α is trained; the inverse law is that of `Concrete`.

    Args:
        start: log α at the beginning.

    Source: Louizos et al. 2018.
    """

    def __init__(self, start: float = 2.5) -> None:
        super().__init__(Concrete(start))


class PowerPropagation(Reparameterize):
    """θ -> sign(d)·abs(d)^α; the inverse law is that of `Power`.

    Args:
        alpha: α >= 1.

    Source: Schwarz et al. 2021.
    """

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__(Power(alpha))


class SplitBalanced(Reparameterize):
    """θ -> m ⊙ w with abs(m) = abs(w); the inverse law is that of `Balanced`.

    Source: Ziyin & Wang 2023.
    """

    def __init__(self) -> None:
        super().__init__(Balanced())
