"""Random layers and hostile models under sanitizers.

    python -m tests.runtime.sanitize [LAYERS [MODELS]]      # 1000 layers and 3000 models if left out
    python -m tests.runtime.sanitize 1000 0                 # layers alone

Builds the kernels with -fsanitize=address,undefined and runs `cases.py`, `fuzz_kernels.py` and, for the kernels of
training, `tests.living.random_products` on them in a process that loads the sanitizer first, once per instruction
set that this processor runs; then with -fsanitize=undefined alone, which leaves all sizes as they are, in a process
of 3 GB. Exits with an error at the first report. Needs GCC with its sanitizers.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sparsify_fx import runtime

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "sparsify_fx/runtime/csrc"
# AddressSanitizer ends the process where memory runs out, so that results of more than 64 MB are refused before.
FEWER = "-DSPARSIFY_FX_MOST_FLOATS=(int64_t{1} << 24)"
ISAS = {
    "x86_64": ("portable", "avx2", "avx512"),
    "aarch64": ("portable", "neon"),
}
BUILDS = {
    "plain": ("-fsanitize=address,undefined",),
    "small": ("-fsanitize=address,undefined", FEWER),
    "large": ("-fsanitize=undefined",),
}
"""The libraries by the flags that they are built with."""
SECONDS = "300"  # of one model: kernels of that build are some fifty times slower


def build(path: Path, *flags: str) -> None:
    """The library at `path`, with extra flags for the compiler."""
    files = sorted(map(str, SOURCES.rglob("*.cpp")))
    common = (
        "-std=c++17",
        "-g",
        "-O1",
        "-fPIC",
        "-shared",
        "-fno-omit-frame-pointer",
        "-fno-sanitize-recover=all",
    )
    subprocess.run(["g++", *common, *flags, *files, "-o", str(path)], check=True)


def libraries(*names: str) -> str:
    """Where GCC has the run-time libraries of its sanitizers, for LD_PRELOAD."""
    found = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in names
    ]
    return " ".join(found)


def run(program: str, isa: str, preload: str, *arguments: str) -> None:
    """One of our modules under a sanitizer. Raises CalledProcessError when that complained."""
    # Python itself leaks on purpose, so leaks are not looked for.
    settings = {
        "ASAN_OPTIONS": "detect_leaks=0:max_allocation_size_mb=2048",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    environment = {
        **os.environ,
        **settings,
        "SPARSIFY_FX_ISA": isa,
        "LD_PRELOAD": preload,
    }
    subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=ROOT,
        env=environment,
        check=True,
    )


def run_here() -> tuple[str, ...]:
    """The instruction sets of this processor; says which are left out."""
    known = ISAS.get(platform.machine(), ("portable",))
    count = known.index(runtime.instruction_set()) + 1
    for isa in known[count:]:
        print(f"{isa}: this processor does not run it", flush=True)
    return known[:count]


def check(isa: str, seed: int, files: dict[str, str], layers: str, models: str) -> None:
    """Everything on one instruction set. Raises CalledProcessError when a sanitizer complained."""
    both, one = libraries("libasan.so", "libubsan.so"), libraries("libubsan.so")
    run("tests.runtime.cases", isa, both, files["plain"], layers, "7")
    run("tests.living.random_products", isa, both, layers, "7", files["plain"])
    if models == "0":
        return
    fuzz, limit = "tests.runtime.fuzz_kernels", ("--seconds", SECONDS)
    run(fuzz, isa, both, files["small"], models, str(seed), *limit)
    run(fuzz, isa, one, files["large"], models, str(seed + 3), *limit, "--memory", "3")


def main() -> int:
    """Runs every instruction set; 0 when no sanitizer complained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("layers", type=int, nargs="?", default=1000)
    parser.add_argument("models", type=int, nargs="?", default=3000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {name: f"{folder}/{name}.so" for name in BUILDS}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = [pool.submit(build, Path(files[name]), *BUILDS[name]) for name in BUILDS]  # fmt: skip
        for each in made:
            each.result()
        try:
            for seed, isa in enumerate(run_here()):
                check(isa, seed, files, str(options.layers), str(options.models))
                print(f"{isa}: no report", flush=True)
        except subprocess.CalledProcessError as error:
            return error.returncode or 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
