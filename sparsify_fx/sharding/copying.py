"""What of a model torch refuses to copy: values in attributes that a forward or a trace left there."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree


def without_history(model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """(tensor, its values) for what a training step left in attributes, which torch refuses to copy; RAFT does that.

    What a trace of others left there has no values, and stands for itself.
    """
    for module in model.modules():
        # In attributes and containers of them; parameters are leaves of autograd and have no history.
        for value in _pytree.tree_leaves(dict(vars(module))):
            if isinstance(value, FakeTensor):
                yield value, value
            elif isinstance(value, Tensor) and value.grad_fn is not None:
                yield value, value.detach().clone()
