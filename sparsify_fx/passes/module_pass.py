"""The base of every pass: torch's `PassBase`, on any `nn.Module`."""

from __future__ import annotations

import abc

from torch import nn
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from sparsify_fx.passes.transaction import untouched_on_error


class ModulePass(PassBase):
    """A pass that takes an `nn.Module` or a traced `GraphModule`, works in place and returns a `PassResult`.

    `requires` checks before anything changes, `ensures` checks the result, `PassResult.modified` is truthful: a second
    run reports False. A pass that fails leaves the modules as they were. Fits torch's `PassManager`.
    """

    def __call__(self, graph_module: nn.Module) -> PassResult:
        """Check, run, check."""
        self.requires(graph_module)
        # `requires` is outside: it changes nothing, and saving all modules takes time.
        with untouched_on_error(graph_module):
            result = self.call(graph_module)
            self.ensures(graph_module)
        return result

    @abc.abstractmethod
    def call(self, graph_module: nn.Module) -> PassResult:
        """The pass itself."""

    def requires(self, graph_module: nn.Module) -> None:
        """Raise when the module does not fit this pass."""

    def ensures(self, graph_module: nn.Module) -> None:
        """Raise when the result is not what the pass promises."""
