"""A model is rewritten, and merged, as a whole or not at all; the hooks of layer families do not run for it."""

from __future__ import annotations

import abc
import copy
import io
import pickle
import threading
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

import sparsify_fx
from sparsify_fx.errors import LayerError, MethodError, PassError
from sparsify_fx.parameterizations import Dense, Plain, Product
from sparsify_fx.passes import InsertMask, Lift, Merge, Reparameterize
from sparsify_fx.passes.prepare import prepare
from sparsify_fx.passes.transaction import untouched_on_error
from sparsify_fx.programs import owner_class
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.selection import select_layers
from tests.conftest import batch, effective, small_net

HOOKS: list[object] = []  # every run of a family's hook


class Keyword(nn.Linear):
    """A family that keeps a registry by keyword."""

    kinds: typing.ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, *, kind: str, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        assert kind not in Keyword.kinds
        Keyword.kinds[kind] = cls
        HOOKS.append(cls)


class Gate(Keyword, kind="gate"):
    pass


class SlottedGate(Keyword, kind="slotted"):
    __slots__ = ("note",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.note = 3


class Sealed(nn.Linear):
    def __init_subclass__(cls) -> None:
        raise TypeError("Sealed is final")


@typing.final
class Final(nn.Linear):
    pass


class Registering(type):
    """A metaclass with keywords, a registry, and classes that cannot be changed."""

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, must: int
    ) -> type:
        HOOKS.append(name)
        return super().__new__(mcs, name, bases, namespace)

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, must: int
    ) -> None:
        super().__init__(name, bases, namespace)

    def __setattr__(cls, name: str, value: object) -> None:
        raise TypeError("classes of this family cannot be changed")


class Registered(nn.Linear, metaclass=Registering, must=1):
    pass


class AbstractLayer(nn.Linear, abc.ABC):
    @abc.abstractmethod
    def kind(self) -> str: ...


class ConcreteLayer(AbstractLayer):
    def kind(self) -> str:
        return "concrete"


class AbstractFirst(abc.ABC, nn.Linear):
    pass


class CountingABCs(abc.ABCMeta):
    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **rest: Any
    ) -> Any:
        HOOKS.append(name)
        return super().__new__(mcs, name, bases, namespace, **rest)


class CountedABC(nn.Linear, metaclass=CountingABCs):
    pass


class Mixin:
    __slots__ = ()

    def __init_subclass__(cls, *, must: int) -> None:
        HOOKS.append(cls)


class Mixed(Mixin, nn.Linear, must=1):
    pass


class MixedSlots(Mixin, nn.Linear, must=1):
    __slots__ = ("first", "second")


class Frozen(nn.Linear):
    """Its attributes cannot be set any more."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.done = True

    def __setattr__(self, name: str, value: object) -> None:
        if getattr(self, "done", False):
            raise AttributeError("frozen")
        super().__setattr__(name, value)


class Pretending(nn.Linear):
    @property
    def __class__(self) -> type:
        return nn.Linear


T = typing.TypeVar("T")


class Generic(nn.Linear, typing.Generic[T]):
    pass


class Callable_(typing.Protocol):
    def forward(self, inputs: Tensor) -> Tensor: ...


class Protocolled(nn.Linear, Callable_):
    def __init__(self, *args: Any) -> None:
        nn.Linear.__init__(self, *args)


FAMILIES = [
    Gate,
    SlottedGate,
    Sealed,
    Final,
    Registered,
    ConcreteLayer,
    AbstractFirst,
    CountedABC,
    Mixed,
    MixedSlots,
    Frozen,
    Pretending,
    Generic,
    Protocolled,
]


def family_net(kind: type[nn.Linear], seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), kind(8, 4))


@pytest.mark.parametrize("kind", FAMILIES)
def test_families_with_hooks_are_rewritten_without_them(kind: type[nn.Linear]) -> None:
    model, inputs, before = family_net(kind), torch.randn(3, 8), list(HOOKS)
    expected, registered = model(inputs), dict(Keyword.kinds)
    sparsify_fx.apply(model, "signin", sparsity=0.0)
    layer = model[2]
    torch.testing.assert_close(model(inputs), expected)
    assert isinstance(layer, kind)
    assert type(layer).__name__ == kind.__name__
    assert type(layer).__module__ == kind.__module__
    assert type(layer).__bases__ == (kind,)
    assert isinstance(type(layer), type(kind))
    assert not isinstance(kind(2, 2), type(layer)), (
        "the caches of abstract classes are its own"
    )
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(stream, weights_only=False),
    ):
        assert type(twin[2]) is type(layer)
        assert torch.equal(twin(inputs), model(inputs))
    assert torch.equal(fx.symbolic_trace(model)(inputs), model(inputs))
    sparsify_fx.merge(model)
    assert type(model[2]) is kind
    torch.testing.assert_close(model(inputs), expected)
    assert before == HOOKS, "no hook ran"
    assert registered == Keyword.kinds


@pytest.mark.cross_section("Gate")
@pytest.mark.slow
@pytest.mark.parametrize("kind", [Gate, Registered, Mixed, AbstractFirst])
def test_families_compile_in_one_graph(kind: type[nn.Linear]) -> None:
    model, inputs = (
        sparsify_fx.apply(family_net(kind), "signin", sparsity=0.5),
        torch.randn(3, 8),
    )
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), model(inputs))


def test_threads_make_one_class() -> None:
    class Threaded(nn.Linear):
        pass

    layers = [Threaded(4, 4) for _ in range(8)]
    threads = [
        threading.Thread(target=sparsify_fx.apply, args=(layer, "random"))
        for layer in layers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({type(layer) for layer in layers}) == 1


# ---------------------------------------------------------------------- failures


Bits = dict[str, Any]


def bits(model: nn.Module) -> Bits:
    """Everything that must be as it was: objects, order and values."""
    found: Bits = {}
    for name, module in model.named_modules():
        tables = (module._parameters, module._buffers, module._modules)
        found[name] = (
            type(module),
            list(module.__dict__),
            [[(key, id(value)) for key, value in t.items()] for t in tables],
        )
    found["values"] = {key: value.clone() for key, value in model.state_dict().items()}
    return found


def assert_untouched(model: nn.Module, before: Bits) -> None:
    now = bits(model)
    values, old = now.pop("values"), before.pop("values")
    assert now == before
    assert list(values) == list(old)
    assert all(torch.equal(values[key], old[key]) for key in old)


@dataclass(frozen=True)
class Failing(Plain):
    """Fails at the third weight, in one of its parts."""

    where: str
    factors = ("dense",)
    calls: typing.ClassVar[list[str]] = []

    def _fail(self, where: str) -> None:
        Failing.calls.append(where)
        if where == self.where and Failing.calls.count(where) == 3:
            raise ZeroDivisionError(where)

    def value(self, tensors: Mapping[str, Any]) -> Any:
        self._fail("value")
        return tensors["dense"] * 1.0

    def split(self, theta: Tensor, others: Any = None) -> dict[str, Tensor]:
        self._fail("split")
        return {"dense": theta}

    def shared(self, theta: Tensor) -> dict[str, Tensor]:
        self._fail("shared")
        return {}

    def state(self, theta: Tensor) -> dict[str, Tensor]:
        self._fail("state")
        return {}


def halved(model: nn.Module) -> dict[str, Tensor]:
    weights = {name: layer.weight for name, layer in select_layers(model).items()}
    return {
        n: (torch.arange(w.numel()) % 2).reshape(w.shape) for n, w in weights.items()
    }


@pytest.mark.parametrize("where", ["value", "split", "shared", "state"])
def test_a_parameterization_that_fails_leaves_the_model(where: str) -> None:
    model = small_net()
    before, outputs = bits(model), model.eval()(batch()[0])
    Failing.calls.clear()
    with pytest.raises(ZeroDivisionError):
        prepare(model, select_layers(model), halved(model), Failing(where))
    model.train()
    assert_untouched(model, before)
    Failing.calls.clear()
    again = bits(model)
    with pytest.raises(ZeroDivisionError):
        Reparameterize(Failing(where))(model)
    assert_untouched(model, again)
    assert torch.equal(model.eval()(batch()[0]), outputs)
    sparsify_fx.apply(model, "signin", sparsity=0.5)


def test_prepare_is_what_the_passes_do() -> None:
    """To the bit, for factors and for weights that are trained themselves."""
    for how in (Dense(), Product(beta=0.5)):
        together, one_by_one = small_net(), small_net()
        masks = halved(together)
        assert list(prepare(together, select_layers(together), masks, how)) == list(
            masks
        )
        InsertMask(masks)(one_by_one)
        if how != Dense():
            Reparameterize(how)(one_by_one)
        a, b = together.state_dict(), one_by_one.state_dict()
        assert list(a) == list(b)
        assert all(torch.equal(a[key], b[key]) for key in a)
        passes = [
            [program.passes for program in programs(model).values()]
            for model in (together, one_by_one)
        ]
        assert passes[0] == passes[1]


def test_masks_that_do_not_fit_change_nothing() -> None:
    model = small_net()
    before, masks = bits(model), halved(model)
    with pytest.raises(PassError, match="a mask of shape"):
        prepare(
            model,
            select_layers(model),
            {**masks, "7.weight": torch.ones(2, 2)},
            Dense(),
        )
    assert_untouched(model, before)


class Immovable(nn.Linear):
    """Python cannot give its objects another class."""


def test_a_class_that_cannot_change_is_refused_and_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def set_class(owner: nn.Module, cls: type) -> None:
        if type(owner) is Immovable:
            raise TypeError("object layout differs")
        original(owner, cls)

    original = owner_class._SET_CLASS
    monkeypatch.setattr(owner_class, "_SET_CLASS", set_class)
    model = family_net(Immovable)
    before = bits(model)
    with pytest.raises(
        LayerError,
        match=r"test_atomic\.Immovable cannot be changed \(object layout differs\).*exclude=",
    ):
        sparsify_fx.apply(model, "signin", sparsity=0.5)
    assert_untouched(model, before)
    sparsify_fx.apply(model, "signin", sparsity=0.5, exclude="2")


def test_a_class_that_cannot_be_subclassed_is_refused_and_nothing_happens() -> None:
    with pytest.raises(
        LayerError,
        match=r"bool cannot be subclassed \(type 'bool' is not an acceptable base type\)",
    ):
        owner_class.owner_class(bool, ("weight",), {})  # type: ignore[arg-type]


def test_a_name_that_is_taken_is_refused_and_nothing_happens() -> None:
    class Busy(nn.Linear):
        def weight_program(self) -> str:
            return "of its own"

    for model in (family_net(Busy), family_net(nn.Linear)):
        if type(model[2]) is nn.Linear:
            model[2].register_buffer("weight_program", torch.ones(1))
        before = bits(model)
        with pytest.raises(LayerError, match="has a weight_program of its own"):
            sparsify_fx.apply(model, "signin", sparsity=0.5)
        assert_untouched(model, before)


@pytest.mark.parametrize("storage", ["full", "living"])
@pytest.mark.parametrize("where", ["effective", "uninstall"])
def test_a_merge_that_fails_leaves_the_model(
    where: str, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.LSTM(4, 5), nn.Linear(5, 5), nn.Linear(5, 2))
    sparsify_fx.apply(model, "signin", sparsity=0.5, storage=storage)
    before = bits(model)
    last = programs(model)["2.weight"]
    if where == "effective":
        factor = last.m
        last._parameters["m"] = nn.Parameter(torch.ones(7, 7))
    else:
        from sparsify_fx.passes import merge

        real, seen = merge.uninstall, []

        def uninstall(*args: Any) -> None:
            seen.append(args)
            if len(seen) == 4:
                raise KeyboardInterrupt
            real(*args)

        monkeypatch.setattr(merge, "uninstall", uninstall)
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        Merge()(model)
    monkeypatch.undo()
    if where == "effective":
        last._parameters["m"] = factor
    assert_untouched(model, before)
    weights = effective(model)
    assert all(
        torch.equal(weights[name], tensor)
        for name, tensor in sparsify_fx.merge(model).state_dict().items()
        if name in weights
    )


def test_a_pass_that_fails_brings_graphs_back() -> None:
    class Late(sparsify_fx.passes.Product):
        def ensures(self, graph_module: nn.Module) -> None:
            raise PassError("too late")

    model = small_net()
    Lift()(model)
    code = [program.code for program in programs(model).values()]
    facts = [program.facts for program in programs(model).values()]
    with pytest.raises(PassError, match="too late"):
        Late()(model)
    assert [program.code for program in programs(model).values()] == code
    assert [program.facts for program in programs(model).values()] == facts
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            effective(model).values(), effective(small_lifted()).values(), strict=True
        )
    )
    assert sparsify_fx.passes.Product()(model).modified


def small_lifted() -> nn.Sequential:
    model = small_net()
    Lift()(model)
    return model


def lose_the_weight(layer: nn.Module) -> None:
    layer.other = 1
    del layer.weight
    raise KeyError


def test_untouched_on_error_keeps_containers_and_lets_success_stand() -> None:
    model = small_net()
    parameters = model[0]._parameters
    with untouched_on_error(model):
        model[0].note = "kept"
    assert model[0].note == "kept"
    with pytest.raises(KeyError), untouched_on_error(model):
        lose_the_weight(model[0])
    assert model[0]._parameters is parameters
    assert list(parameters) == ["weight", "bias"]
    assert not hasattr(model[0], "other")


# ---------------------------------------------------------------------- what can never be trained


class Packed(nn.Parameter):
    """A parameter as bitsandbytes keeps them: floating until it is moved to a device."""

    quant_state = None


def quantized() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    quantize_(model, Int8WeightOnlyConfig(), filter_fn=lambda module, name: name == "0")
    return model


def with_weight(weight: Tensor) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    model[0].weight = (
        weight
        if isinstance(weight, nn.Parameter)
        else nn.Parameter(weight, requires_grad=False)
    )
    return model


def inference_weight() -> nn.Sequential:
    with torch.inference_mode():
        weight = nn.Parameter(torch.randn(64, 64))
    return with_weight(weight)


UNTRAINABLE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "torchao": (
        quantized,
        r"0\.weight has the type Int8Tensor, quantized.*sparsify the plain model first",
    ),
    "bitsandbytes": (
        lambda: with_weight(Packed(torch.randn(64, 64))),
        r"0\.weight has the type Packed, quantized",
    ),
    "float8": (
        lambda: with_weight(torch.randn(64, 64).to(torch.float8_e4m3fn)),
        r"0\.weight has dtype torch.float8",
    ),
    "integers": (
        lambda: with_weight(torch.ones(64, 64, dtype=torch.int8)),
        r"0\.weight has dtype torch.int8",
    ),
    "inference": (
        inference_weight,
        r"0\.weight was made under torch\.inference_mode.*clone",
    ),
    "expanded": (
        lambda: with_weight(torch.randn(1, 64).expand(64, 64)),
        r"0\.weight is expanded.*contiguous",
    ),
}


@pytest.mark.parametrize("case", UNTRAINABLE)
def test_weights_that_cannot_be_trained_are_refused_in_words(case: str) -> None:
    make, words = UNTRAINABLE[case]
    model = make()
    kinds, keys = [type(module) for module in model.modules()], list(model.state_dict())
    with pytest.raises(
        LayerError, match=words + ".*or leave the layer out with exclude="
    ):
        sparsify_fx.apply(model, "signin", sparsity=0.5)
    assert [type(module) for module in model.modules()] == kinds
    assert list(model.state_dict()) == keys
    sparsify_fx.apply(model, "signin", sparsity=0.5, exclude="0")
    assert list(programs(model)) == ["2.weight"]


@pytest.mark.parametrize("method", [None, 3, ["signin"], b"signin"])
def test_a_method_that_is_no_name(method: Any) -> None:
    with pytest.raises(
        MethodError, match=r"method=.*: expected a name such as 'signin', or a sum"
    ):
        sparsify_fx.apply(small_net(), method)
