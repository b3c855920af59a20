"""Tracers and compilers see the effective weights of a rewritten model, and traced models can be rewritten."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import timm.layers
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, grad

import sparsify_fx
from sparsify_fx.programs.owners import programs
from tests.common import swept
from tests.conftest import batch, small_net

pytestmark = pytest.mark.slow


class Last(nn.Module):
    """A recurrent layer's last output."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0][:, -1]


TRACERS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "symbolic_trace": lambda model, inputs: fx.symbolic_trace(model),
    "jit.trace": lambda model, inputs: torch.jit.trace(model, (inputs,)),
    "export": lambda model, inputs: torch.export.export(model, (inputs,)).module(),
    "export strict": lambda model, inputs: torch.export.export(
        model, (inputs,), strict=True
    ).module(),
    "compile": lambda model, inputs: torch.compile(
        model, backend="aot_eager", fullgraph=True
    ),
}


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "small net": lambda: (small_net(), batch()[0]),
    "recurrent": lambda: (
        nn.Sequential(nn.Linear(6, 6), Last(nn.LSTM(6, 4, batch_first=True))),
        torch.randn(2, 3, 6),
    ),
    "attention": lambda: (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        torch.randn(2, 3, 8),
    ),
    "standardized": lambda: (
        nn.Sequential(timm.layers.ScaledStdConv2dSame(3, 4, 3)),
        torch.randn(2, 3, 5, 5),
    ),
    "test_vit": lambda: (
        timm.create_model("test_vit", num_classes=10),
        torch.randn(2, 3, 160, 160),
    ),
}
NOT_FOR_THE_PLAIN_ONE = {
    ("recurrent", "compile"): "Dynamo does not support RNN",
    ("attention", "symbolic_trace"): "must be None or torch.Tensor",
    ("attention", "jit.trace"): "Graphs differed across invocations",
    ("test_vit", "symbolic_trace"): "symbolically traced",
}
LONG = {("test_vit", "compile"), ("test_vit", "export strict")}
PAIRS = [
    (model, tracer)
    for model in MODELS
    for tracer in TRACERS
    if (model, tracer) not in NOT_FOR_THE_PLAIN_ONE
]


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated")
@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning"
)  # of the models' own checks
@pytest.mark.parametrize(
    ("name", "tracer"),
    [
        *(pair for pair in PAIRS if pair not in LONG),
        *swept(pair for pair in PAIRS if pair in LONG),
    ],
)
def test_tracers_see_the_effective_weight_and_its_factors(
    name: str, tracer: str
) -> None:
    """Without care a trace would hold weights from before, or constants that training does not reach."""
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    sparsify_fx.apply(model.eval(), "signin", sparsity=0.5)
    expected = model(inputs)
    traced = TRACERS[tracer](model, inputs)
    torch.testing.assert_close(traced(inputs), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for name, parameter in traced.named_parameters():
            if name.endswith("weight_program.m"):
                parameter.zero_()
    assert not torch.allclose(traced(inputs), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("name", "tracer"), NOT_FOR_THE_PLAIN_ONE)
def test_what_is_left_out_above_fails_for_the_plain_model(
    name: str, tracer: str
) -> None:
    model, inputs = MODELS[name]()
    with pytest.raises(Exception, match=NOT_FOR_THE_PLAIN_ONE[name, tracer]):
        TRACERS[tracer](model.eval(), inputs)(inputs)


def test_a_traced_or_compiled_or_exported_model_can_be_rewritten() -> None:
    inputs = batch()[0]
    compiled = torch.compile(small_net().eval(), backend="aot_eager")
    compiled(inputs)
    exported = torch.export.export(small_net().eval(), (inputs,)).module()
    matrices = ["0.weight", "3.weight", "7.weight"]
    for model, include in (
        (fx.symbolic_trace(small_net().eval()), None),
        (compiled, None),
        (exported, matrices),
    ):
        expected = model(inputs)
        sparsify_fx.apply(model, "signin", sparsity=0.0, include=include)
        torch.testing.assert_close(model(inputs), expected)
        for program in programs(model).values():
            program.write(torch.zeros_like(program.theta()))
        assert not torch.allclose(model(inputs), expected)


def test_grad_reaches_recurrent_and_attention_factors() -> None:
    for layer, inputs in (
        (Last(nn.GRU(6, 4, batch_first=True)), torch.randn(2, 3, 6)),
        (
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
            torch.randn(2, 3, 8),
        ),
    ):
        model = sparsify_fx.apply(layer, "signin", sparsity=0.5)
        values = {
            name: parameter.detach() for name, parameter in model.named_parameters()
        }
        model(inputs).square().sum().backward()

        def loss(
            given: dict[str, Tensor], model: nn.Module = model, inputs: Tensor = inputs
        ) -> Tensor:
            return functional_call(model, given, (inputs,)).square().sum()

        gradients = grad(loss)(values)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad)
