from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.criteria import CRITERIA, PruningContext
from sparsify_fx.criteria.choosing import choose_masks
from sparsify_fx.errors import CollapseWarning
from sparsify_fx.passes import InsertMask
from sparsify_fx.programs.collapse import Collapse, find_collapse, listed
from sparsify_fx.programs.example_inputs import examples
from sparsify_fx.programs.flow import reaches_output, surely_connected
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.selection import select_layers
from sparsify_fx.recipe import find_method


def chain(sizes: list[int], norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def full(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.ones_like(layer.weight, dtype=torch.uint8)
        for name, layer in select_layers(model).items()
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=3, max_size=7),
    st.floats(0.05, 0.6),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_a_chain_is_connected_where_the_product_of_its_masks_is(
    sizes: list[int], density: float, seed: int, norm: bool
) -> None:
    model, generator = chain(sizes, norm), torch.Generator().manual_seed(seed)
    masks = {
        n: (torch.rand(m.shape, generator=generator) < density).to(torch.uint8)
        for n, m in full(model).items()
    }
    product = torch.eye(sizes[0])
    for mask in masks.values():
        product = (mask.float() @ product > 0).float()
    found = find_collapse(model, masks)
    assert found.connected == bool(product.any())
    assert found.empty == tuple(name for name, mask in masks.items() if not mask.any())
    assert found.kept == sum(int(mask.sum()) for mask in masks.values())
    if surely_connected(masks):
        assert product.any()


def test_magnitude_on_a_long_chain_leaves_weights_in_every_layer_and_still_no_path() -> (
    None
):
    """Every layer keeps some, which do not meet: only the run tells."""
    model = chain([8] * 5 + [4])
    masks = {name: torch.zeros_like(mask) for name, mask in full(model).items()}
    for i, mask in enumerate(masks.values()):
        mask[:2, i % 2 * 4 : i % 2 * 4 + 4] = (
            1  # layers 1, 3, 5 read units 0 to 3, the others units 4 to 7, all write 0, 1
        )
    found = find_collapse(model, masks)
    assert found.empty == ()
    assert found.connected is False
    assert found.sentence() == (
        "no path leads from the input to the output any more (40 of 288 weights are kept): the output is a constant"
    )


class Block(nn.Module):
    """A residual block: cutting its branch cuts nothing."""

    def __init__(self, width: int, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv, self.norm = (
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(x + self.norm(self.conv(x)))


class Words(nn.Module):
    """Numbers of words have no gradient; the rows of the table do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.body = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2
        )
        self.head = nn.Linear(16, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.body(self.table(words)).mean(1))


class Gated(nn.Module):
    """Each factor's bias keeps the other one's path open."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.out = (
            nn.Linear(6, 8),
            nn.Linear(6, 8),
            nn.Linear(8, 2),
        )

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"scores": [self.out(self.value(x) * torch.sigmoid(self.gate(x)))]}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = (
            nn.LSTM(5, 7, num_layers=2, batch_first=True),
            nn.Linear(7, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0][:, -1])


def resnet() -> nn.Module:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(nn.Conv2d(3, 4, 3), Block(4), Block(4), *head)


CUTS = [
    (resnet, {"0.weight"}, False),
    (resnet, {"1.conv.weight", "2.conv.weight"}, True),
    (resnet, {"5.weight"}, False),
    (Words, {"head.weight"}, False),
    (
        Words,
        {"body.layers.0.linear1.weight", "body.layers.1.self_attn.in_proj_weight"},
        True,
    ),
    (Gated, {"gate.weight"}, True),
    (Gated, {"value.weight"}, True),
    (Gated, {"value.weight", "gate.weight"}, False),
    (Recurrent, {"body.weight_ih_l0"}, False),
    (Recurrent, {"body.weight_hh_l0"}, True),
    (Recurrent, {"body.weight_hh_l0", "body.weight_ih_l1"}, False),
]


@pytest.mark.parametrize(("build", "cut", "connected"), CUTS)
@pytest.mark.parametrize("rewritten", [False, True])
def test_only_cuts_that_separate_input_and_output_count(
    build: Any, cut: set[str], connected: bool, rewritten: bool
) -> None:
    model = build()
    masks = {name: mask * (name not in cut) for name, mask in full(model).items()}
    assert set(find_collapse(model, masks).empty) == cut
    if rewritten:
        InsertMask()(model)
    found = find_collapse(model, masks)
    assert (set(found.empty), found.connected) == (cut, connected)
    assert found
    assert found.sentence().startswith(f"{len(cut)} of {len(masks)} layer")


def test_tied_weights_and_loose_matrices_are_masked_everywhere() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.free = (
                nn.Linear(4, 4),
                nn.Linear(4, 4),
                nn.Parameter(torch.ones(4, 4)),
            )
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.free + self.b(self.a(x))

    model, masks = Tied(), {"a.weight": torch.zeros(4, 4), "free": torch.zeros(4, 4)}
    for rewritten in (False, True):
        assert find_collapse(model, masks).connected is False
        assert find_collapse(model, masks | {"free": torch.eye(4)}).connected is True
        if not rewritten:
            sparsify_fx.apply(model, "dense", include=["a", "b", "free"])
            assert set(programs(model)) == {"a.weight", "free"}


def test_known_inputs_are_used_where_no_guess_fits() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
            return (self.left(a) + self.right(b)) * scale

    model = Pair()
    masks = {name: torch.zeros_like(mask) for name, mask in full(model).items()}
    unknown = find_collapse(model, masks)
    assert unknown.connected is None
    assert unknown.sentence().endswith("; the output may be a constant")
    inputs: tuple[Any, ...]
    for inputs in (
        (torch.rand(7, 3), torch.rand(7, 5)),
        ({"a": torch.rand(2, 3), "b": torch.rand(2, 5), "scale": 2.0},),
    ):
        pair = (inputs, None) if len(inputs) == 2 else (inputs[0], None)
        assert find_collapse(model, masks, [pair]).connected is False
        half = masks | {"right.weight": torch.ones(4, 5)}
        assert find_collapse(model, half, [pair]).connected is True


def test_what_cannot_be_judged_is_left_open() -> None:
    class Constant(nn.Module):
        """Its output never depends on the input, whatever the masks are."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.detach()).detach()

    class Failing(Constant):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no")

    class Uncopyable(Constant):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("no")

    for build in (Constant, Failing, Uncopyable):
        found = find_collapse(build(), {"fc.weight": torch.zeros(3, 3)})
        assert found.connected is None
        assert found.empty == ("fc.weight",)


def test_the_check_leaves_no_trace() -> None:
    model = resnet()
    model[1].eval()
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    model[1].register_forward_pre_hook(lambda *_: calls.append(2))
    sparsify_fx.apply(model, "random", sparsity=0.5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes, batches = (
        [module.training for module in model.modules()],
        [(torch.rand(4, 3, 9, 9), None)],
    )
    state = torch.get_rng_state()
    masks = {
        name: torch.zeros_like(mask)
        for name, mask in {
            n: p.current_mask() for n, p in programs(model).items()
        }.items()
    }
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert find_collapse(model, masks, batches).connected is False
    assert calls == []
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(
        torch.equal(value, before[key]) for key, value in model.state_dict().items()
    )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_deep_nets_neither_overflow_nor_vanish() -> None:
    for width, norm in ((256, False), (3, True)):
        model = chain([width] * 120, norm)
        masks = full(model)
        for mask in masks.values():
            mask[0, 0] = 0
            mask[:, 1] = 0
        assert find_collapse(model, masks).connected is True
        last = list(masks)[60]
        masks[last][:, [i for i in range(width) if i != 1]] = 0
        assert find_collapse(model, masks).connected is False


def test_guessed_inputs_fit_common_models() -> None:
    from sparsify_fx.zoo.models import build_model

    models = [
        build_model("lenet5", num_classes=10, image_size=28),
        Words(),
        Recurrent(),
        nn.GRUCell(3, 4),
    ]
    models += [
        nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU()),
    ]
    models[4](torch.rand(1, 2, 128))
    for model in models:
        assert reaches_output(model, full(model), examples(model)) is True


def test_the_warning_names_layers_numbers_and_remedies_once() -> None:
    found = Collapse(("a", "b"), True, 5, 10, 1000)
    with pytest.warns(
        CollapseWarning,
        match=r"gmp at step 7: 2 of 5 layers have no weight left: a, b \(10 of 1000",
    ) as seen:
        found.warn("gmp at step 7")
    assert seen[0].filename == __file__
    for word in (
        "min_per_layer=",
        "'erk'",
        "lower sparsity",
        "other layers still lead",
    ):
        assert word in str(seen[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Collapse((), True, 5, 10, 1000).warn("gmp")
        Collapse((), None, 5, 10, 1000).warn("gmp")
    assert found.exceeds(None)
    assert not found.exceeds(found)
    assert Collapse(("a", "c"), True, 5, 5, 1000).exceeds(found)
    assert Collapse(("a",), False, 5, 5, 1000).exceeds(found)
    assert not Collapse((), True, 5, 5, 1000).exceeds(None)
    assert listed([str(i) for i in range(11)]).endswith("6, 7 and 3 more")


@pytest.mark.parametrize("method", ["snip", "synflow", "magnitude"])
def test_a_floor_keeps_every_layer(method: str) -> None:
    torch.manual_seed(0)
    net = chain([48] * 6 + [5])
    batches = [(torch.randn(32, 48), torch.randint(0, 5, (32,)))]
    weights = {
        name: layer.weight.detach() for name, layer in select_layers(net).items()
    }
    for option, empty in ((None, True), (30, False)):
        axes = find_method(
            method, {"allocation": {"name": "global", "min_per_layer": option}}
        ).resolved()
        context = PruningContext(
            {
                name: weight * (0.01 if name == "4.weight" else 1)
                for name, weight in weights.items()
            },
            torch.Generator(),
            300,
            axes.allocation,
            model=net,
            batches=batches,
            loss_fn=nn.functional.cross_entropy,
        )
        masks = choose_masks(
            axes.criterion if method != "synflow" else CRITERIA["magnitude"], context
        )
        assert (not masks["4.weight"].any()) == empty
        assert sum(int(mask.sum()) for mask in masks.values()) == 300
