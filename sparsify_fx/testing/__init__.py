"""The laws of this package as checks that a plugin's own tests can call.

    from sparsify_fx import testing

    def test_my_criterion() -> None:
        testing.check_criterion("distance")

    def test_my_method() -> None:
        testing.check_method("distance+signin")

Each check takes a registered name or the object itself, trains a net of 792 weights for a second or two where it has
to, and raises a LawError (an AssertionError too) that says which law does not hold and where. The tests of this
package are made of the same checks.
"""

from sparsify_fx.errors import LawError
from sparsify_fx.testing.criteria import check_criterion
from sparsify_fx.testing.laws import check_method
from sparsify_fx.testing.parameterizations import check_parameterization
from sparsify_fx.testing.penalties import check_penalty
from sparsify_fx.testing.schedules import check_schedule
from sparsify_fx.testing.small import batch, effective, loss_of, small_net, train_step

__all__ = [
    "LawError",
    "batch",
    "check_criterion",
    "check_method",
    "check_parameterization",
    "check_penalty",
    "check_schedule",
    "effective",
    "loss_of",
    "small_net",
    "train_step",
]
