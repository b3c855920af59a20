"""The one part of the build that pyproject.toml cannot say: the C++ library of sparsify_fx.runtime.

It is optional: without a C++ compiler setuptools warns and installs the rest. Everything else stands in pyproject.toml.
To build it inside a working copy: `python setup.py build_ext --inplace`.
"""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("sparsify_fx/runtime/csrc")

# Loaded by its path into onnxruntime, never imported: it has no PyInit function and needs nothing of Python.
kernels = Extension(
    "sparsify_fx.runtime._kernels",
    sources=sorted(map(str, SOURCES.rglob("*.cpp"))),
    depends=sorted(map(str, [*SOURCES.rglob("*.h"), *SOURCES.rglob("*.inl")])),
    extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden"],
    language="c++",
    optional=True,
)

setup(ext_modules=[kernels])
