"""The folder of a distributed checkpoint: replaced whole, and read without running what is pickled in it.

torch's own writer overwrites the files of the checkpoint before in place: a kill in the middle leaves neither.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import (
    FileSystem,
    FileSystemReader,
    FileSystemWriter,
)
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan

from sparsify_fx.errors import CheckpointError

_METADATA, _DATA = ".metadata", "*.distcp"
# What the description of a checkpoint is made of. Any other name in it could be a function to call.
_HARMLESS = {
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.metadata", "BytesStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
    ("torch.distributed.checkpoint.metadata", "StorageMeta"),
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
}


class Reader(FileSystemReader):
    """Reads a checkpoint of this package; CheckpointError for a folder without one, or with a damaged one."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The tensors of the checkpoint, and where they lie."""
        file = Path(self.path) / _METADATA
        try:
            with file.open("rb") as stream:
                found = _Unpickler(stream).load()
        except OSError as error:
            raise CheckpointError(
                f"{self.path} holds no checkpoint ({error}); expected a folder that save_checkpoint wrote, or a "
                "file of torch.save"
            ) from error
        # What damaged pickles raise is anything.
        except Exception as error:
            raise CheckpointError(
                f"{file} is damaged, or no file of torch.distributed.checkpoint ({error}); take another checkpoint"
            ) from error
        found.storage_meta.load_id = self.load_id
        return found  # type: ignore[no-any-return]


class Writer(FileSystemWriter):
    """Writes beside the files of the checkpoint that is there, then replaces its description, then removes them."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.fs = _Replacing()

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Make the folder; torch's own would warn of a checkpoint in it."""
        self.fs.mkdir(self.path)
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Names of files that no other save has; one process gives them to all."""
        own = self.save_id.replace("-", "")[:12]
        named: list[SavePlan] = []
        for plan in super().prepare_global_plan(plans):
            where = dataclasses.replace(
                plan.storage_data, prefix=f"{own}{plan.storage_data.prefix}"
            )
            named.append(dataclasses.replace(plan, storage_data=where))
        return named

    def finish(self, metadata: Metadata, results: Any) -> None:
        """Called by one process when all have written: from here on this is the checkpoint."""
        # A name that is lost in a power failure would be missed by the description.
        _sync(self.path)
        super().finish(metadata, results)
        _sync(self.path)
        kept = {info.relative_path for info in (metadata.storage_data or {}).values()}
        for file in Path(self.path).glob(_DATA):
            if file.name not in kept:
                file.unlink(missing_ok=True)


class _Replacing(FileSystem):
    """Keeps what is to be removed, so that the rename that follows replaces it at once."""

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        """Nothing is removed."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Of torch itself the types of numbers alone, such as torch.float32.
        is_dtype = module == "torch" and isinstance(
            getattr(torch, name, None), torch.dtype
        )
        if is_dtype or (module, name) in _HARMLESS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


@contextlib.contextmanager
def in_words(path: str | Path, doing: str) -> Iterator[None]:
    """A CheckpointError in place of torch's, which is no Exception and prints the stacks of all processes."""
    try:
        yield
    except CheckpointException as error:
        rank, (first, _) = next(iter(error.failures.items()))
        if isinstance(first, CheckpointError):
            raise first from error
        raise CheckpointError(
            f"{path}: {doing} failed on rank {rank} ({first}); what was there before is still there"
        ) from error


def tensor_sizes(path: str | Path) -> dict[str, torch.Size]:
    """The sizes of all tensors of the checkpoint in a folder."""
    found = Reader(path).read_metadata().state_dict_metadata
    return {k: v.size for k, v in found.items() if isinstance(v, TensorStorageMetadata)}


def _sync(folder: str | os.PathLike[str]) -> None:
    # Windows cannot open folders, and needs no such call.
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
