"""How channels pass each operator of a traced graph: RULES, by the operator's name."""

from sparsify_fx.coupling.rules.base import Rule
from sparsify_fx.coupling.rules.elementwise import ELEMENTWISE
from sparsify_fx.coupling.rules.layers import LAYERS
from sparsify_fx.coupling.rules.moving import MOVING
from sparsify_fx.coupling.rules.norms import NORMS
from sparsify_fx.coupling.rules.products import PRODUCTS
from sparsify_fx.coupling.rules.reducing import REDUCING

RULES: dict[str, Rule] = {
    **ELEMENTWISE,
    **MOVING,
    **REDUCING,
    **NORMS,
    **LAYERS,
    **PRODUCTS,
}

__all__ = ["RULES", "Rule"]
