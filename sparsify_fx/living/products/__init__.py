"""Products of living entries: convolutions and linear layers that skip the zeros of their weight, and their gradients.

Why a room of its own: elsewhere in `sparsify_fx.living` a weight is placed, and torch computes with it. Here nothing
dense is made: C++ kernels (`sparsify_fx/runtime/csrc/training`) read the vectors of living values themselves.
"""
