"""Weight programs: a `torch.fx.GraphModule` without inputs that returns the effective weight of one tensor."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from sparsify_fx.errors import LayerError
from sparsify_fx.living.copies import note_copy
from sparsify_fx.living.followers import note
from sparsify_fx.living.stored import LIVING
from sparsify_fx.parameterizations import Dense, Parameterization
from sparsify_fx.programs.progress import Progress
from sparsify_fx.programs.state import FOR_PLAIN_MODELS, is_extra, unmarked
from sparsify_fx.programs.values import Values

__all__ = [
    "FOR_PLAIN_MODELS",
    "Facts",
    "WeightProgram",
    "dense_program",
    "is_extra",
    "output_value",
    "unmarked",
]


@dataclass(frozen=True)
class Facts:
    """Everything of a program beside graph and tensors; a copy or a pickle carries it along."""

    parameterization: Parameterization
    plan: Any = None
    passes: tuple[str, ...] = ()
    progress: Progress = field(default_factory=Progress)


class WeightProgram(Values, fx.GraphModule):
    """The graph that computes one effective weight from its trainable factors and its mask.

    Passes rewrite it: `return dense` -> `return dense * mask` -> `return m * w * mask`. The factors and the shared
    tensors of its parameterization are its parameters; the mask (uint8, shape of the weight, 1 keeps) and the
    parameterization's state are its buffers.

    Attributes:
        parameterization: how the factors make the weight.
        plan: what `sparsify_fx.apply` decided for the whole model (None after bare passes).
        passes: names of the passes that changed this program, oldest first.
        progress: how far the training has come; the programs of one `apply` share it.

    >>> program = dense_program(nn.Parameter(torch.ones(2)))
    >>> print(program.code.strip().splitlines()[-1].strip())
    return dense
    """

    plan: Any
    passes: tuple[str, ...]

    def __init__(self, root: nn.Module, graph: fx.Graph, facts: Facts) -> None:
        super().__init__(root, graph, class_name="WeightProgram")
        self.parameterization, self.plan = facts.parameterization, facts.plan
        self.passes, self.progress = facts.passes, facts.progress
        # Said again: a copy rebuilds the buffers from a root that does not tell which of them no checkpoint holds.
        transient = {LIVING, *self.parameterization.transient}
        self._non_persistent_buffers_set |= transient & set(self._buffers)
        note(self)

    @property
    def facts(self) -> Facts:
        """Everything beside graph and tensors, as it is now."""
        return Facts(self.parameterization, self.plan, self.passes, self.progress)

    def register_buffer(
        self, name: str, tensor: Tensor | None, persistent: bool = True
    ) -> None:
        """Add a buffer; the mask comes first, so that a program and its copies have their buffers in the same order."""
        super().register_buffer(name, tensor, persistent)
        if name == "mask":
            for other in [key for key in self._buffers if key != "mask"]:
                self._buffers[other] = self._buffers.pop(other)

    def train(self, mode: bool = True) -> Self:
        """Training mode, in which a `noisy` state is 1, or evaluation.

        Raises LayerError when the mask was averaged, as `AveragedModel(use_buffers=True)` does to integer buffers.
        """
        super().train(mode)
        # Looked at only where it has values: compilers and meta devices have none to look at.
        mask = self._buffers.get("mask")
        if (
            type(mask) is Tensor
            and not mask.is_meta
            and mask.numel()
            and mask.max() > 1
        ):
            raise LayerError(
                f"the mask of a weight of shape {tuple(mask.shape)} holds values other than 0 and 1, as if it were "
                "averaged; use AveragedModel(model, use_buffers=False), which copies masks, and update_bn for norms"
            )
        if "noisy" in self._buffers:
            self.get_buffer("noisy").fill_(float(mode))
        return self

    def _replicate_for_data_parallel(self) -> WeightProgram:
        """A replica as of any module: that of `torch.fx` has parameters, where DataParallel would put plain tensors."""
        replica = object.__new__(type(self))
        buffers, modules = self._buffers.copy(), self._modules.copy()
        replica.__dict__ = self.__dict__ | {
            "_parameters": {},
            "_buffers": buffers,
            "_modules": modules,
        }
        replica.__dict__["_is_replica"] = True
        return replica

    def __reduce__(self) -> Any:
        # torch.fx pickles the graph as code, for a plain GraphModule; class and facts go beside it.
        rebuild, arguments = super().__reduce__()[:2]
        return _restore, (rebuild, arguments, self.facts, self.training)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightProgram:
        root = nn.Module()
        for name, parameter in self._parameters.items():
            root.register_parameter(name, copy.deepcopy(parameter, memo))
        for name, buffer in self._buffers.items():
            root.register_buffer(name, copy.deepcopy(buffer, memo))
        graph = fx.Graph()
        graph.output(graph.graph_copy(self.graph, {}))
        # The plan is shared, since it is frozen; the progress of a copy is its own, by the memo one for all programs.
        facts = replace(self.facts, progress=copy.deepcopy(self.progress, memo))
        copied = WeightProgram(root, graph, facts).train(self.training)
        memo[id(self)] = copied
        note_copy(self, copied)
        # A copy may become an average, which goes by parameters: their entries will change places where masks do.
        if getattr(self.plan, "changes", False):
            # Late: passes are built on programs.
            from sparsify_fx.passes.store import StoreFull

            StoreFull()(copied)
        return copied


# torch.distributed.checkpoint looks up every key of a state dict as an attribute.
setattr(
    WeightProgram, FOR_PLAIN_MODELS, torch.zeros(1, dtype=torch.uint8, device="cpu")
)


def _restore(
    rebuild: Callable[..., fx.GraphModule], arguments: Any, facts: Any, training: bool
) -> WeightProgram:
    """Rebuild an unpickled program; `torch.fx` restores the graph, but not the class and its facts."""
    plain = rebuild(*arguments)
    known = facts if isinstance(facts, Facts) else Facts(*facts)  # a tuple before 0.2
    return WeightProgram(plain, plain.graph, known).train(training)


def dense_program(weight: nn.Parameter) -> WeightProgram:
    """The program `return dense` around `weight` itself, not a copy: an optimizer that holds it goes on training it."""
    root = nn.Module()
    root.register_parameter("dense", weight)
    graph = fx.Graph()
    graph.output(graph.get_attr("dense"))
    return WeightProgram(root, graph, Facts(Dense()))


def output_value(program: WeightProgram) -> fx.Node:
    """The node whose value the program returns."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    value = output.args[0]
    assert isinstance(value, fx.Node)
    return value
