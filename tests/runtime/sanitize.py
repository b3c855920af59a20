"""The random layers under AddressSanitizer and UndefinedBehaviorSanitizer: `python tests/runtime/sanitize.py [COUNT]`.

Builds the kernels with -fsanitize=address,undefined and runs `cases.py` on them in a process that loads the sanitizer
first, once per instruction set. Exits with an error at the first report. Needs GCC with its sanitizers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "sparsify_fx/runtime/csrc"


def build(path: Path, *flags: str) -> None:
    """The library at `path`, with extra flags for the compiler."""
    files = sorted(map(str, SOURCES.glob("*.cpp")))
    subprocess.run(["g++", "-std=c++17", "-g", "-fPIC", "-shared", *flags, *files, "-o", str(path)], check=True)


def main(count: int) -> int:
    """Runs every instruction set; 0 when no sanitizer complained."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.so"
        build(path, "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
        libraries = [
            subprocess.run(
                ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
            ).stdout.strip()
            for name in ("libasan.so", "libubsan.so")
        ]
        for isa in ("portable", "avx2", "avx512"):
            # Python itself leaks on purpose, so leaks are not looked for.
            settings = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1", "SPARSIFY_FX_ISA": isa}
            environment = {**os.environ, **settings, "LD_PRELOAD": " ".join(libraries)}
            command = [sys.executable, str(ROOT / "tests/runtime/cases.py"), str(path), str(count), "7"]
            done = subprocess.run(command, env=environment, check=False)
            if done.returncode:
                return done.returncode
            print(f"{isa}: no report", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
