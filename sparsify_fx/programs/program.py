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
from sparsify_fx.living.stored import LIVING, relocate
from sparsify_fx.parameterizations import Dense, Moment, Parameterization
from sparsify_fx.programs.progress import Progress
from sparsify_fx.programs.saving import SavedState
from sparsify_fx.programs.state import FOR_PLAIN_MODELS, is_extra, unmarked

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


class WeightProgram(SavedState, fx.GraphModule):
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

    def current_mask(self) -> Tensor | None:
        """The mask (uint8, shape of the weight, 1 keeps), or None before `InsertMask`."""
        return self._buffers.get("mask")

    def factor_tensors(self) -> dict[str, nn.Parameter]:
        """The trainable factors by name, in the order of the parameterization; as they are stored, see `Stored`."""
        return {
            name: self.get_parameter(name) for name in self.parameterization.factors
        }

    def shared_tensors(self) -> dict[str, nn.Parameter]:
        """The other trainable tensors by name, such as thresholds."""
        return {
            name: self.get_parameter(name)
            for name in self._parameters
            if name not in self.parameterization.factors
        }

    def state_tensors(self) -> dict[str, Tensor]:
        """The parameterization's state by name, such as a temperature."""
        return {
            name: self.get_buffer(name)
            for name in self._buffers
            if name not in ("mask", LIVING)
        }

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the weight before the mask is made of, detached, in full shape, without noise."""
        state = self.state_tensors()
        # The weight of an evaluation: noise would make scores and exports another draw each time.
        if "noisy" in state:
            state["noisy"] = torch.zeros_like(state["noisy"])
        trained = {**self.factor_tensors(), **self.shared_tensors()}
        return self.in_full(
            {**{name: tensor.detach() for name, tensor in trained.items()}, **state}
        )

    def theta(self) -> Tensor:
        """The weight before the mask, detached."""
        return self._value(self.tensors())

    def effective(self) -> Tensor:
        """The weight that the layer sees in evaluation, detached, with exact +0.0 where the mask is 0."""
        return self._masked(self.theta())

    def settled(self) -> Tensor:
        """The effective weight that `settle` would leave."""
        tensors = self.tensors()
        return self._masked(
            self._value({**tensors, **self.parameterization.settle(tensors)})
        )

    @torch.no_grad()
    def settle(self) -> tuple[str, ...]:
        """Open or close the gates of the parameterization for good, in place; the names of the tensors written."""
        new = self.parameterization.settle(self.tensors())
        for name, value in new.items():
            self.put(name, value)
        return tuple(new)

    @torch.no_grad()
    def put(self, name: str, value: Tensor, where: Tensor | None = None) -> None:
        """Set a factor, given in the weight's shape, or a shared tensor in place; only at `where` (bool), if given."""
        tensor = self.get_parameter(name)
        if name in self.parameterization.factors:
            value = self.stored(value)
            where = None if where is None else self.stored(where)
        tensor.copy_(value if where is None else torch.where(where, value, tensor))

    @torch.no_grad()
    def refresh(self, moment: Moment) -> None:
        """Let the parameterization change its state for the next optimizer step.

        Noise is drawn for all entries in both storages, so that an entry gets the same in each.
        """
        state = self.state_tensors()
        full = self.in_full(state) if state else state
        self.parameterization.refresh(full, moment)
        for name, tensor in state.items():
            if full[name] is not tensor:
                tensor.copy_(self.stored(full[name]))

    @torch.no_grad()
    def _value(self, tensors: dict[str, Tensor]) -> Tensor:
        value = self.parameterization.value(tensors)
        return value if isinstance(value, Tensor) else torch.as_tensor(value)

    def _masked(self, theta: Tensor) -> Tensor:
        mask = self.current_mask()
        return (
            theta
            if mask is None
            else torch.where(mask.bool(), theta, torch.zeros_like(theta))
        )

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

    @torch.no_grad()
    def write(self, theta: Tensor, where: Tensor | None = None) -> None:
        """Set the factors in place so that the value is `theta`; only at `where` (bool), if given.

        Shared tensors and state stay.
        """
        for name, new in self.parameterization.split(theta, self.tensors()).items():
            self.put(name, new, where)

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> bool:
        """Write `mask` in place; entries pruned now, and regrown ones, hold the split of zero. True if it changed.

        A pruned entry must hold no old value: weight decay, EMA and regrowth would bring it back.
        """
        old = self.current_mask()
        assert old is not None, "set_mask needs InsertMask first"
        # Zero first: what is pruned must not keep a value, and what comes back must not find one.
        new = mask.to(device=old.device, dtype=old.dtype)
        changed = not torch.equal(old, new)
        if self.places() is None:
            self.write(torch.zeros_like(self.theta()), where=(old == 0) | (new == 0))
        elif changed:
            relocate(self, new)
        old.copy_(new)
        return changed

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
setattr(WeightProgram, FOR_PLAIN_MODELS, torch.zeros(1, dtype=torch.uint8))


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
