"""What happened to the weights: sign flips."""

from sparsify_fx.analysis.signs import SignFlips, sign_flips

__all__ = ["SignFlips", "sign_flips"]
