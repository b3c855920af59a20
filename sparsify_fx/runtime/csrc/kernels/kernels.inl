// The kernels themselves, in the vector extensions of GCC and Clang; included by one file per instruction set, which
// defines LANES, MAX_VECTORS and DENSE_VECTORS and opens a namespace of its own. All functions are static, so that no
// instruction of one set can slip into another.

#include "lanes.inl"
#include "vectors.inl"
#include "rows.inl"
#include "thin.inl"
#include "few.inl"
#include "pack.inl"
#include "transpose.inl"
#include "depthwise.inl"
#include "pool.inl"
#include "pack_lines.inl"
#include "dense.inl"
#include "norm.inl"
