"""Loading into an owner: a dense weight is split into the factors of its program; another method's state is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.programs.progress import UNKNOWN
from sparsify_fx.programs.state import EXTRA, encode


def split_into(
    state_dict: dict[str, Any], child: str, program: WeightProgram, weight: Tensor
) -> str | None:
    """Replace a dense weight by the entries of its program; or what is wrong."""
    mask = program.current_mask()
    if mask is not None:
        if (
            mask.is_meta
            and weight.device != mask.device
            and child + "mask" not in state_dict
        ):
            return (
                "the model is on the meta device, so nobody knows its mask; load the state dict of a rewritten model, "
                "or load the dense one into the plain model and call sparsify_fx.apply afterwards"
            )
        # A state with a mask beside the weight brings its own.
        state_dict.setdefault(child + "mask", mask)
        if weight.shape == mask.shape:
            weight = weight * state_dict[child + "mask"].to(weight.device)
    # The state of the program decides how the weight is split: at another temperature a gate has another value.
    how, state = program.parameterization, program.state_tensors()
    parts = {**how.split(weight, {**how.shared(weight), **state}), **how.shared(weight)}
    parts |= {name: value for name, value in state.items() if name not in how.transient}
    state_dict.update({child + name: part for name, part in parts.items()})
    # Dense weights do not tell of which step they are, once there are steps.
    progress = program.progress
    state_dict[child + EXTRA] = encode(
        how, replace(progress, step=UNKNOWN) if progress.steps else progress
    )
    return None


def foreign(
    state_dict: dict[str, Any], child: str, program: WeightProgram
) -> str | None:
    """What is wrong with a state that another method has saved; strict=False must not load a part of it."""
    # Extra state is compared elsewhere, by `misfit`.
    found = {key.removeprefix(child) for key in state_dict if key.startswith(child)} - {
        EXTRA
    }
    own = (set(program.state_dict()) | set(program.parameterization.transient)) - {
        EXTRA
    }
    # Missing keys are torch's to report, and strict=False may allow them; foreign ones never fit.
    if found <= own:
        return None
    return (
        f"the state holds {', '.join(sorted(found))}, the program of this model {', '.join(sorted(own))}: they are of "
        "different methods; apply the same one, or save sparsify_fx.dense_state_dict(model) and load that"
    )
