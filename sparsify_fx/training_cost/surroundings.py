"""Where figures were measured: commit, processor, versions."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def surroundings(device: str = "cpu") -> dict[str, Any]:
    """Commit of the working copy (None for an installed package), model of the processor and versions, for JSON.

    >>> sorted(surroundings())
    ['commit', 'device', 'instructions', 'processor', 'threads', 'versions']
    """
    on_gpu = torch.device(device).type == "cuda"
    names = ("sparsify_fx", "torch", "torchvision", "timm")
    return {
        "commit": _commit(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in names},
        },
    }


def _commit() -> str | None:
    root = Path(__file__).parents[2]
    # An installed package may lie below somebody else's repository.
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    """The name that the system has for it; its architecture where it has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
