"""RewindBatchNorm: batch norm back to a recorded state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn.modules.batchnorm import _BatchNorm

from sparsify_fx.errors import PassError
from sparsify_fx.passes.module_pass import ModulePass
from sparsify_fx.sharding import part


def batchnorm_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of scale, shift and running statistics of every batch norm, by their name in the state dict.

    Batch norms are found by type (every subclass of torch's), never by name.
    """
    return {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}


class RewindBatchNorm(ModulePass):
    """Write a recorded batch-norm state back, in place.

    Learning rate rewinding can drive scales γ to zero when the mask is decoupled from the weights; rewinding them after
    each pruning avoids it.

    Args:
        state: what `batchnorm_state(model)` gave at the rewind point.

    Raises PassError when the state does not fit the model's batch norms.

    >>> model = nn.Sequential(nn.BatchNorm1d(2))
    >>> state = batchnorm_state(model)
    >>> _ = nn.init.constant_(model[0].weight, 0.0)
    >>> RewindBatchNorm(state)(model).modified, RewindBatchNorm(state)(model).modified
    (True, False)

    Source: [Gadhikar 2024], section 3, "LRR modifications".
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def requires(self, graph_module: nn.Module) -> None:
        """The state must name exactly the tensors of the model's batch norms, with their shapes."""
        found = _tensors(graph_module)
        if not found:
            raise PassError(
                f"RewindBatchNorm: {type(graph_module).__name__} has no batch norm; do not rewind it"
            )
        # Names first: shapes can be compared only where both have one.
        odd = sorted(set(found) ^ set(self.state)) or [
            n for n in found if found[n].shape != self.state[n].shape
        ]
        if odd:
            raise PassError(
                f"RewindBatchNorm: expected the state of this model's batch norms; differing: {odd}"
            )

    @torch.no_grad()
    def call(self, graph_module: nn.Module) -> PassResult:
        """Copy the state in."""
        modified = False
        for name, tensor in _tensors(graph_module).items():
            own, old = part(tensor, tensor), part(self.state[name], tensor)
            # Written only where it differs, so that `modified` is the truth.
            if not torch.equal(own, old.to(own.device)):
                own.copy_(old)
                modified = True
        return PassResult(graph_module, modified)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        own = (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        )
        for name, tensor in own:
            found[f"{prefix}.{name}" if prefix else name] = tensor
    return found
