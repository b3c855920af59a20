"""How a weight program saves and loads what it has beside tensors, and refuses the state of another method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from sparsify_fx.errors import LayerError
from sparsify_fx.living.stored import Stored
from sparsify_fx.programs.progress import UNKNOWN, Progress
from sparsify_fx.programs.state import EXTRA, decode, encode, restored
from sparsify_fx.sharding import shard


class SavedState(Stored):
    """The state-dict side of a `WeightProgram`: its extra state, and what is checked before anything is loaded."""

    progress: Progress

    def get_extra_state(self) -> Tensor:
        """The parameterization and the progress as a uint8 tensor, a part of the state dict."""
        return encode(self.parameterization, self.progress)

    def set_extra_state(self, state: Any) -> None:
        """Take both from a state dict; the progress is written into the object that the programs share.

        Raises LayerError when the state is damaged or that of another method.
        """
        try:
            content = decode(state)
            new = (
                restored(self.parameterization, content["parameterization"])
                if content
                else self.parameterization
            )
        except ValueError as error:
            raise LayerError(
                f"the state of a weight program cannot be loaded: {error}"
            ) from error
        self.parameterization = new
        # Into the shared object: a Scheduler reads the progress of the part, whichever program was loaded last.
        for name in ("step", "steps", "schedule") if content else ():
            setattr(self.progress, name, content[name])

    def _save_to_state_dict(
        self, destination: Any, prefix: str, keep_vars: bool
    ) -> None:
        """As any module, without the room behind vectors, unless the parameters themselves are asked for."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        places = self.places()
        if places is None or keep_vars:
            return
        for name in self.per_entry():
            tensor = destination.get(prefix + name)
            if tensor is not None and len(tensor) > len(places):
                destination[prefix + name] = tensor[: len(places)]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        """As any module, but a state of another method changes nothing, and one from before 0.2 has no extra state."""
        errors: list[str] = rest[-1]
        mask = state_dict.get(prefix + "mask")
        problem = self.misfit(state_dict.get(prefix + EXTRA))
        if problem is None and isinstance(mask, Tensor) and not mask.is_meta:
            problem = self.too_short(mask)
        # Nothing of the program is loaded then; half of a foreign state would train to nonsense.
        if problem is not None:
            errors.append(
                f"{prefix.removesuffix('_program.') or 'the weight program'}: {problem}"
            )
            return
        if prefix + EXTRA not in state_dict:
            # A state from before 0.2: its factors are of some step, which it does not tell.
            before = (
                replace(self.progress, step=UNKNOWN)
                if self._is_in(state_dict, prefix)
                else self.progress
            )
            state_dict[prefix + EXTRA] = encode(self.parameterization, before)
        assign = rest[0].get("assign_to_params_buffers", False) if rest[0] else False
        self.fit(state_dict, prefix, assign)
        # A dense state that was split on its way in is whole, and parameters may be sharded.
        for name, parameter in self._parameters.items():
            given = state_dict.get(prefix + name)
            if (
                parameter is not None
                and given is not None
                and given.shape == parameter.shape
            ):
                state_dict[prefix + name] = shard(given, parameter)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _is_in(self, state_dict: Mapping[str, Any], prefix: str) -> bool:
        return any(
            prefix + factor in state_dict for factor in self.parameterization.factors
        )

    def misfit(self, state: Any) -> str | None:
        """Why an extra state cannot be loaded into this program; None when it can, or when there is none."""
        try:
            content = {} if state is None else decode(state)
        except ValueError as error:
            return f"the state of its weight program is damaged ({error}); load another checkpoint"
        try:
            if content:
                restored(self.parameterization, content["parameterization"])
        except ValueError as error:
            return (
                f"{error}; apply the same one with the same options, or save sparsify_fx.dense_state_dict(model) and "
                "load that"
            )
        return None
