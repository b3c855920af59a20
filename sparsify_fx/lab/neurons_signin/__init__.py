"""Do three neurons learn a teacher of three from bad signs, and does Sign-In help them as overparameterization does?

[Gadhikar 2025], section 5 (multiple neurons), appendix C, Figs. 4 and 6.
"""

from sparsify_fx.lab.neurons_signin.experiment import measure, neurons_signin
from sparsify_fx.lab.neurons_signin.training import (
    FULL,
    Course,
    Size,
    courses,
    descend,
    example,
    signin_name,
)

__all__ = [
    "FULL",
    "Course",
    "Size",
    "courses",
    "descend",
    "example",
    "measure",
    "neurons_signin",
    "signin_name",
]
