"""Trained weights that a run starts from, put into the model before it is rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.checkpoints.run_files import State, mask_key, read_state
from sparsify_fx.errors import CheckpointError
from sparsify_fx.finetuning.folding import folded_state_dict

# Under which names training scripts keep the weights beside everything else.
_INNER = ("state_dict", "model")


def read_pretrained(path: str) -> State:
    """Plain weights from a run folder, a .safetensors file, or a file of torch.save, read without running pickled code.

    Pairs of `weight_orig` and `weight_mask` are folded. Raises CheckpointError for what cannot be read.
    """
    place = Path(path)
    if place.is_dir() or place.suffix == ".safetensors":
        state = read_state(place)
        masks = {mask_key(name) for name in state}
        return {name: value for name, value in state.items() if name not in masks}
    try:
        found: Any = torch.load(place, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file fails anywhere in torch's reader
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise CheckpointError(
            f"pretrained={path}: cannot be read ({reason}); give a run folder, a .safetensors file or a state dict "
            "saved by torch.save"
        ) from error
    for name in _INNER:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(
        isinstance(value, Tensor) for value in found.values()
    ):
        raise CheckpointError(
            f"pretrained={path}: holds {type(found).__name__} and no state dict; save model.state_dict()"
        )
    state = dict(found)
    return (
        folded_state_dict(state) if any(k.endswith("_orig") for k in state) else state
    )


def load_pretrained(model: nn.Module, path: str) -> None:
    """Load trained weights into a plain model; CheckpointError, in words, when they are of another one."""
    state = read_pretrained(path)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise CheckpointError(
            f"pretrained={path}: does not fit this model ({' '.join(lines)}); give the weights of the same model, for "
            "as many classes"
        ) from error
