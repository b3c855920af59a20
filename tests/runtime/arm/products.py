"""The kernels of training on ARM, through their C functions: random layers and batch norms against double precision.

Here `write_products` writes layers with what PyTorch makes of them; there, with numpy alone,
`products.py LIBRARY FOLDER` computes them.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np

# Of the largest entry of a result, which is at least 1; as in tests/living/random_products.py.
TOLERANCES = {0: 1e-5, 1: 2**-8 + 1e-5}

Array = np.ndarray


def write_products(folder: Path, count: int, first: int = 0) -> None:
    """Random layers, each with its result and gradients in double precision."""
    from tests.living.random_products import by_torch, random_product

    folder.mkdir(exist_ok=True)
    for seed in range(first, first + count):
        given = random_product(seed)
        half = given.inputs.element_size() == 2
        arrays: dict[str, Any] = {
            "sizes": np.array(given.shape, np.int64),
            "places": given.places.numpy(),
            "values": given.values.numpy(),
            "inputs": given.inputs.float().contiguous().numpy(),
            "gradient": given.gradient.float().contiguous().numpy(),
            "type": np.int64(half),
        }
        for name in ("factor", "bias"):
            if (each := getattr(given, name)) is not None:
                arrays[name] = each.numpy()
        for i, each in enumerate(by_torch(given)):
            arrays[f"wanted{i}"] = each.numpy()
        np.savez(folder / f"{seed}.npz", **arrays)


class Library:
    """The functions of runtime/csrc/training/api.cpp."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def call(self, name: str, *arguments: Any) -> None:
        """Arrays are passed as pointers. Raises ValueError for what the kernels do not take."""
        function = self._library[name]
        function.restype = ctypes.c_char_p
        given = [
            ctypes.c_int64(each)
            if isinstance(each, int)
            else ctypes.c_void_p(None if each is None else each.ctypes.data)
            for each in arguments
        ]
        if (problem := function(*given)) is not None:
            raise ValueError(problem.decode())


def stored(values: Array, kind: int, beside: bool) -> Array:
    """Images as the kernels read them: floats or the upper halves of floats, one after another or side by side."""
    if beside:
        values = values.transpose(1, 2, 3, 0)
    values = np.ascontiguousarray(values, np.float32)
    if kind == 0:
        return values
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def read_back(values: Array, kind: int, beside: bool) -> Array:
    """The images as floats [n, c, h, w]."""
    if kind:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.transpose(3, 0, 1, 2) if beside else values


def by_kernels(library: Library, given: Any, beside: bool) -> list[Array]:
    """The result, and the gradients of inputs, values and factor."""
    sizes, kind = given["sizes"], int(given["type"])
    values, places = given["values"], given["places"]
    factor, bias = given.get("factor"), given.get("bias")
    handle = np.zeros(1, np.uint64)
    library.call("sparsify_fx_layer", sizes, places, int(places.size), handle)
    layer = handle.view(np.intp)
    pointer = ctypes.c_void_p(int(layer[0]))
    inputs = stored(given["inputs"], kind, beside)
    gradient = stored(given["gradient"], kind, beside)
    made, back = np.empty_like(gradient), np.empty_like(inputs)
    one = np.empty_like(values)
    other = None if factor is None else np.empty_like(values)
    at = _Address(pointer)
    library.call(
        "sparsify_fx_layer_forward", at, values, factor, kind, inputs, int(beside), bias, made, int(beside), 2
    )  # fmt: skip
    library.call(
        "sparsify_fx_layer_backward", at, values, factor, kind, inputs, int(beside), gradient, int(beside), back,
        int(beside), one, other, 2,
    )  # fmt: skip
    found = [read_back(each, kind, beside) for each in (made, back)]
    return [*found, one] if other is None else [*found, one, other]


class _Address:
    """A pointer that is passed as arrays are."""

    def __init__(self, pointer: ctypes.c_void_p) -> None:
        self.ctypes = type("data", (), {"data": pointer.value})


def check(library: Library, file: Path) -> int:
    """How many layouts of its images a layer was computed in. Raises AssertionError for wrong results."""
    given = dict(np.load(file))
    kind, images = int(given["type"]), np.zeros(1, np.int64)
    library.call("sparsify_fx_layer_images", given["sizes"], images)
    ways = [False, True] if images[0] == given["sizes"][0] else [False]
    for beside in ways:
        for number, found in enumerate(by_kernels(library, given, beside)):
            wanted = given[f"wanted{number}"]
            scale = max(1.0, float(np.abs(wanted).max(initial=0)))
            error = float(np.abs(found - wanted).max(initial=0)) / scale
            limit = TOLERANCES[kind if number < 2 else 0]
            assert error <= limit, (file.name, number, beside, error)
    return len(ways)


def check_norm(library: Library, seed: int) -> None:
    """Batch norm forward, and the gradients of its values, against double precision."""
    random = np.random.default_rng(seed)
    channels, count = (int(random.integers(1, limit)) for limit in (9, 3000))
    values = (random.standard_normal((channels, count)) * 3 + 5).astype(np.float32)
    weight, bias = random.standard_normal((2, channels)).astype(np.float32)
    gradients = random.standard_normal(values.shape).astype(np.float32)
    means, deviations, variances = np.empty((3, channels), np.float32)
    out, back = np.empty_like(values), np.empty_like(values)
    of_weight, of_bias = np.empty((2, channels), np.float32)
    epsilon = np.array([1e-5])
    library.call("sparsify_fx_norm_moments", 0, values, channels, count, epsilon, means, deviations,
                 variances, 2)  # fmt: skip
    library.call("sparsify_fx_norm_forward", 0, values, channels, count, means, deviations, weight, bias,
                 out, 2)  # fmt: skip
    library.call(
        "sparsify_fx_norm_backward", 0, gradients, values, channels, count, means, deviations, weight, 1, back,
        of_weight, of_bias, 2,
    )  # fmt: skip
    wide, of_out = values.astype(float), gradients.astype(float)
    scale = 1 / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    normed = (wide - wide.mean(1, keepdims=True)) * scale
    product = (of_out * normed).mean(1, keepdims=True)
    to_values = (
        scale
        * weight[:, None]
        * (of_out - of_out.mean(1, keepdims=True) - normed * product)
    )
    np.testing.assert_allclose(out, normed * weight[:, None] + bias[:, None], atol=2e-5)
    np.testing.assert_allclose(of_weight, (of_out * normed).sum(1), atol=2e-3)
    np.testing.assert_allclose(of_bias, of_out.sum(1), atol=2e-3)
    np.testing.assert_allclose(back, to_values, atol=2e-5)


def main(library: str, folder: str) -> None:
    functions, files = Library(library), sorted(Path(folder).glob("*.npz"))
    done = sum(check(functions, file) for file in files)
    for seed in range(20):
        check_norm(functions, seed)
    print(f"{len(files)} random layers in {done} layouts, and 20 batch norms agree")


if __name__ == "__main__":
    main(*sys.argv[1:])
