"""Where a result comes from: model, data, seed, versions, and the git commit of the working directory."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import torch

from sparsify_fx.train.config import TrainConfig

_PACKAGES = ("sparsify_fx", "torchvision", "timm", "numpy")
# Seconds that git may take: a working directory on a slow disk must not hold up a training.
_PATIENCE = 10


@dataclass(frozen=True)
class Provenance:
    """Facts of a training that its numbers alone do not tell.

    `data_digest` is that of data.json, "" where none is taken; `versions` by package, and "python"; `commit` is that of
    the directory in which the last session ran, with "-dirty" where files differ from it, None outside of git.
    """

    model: str = ""
    data: str = ""
    data_digest: str = ""
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None


def provenance(config: TrainConfig, digest: str | None) -> Provenance:
    """The facts of a training with `config` on data of this digest, here and now."""
    return Provenance(
        model=config.model,
        data=config.data,
        data_digest=digest or "",
        seed=config.seed,
        versions=versions(),
        commit=git_commit(),
    )


def versions() -> dict[str, str]:
    """The installed versions of what decides a result, by package."""
    # Of torch with its build, such as 2.14.1+cu130, which its metadata lacks.
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in _PACKAGES:
        # A checkout on PYTHONPATH has no metadata: what is not known is left out.
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit(folder: str | os.PathLike[str] = ".") -> str | None:
    """The commit of a folder, 40 hex digits, with "-dirty" for changed files; None without git or a commit."""
    # --exclude: a tag of the same commit would stand in its place otherwise.
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
