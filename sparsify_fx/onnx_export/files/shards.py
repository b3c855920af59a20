"""Checkpoints in several files: a JSON index with its shards, and the folders that models come in."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsify_fx.errors import CheckpointError

_USUAL = (
    "model.safetensors",
    "checkpoint.pt",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
)
_ENDINGS = (".safetensors", ".onnx", ".pt", ".pth", ".ckpt", ".bin")
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<end>\.[a-z]+)")

_FOLDERS: Sequence[tuple[str, str, str]] = (
    ("saved_model.pb", "a TensorFlow SavedModel", "convert it to ONNX with tf2onnx"),
    (
        "Manifest.json",
        "a Core ML package",
        "give the model it was made of: its state_dict, or an ONNX file",
    ),
    (
        ".metadata",
        "a checkpoint of torch.distributed.checkpoint",
        "convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pt",
    ),
    (
        "_CHECKPOINT_METADATA",
        "a checkpoint of Orbax",
        "load it with Orbax and save its arrays with safetensors",
    ),
    (
        "zero_to_fp32.py",
        "a checkpoint of DeepSpeed",
        "convert it: python zero_to_fp32.py FOLDER OUTPUT",
    ),
)
"""By a file in a folder: what it is, and what to do."""


def files_of_folder(folder: Path) -> list[Path]:
    """The one file or index of a folder, or all shards without an index.

    Raises CheckpointError when there is none, or a choice, or another kind of folder.
    """
    try:
        held = sorted(path for path in folder.iterdir() if path.is_file())
        below = sorted(
            path
            for path in folder.glob("*/*")
            if path.suffix in _ENDINGS and path.is_file()
        )
    except OSError as error:
        raise CheckpointError(
            f"cannot read {folder}: {error.strerror or error}; check its permissions"
        ) from error

    # 1. Folders of other formats, by a file that only they have: these hold files that
    # look like weights too.
    names = {path.name for path in held}
    for name, what, remedy in _FOLDERS:
        if name in names:
            raise CheckpointError(f"{folder} is {what}, which is not read; {remedy}")

    # 2. The name under which a hub or a trainer writes its weights, before any other:
    # beside it there may be optimizers' states.
    usual = [folder / name for name in _USUAL if name in names]
    indices = [path for path in held if path.name.endswith(".index.json")]
    weights = [path for path in held if path.suffix in _ENDINGS]
    for found in (usual[:1], indices):
        if len(found) == 1:
            return found

    # 3. Shards that belong together, or a single file; of several others the user has to
    # choose.
    shards = _shards(weights)
    if shards or len(weights) == 1:
        return shards or weights
    several = [path.relative_to(folder) for path in (indices or weights or below)]
    if several:
        raise CheckpointError(
            f"{folder} is a folder with several files of weights; give one: {', '.join(map(str, several[:8]))}"
            f"{', ...' if len(several) > 8 else ''}"
        )
    raise CheckpointError(
        f"cannot inspect {folder}: it is a folder without weights; give an .onnx, .safetensors, .pt or .pth file, or a "
        "folder that holds one"
    )


def _shards(files: Sequence[Path]) -> list[Path]:
    """The files of one checkpoint, `NAME-00001-of-00003.END`; CheckpointError when some are missing."""
    matches = [
        (match, path) for path in files if (match := _SHARD.fullmatch(path.name))
    ]
    if (
        not matches
        or len({(match["stem"], match["count"], match["end"]) for match, _ in matches})
        != 1
    ):
        return []
    count = int(matches[0][0]["count"])
    if len(matches) != count:
        raise CheckpointError(
            f"{files[0].parent} holds {len(matches)} of {count} shards; download the others"
        )
    return [path for _, path in matches]


def shards_of_index(index: Path) -> list[Path]:
    """The files that an index names, in its order; CheckpointError for one that is missing or lies elsewhere."""
    try:
        named: Any = json.loads(index.read_bytes())["weight_map"].values()
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            f"{index} is no index of shards ({error}); download it again"
        ) from error
    shards = (
        # Each shard once, in the order in which its weights are named.
        list(dict.fromkeys(named))
        if all(isinstance(name, str) for name in named)
        else [""]
    )
    # An index is downloaded, and must not lead out of its own folder.
    outside = [
        name for name in shards if not name or Path(name).name != name or "\\" in name
    ]
    if outside or not shards:
        raise CheckpointError(
            f"{index} names no shards beside it, but {outside[:1] or 'nothing'}; download it again"
        )
    missing = [name for name in shards if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index} names {len(shards)} shards, of which {len(missing)} are not beside it ({missing[0]}, ...); "
            "download them too, or give one shard"
        )
    return [index.parent / name for name in shards]
