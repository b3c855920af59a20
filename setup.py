"""The one part of the build that pyproject.toml cannot say: the C++ library of sparsify_fx.runtime.

It is optional: without a C++ compiler setuptools warns and installs the rest. Everything else stands in pyproject.toml.
To build it inside a working copy: `python setup.py build_ext --inplace`.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("sparsify_fx/runtime/csrc")

# Loaded by its path into onnxruntime, never imported: it has no PyInit function and needs nothing of Python.
kernels = Extension(
    "sparsify_fx.runtime._kernels",
    sources=sorted(map(str, SOURCES.rglob("*.cpp"))),
    depends=sorted(map(str, [*SOURCES.rglob("*.h"), *SOURCES.rglob("*.inl")])),
    extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden"],
    # dlsym, which older C libraries keep apart.
    libraries=["dl"],
    language="c++",
    optional=True,
)


class Parallel(build_ext):
    """Compile on all cores: setuptools has one source after the other, which takes minutes here."""

    def build_extensions(self):
        one_by_one = self.compiler.compile

        def compile_all(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                made = pool.map(lambda each: one_by_one([each], **options), sources)
                return [path for paths in made for path in paths]

        self.compiler.compile = compile_all
        super().build_extensions()


setup(ext_modules=[kernels], cmdclass={"build_ext": Parallel})
