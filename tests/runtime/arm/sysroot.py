"""A small ARM system in a folder: Python from Debian's packages, onnxruntime from wheels, and our library, built here.

Needs Debian with `g++-aarch64-linux-gnu` and `qemu-user`, its archive and a package index; nothing is installed. qemu
runs the programs of such a folder on this processor's system calls.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
TOOLS = "aarch64-linux-gnu-g++", "qemu-aarch64", "apt-get", "dpkg"
PACKAGES = "python3", "libstdc++6"
WHEELS = "onnxruntime", "onnx", "numpy"
CPU = "cortex-a76"
FLAGS = "-march=", "-mtune=", "-msse", "-mavx", "-m64"

# What onnxruntime asks the system about its processor: qemu would show it this machine's, and it would crash.
CPUINFO = """processor\t: {number}
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""


@dataclass(frozen=True)
class Arm:
    """The folder of an ARM system, and the library of kernels for it."""

    folder: Path

    @property
    def system(self) -> Path:
        return self.folder / "system"

    @property
    def library(self) -> Path:
        (found,) = (self.folder / "built").rglob("_kernels*.so")
        return found

    @property
    def python(self) -> Path:
        return next(iter(sorted((self.system / "usr/bin").glob("python3.??"))))

    def run(self, *arguments: str, **variables: str) -> str:
        """A Python program there; what it prints. Raises CalledProcessError when it fails."""
        environment = {
            "PYTHONHOME": str(self.system / "usr"),
            "PYTHONPATH": f"{self.system / 'site'}{os.pathsep}{ROOT}",
            "OMP_NUM_THREADS": "1",
        }
        command = [
            "qemu-aarch64",
            "-cpu",
            CPU,
            "-L",
            str(self.system),
            str(self.python),
        ]
        return subprocess.run(
            [*command, *arguments],
            env=environment | variables,
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout


def arm_in(folder: Path) -> Arm:
    """The system in this folder, made where it is not there yet, and the library built anew.

    Raises RuntimeError for tools that are missing.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise RuntimeError(
            f"{', '.join(missing)}: not found; this check needs Debian, and `apt-get install g++-aarch64-linux-gnu "
            "qemu-user`"
        )
    arm = Arm(folder)
    if not (folder / "complete").exists():
        _unpack_packages(arm)
        _describe_processor(arm)
        _unpack_wheels(arm)
        (folder / "complete").touch()
    _build(arm)
    return arm


def _unpack_packages(arm: Arm) -> None:
    """Debian's packages for ARM into the folder, with lists of their own: this system's know of none of it."""
    state = arm.folder / "apt"
    for each in ("lists/partial", "cache/archives/partial"):
        (state / each).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Debug::NoLocking": "1",
    }
    given = [
        word for name, value in options.items() for word in ("-o", f"{name}={value}")
    ]
    for words in (
        ["update"],
        ["install", "-d", "-y", "--no-install-recommends", *PACKAGES],
    ):
        subprocess.run(["apt-get", "-qq", *words, *given], check=True)
    arm.system.mkdir(exist_ok=True)
    for file in sorted((state / "cache/archives").glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(file), str(arm.system)], check=True)


def _describe_processor(arm: Arm) -> None:
    (arm.system / "proc").mkdir(exist_ok=True)
    text = "".join(CPUINFO.format(number=number) for number in range(2))
    (arm.system / "proc/cpuinfo").write_text(text)


def _unpack_wheels(arm: Arm) -> None:
    version = arm.python.name.removeprefix("python").replace(".", "")
    platforms = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
    wanted = [word for each in platforms for word in ("--platform", f"{each}_aarch64")]
    where = arm.folder / "wheels"
    # fmt: off
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", *wanted, "--python-version", version,
         "--implementation", "cp", "--abi", f"cp{version}", "--abi", "abi3", "-d", str(where), *WHEELS],
        check=True,
    )
    # fmt: on
    for wheel in where.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(arm.system / "site")


def _build(arm: Arm) -> None:
    """The library by setup.py itself, with a cross compiler in the place of the compiler."""
    linker = "aarch64-linux-gnu-g++ -shared"
    compilers: Mapping[str, str] = {
        "CC": "aarch64-linux-gnu-gcc",
        "CXX": "aarch64-linux-gnu-g++",
        "LDSHARED": linker,
        "LDCXXSHARED": linker,
        "SETUPTOOLS_EXT_SUFFIX": ".so",
    }
    places = [
        "--build-lib",
        str(arm.folder / "built"),
        "--build-temp",
        str(arm.folder / "objects"),
    ]
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", *places],
        cwd=ROOT,
        env={**os.environ, **compilers},
        check=True,
        capture_output=True,
        text=True,
    )
    # A library is optional in setup.py: without one it goes on.
    if not list((arm.folder / "built").rglob("_kernels*.so")):
        raise RuntimeError(f"the library was not built:\n{done.stderr[-3000:]}")
    used = [flag for flag in FLAGS if flag in done.stdout]
    assert not used, f"setup.py gives the compiler flags of x86: {used}"
