"""Parts of one model with plans of their own: one Scheduler, one file, every part's own number of weights."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.errors import LayerError, MethodError, SchedulerError
from sparsify_fx.masks import kept_count
from sparsify_fx.scheduler.parts import belonging, parts_of
from tests.conftest import batch


class TwoPart(nn.Module):
    """A convolutional backbone with batch norm and a head of two layers; inputs as in `conftest.batch`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 12, 3, stride=2),
            nn.ReLU(),
        )
        self.norm = nn.LayerNorm(12 * 9)
        self.head = nn.Sequential(nn.Linear(12 * 9, 20), nn.ReLU(), nn.Linear(20, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.backbone(x).flatten(1)))


def fresh() -> TwoPart:
    torch.manual_seed(3)
    return TwoPart()


def by_modules(net: TwoPart) -> None:
    sparsify_fx.apply(net.backbone, "gmp", sparsity=0.9)
    sparsify_fx.apply(net.head, "lrr+signin", sparsity=0.25)


def by_selection(net: TwoPart) -> None:
    sparsify_fx.apply(net, "gmp", sparsity=0.9, include="backbone")
    sparsify_fx.apply(net, "lrr+signin", sparsity=0.25, include="head")


def optimize(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


def follow(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: sparsify_fx.Scheduler,
    steps: int,
) -> None:
    for _ in range(steps):
        x, y = batch(scheduler.step_count)
        (F.cross_entropy(net(x), y) + scheduler.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()


def zeros_of(module: nn.Module) -> tuple[int, int]:
    weights = [
        m.weight for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    ]
    return sum(int((w != 0).sum()) for w in weights), sum(w.numel() for w in weights)


@pytest.mark.parametrize("prepare", [by_modules, by_selection])
def test_two_plans_end_at_both_counts_in_one_schedule_and_one_file(
    prepare: Callable[[TwoPart], None], tmp_path: object
) -> None:
    net = fresh()
    prepare(net)
    optimizer = optimize(net)
    scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=4, steps_per_epoch=3)
    assert scheduler.timeline().runs == 3, "the head's two cycles and its dense run"
    follow(net, optimizer, scheduler, scheduler.steps)
    assert scheduler.finished
    sparsify_fx.merge(net)
    for module, sparsity in ((net.backbone, 0.9), (net.head, 0.25)):
        left, total = zeros_of(module)
        assert left == kept_count(total, sparsity)
    report = sparsify_fx.export(
        net.eval(), f"{tmp_path}/two.onnx", batch()[0][:2], optimize=False
    )
    onnx.checker.check_model(f"{tmp_path}/two.onnx")
    assert report.nonzeros == sum(
        zeros_of(module)[0] for module in (net.backbone, net.head)
    )


def test_the_order_of_the_parts_and_of_other_plans_does_not_matter() -> None:
    nets = []
    for first, second in ((0, 1), (1, 0)):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 4))
        calls = [(net[0], "random", 0.8), (net[2], "magnitude", 0.6)]
        for module, method, sparsity in (calls[first], calls[second]):
            sparsify_fx.apply(module, method, sparsity=sparsity)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=2, steps_per_epoch=2)
        generator = torch.Generator().manual_seed(1)
        while not scheduler.finished:
            x, y = (
                torch.randn(8, 12, generator=generator),
                torch.randint(0, 4, (8,), generator=generator),
            )
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        nets.append(sparsify_fx.merge(net).state_dict())
    assert all(torch.equal(nets[0][name], tensor) for name, tensor in nets[1].items())
    assert int((nets[0]["0.weight"] != 0).sum()) == kept_count(480, 0.8)
    assert int((nets[0]["2.weight"] != 0).sum()) == kept_count(160, 0.6)


def test_a_part_goes_the_way_that_it_would_go_alone() -> None:
    """The same head on a frozen backbone: alone, and beside a backbone with a plan of its own."""
    heads = []
    for together in (False, True):
        net = fresh().requires_grad_(False)
        net.head.requires_grad_(True)
        if together:
            sparsify_fx.apply(net.backbone, "random", sparsity=0.0)
        sparsify_fx.apply(net.head, "imp", sparsity=0.4)
        trained = net if together else net.head
        optimizer = torch.optim.SGD(net.head.parameters(), lr=0.1, momentum=0.9)
        scheduler = sparsify_fx.Scheduler(
            trained, optimizer, epochs=3, steps_per_epoch=2
        )
        net.backbone.eval()
        follow(net, optimizer, scheduler, scheduler.steps)
        heads.append(sparsify_fx.dense_state_dict(net.head))
    assert all(torch.equal(heads[0][name], tensor) for name, tensor in heads[1].items())


def test_rewinding_one_part_leaves_the_other_alone() -> None:
    net = fresh()
    sparsify_fx.apply(net.backbone, "gmp", sparsity=0.5)
    sparsify_fx.apply(
        net.head, "imp", sparsity=0.2
    )  # back to the initial weights at the start of the second run
    start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer = optimize(net)
    scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=2, steps_per_epoch=2)
    follow(net, optimizer, scheduler, 3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    momentum = copy.deepcopy(optimizer.state_dict()["state"])
    follow(net, optimizer, scheduler, 1)
    after = net.state_dict()
    head = [name for name in after if name.startswith("head") and name.endswith("bias")]
    assert head
    assert all(torch.equal(after[name], start[name]) for name in head)
    assert not torch.equal(after["backbone.0.bias"], start["backbone.0.bias"])
    assert not torch.equal(after["backbone.0.bias"], before["backbone.0.bias"]), (
        "trained, not rewound"
    )
    assert momentum
    held = {id(p) for p in net.head.parameters()}
    assert all(not s for p, s in optimizer.state.items() if id(p) in held), (
        "the head's optimizer state is fresh"
    )
    assert any(s for p, s in optimizer.state.items() if id(p) not in held)


def test_tensors_beside_programs_go_with_the_part_around_them() -> None:
    net = fresh()
    by_modules(net)
    holder = belonging(parts_of(net), iter(net.state_dict()))
    assert {holder[f"backbone.1.{name}"] for name in ("weight", "running_mean")} == {0}
    assert holder["head.2.bias"] == holder["head.2.weight_program.m"] == 1
    assert holder["norm.weight"] == 0, (
        "both parts lie in the smallest module around it: the first has it"
    )


def test_the_timeline_names_the_part() -> None:
    net = fresh()
    by_modules(net)
    timeline = sparsify_fx.Scheduler(
        net, optimize(net), epochs=4, steps_per_epoch=3
    ).timeline()
    assert {row[0] for row in timeline.rows()} == {"all", "backbone", "head"}
    prunings = {
        (row[0], row[5].partition(",")[0])
        for row in timeline.rows()
        if row[4] == "prune"
    }
    assert ("backbone", "keep 216 of 2160 weights") in prunings
    assert ("head", "keep 1680 of 2240 weights") in prunings
    assert "part" in str(timeline)
    net = fresh()
    by_selection(net)
    assert [part.name for part in parts_of(net)] == ["backbone", "head"]


@pytest.mark.filterwarnings(
    "ignore::sparsify_fx.errors.CollapseWarning"
)  # so few epochs empty a layer
def test_a_resumed_training_of_two_parts_is_bit_identical() -> None:
    def build() -> tuple[TwoPart, torch.optim.Optimizer, sparsify_fx.Scheduler]:
        net = fresh()
        by_modules(net)
        optimizer = optimize(net)
        return (
            net,
            optimizer,
            sparsify_fx.Scheduler(net, optimizer, epochs=3, steps_per_epoch=2),
        )

    whole = build()
    follow(*whole, whole[2].steps)
    for at in (1, 5, 6, 9):
        first = build()
        follow(*first, at)
        stream = io.BytesIO()
        torch.save([thing.state_dict() for thing in first], stream)
        stream.seek(0)
        second = build()
        for thing, state in zip(
            second, torch.load(stream, weights_only=True), strict=True
        ):
            thing.load_state_dict(state)
        follow(*second, second[2].steps - at)
        assert all(
            torch.equal(t, second[0].state_dict()[n])
            for n, t in whole[0].state_dict().items()
        ), at


def test_parts_survive_copies_and_wrappers() -> None:
    net = fresh()
    by_modules(net)
    stream = io.BytesIO()
    torch.save(net, stream)
    stream.seek(0)
    for other in (
        copy.deepcopy(net),
        torch.load(stream, weights_only=False),
        nn.ModuleDict({"inner": net}),
    ):
        found = parts_of(other)
        assert [part.plan.method for part in found] == ["gmp", "lrr+signin"]
        assert [list(part.programs) for part in found] == [
            ["0.weight", "3.weight"],
            ["0.weight", "2.weight"],
        ]
    assert [part.name for part in parts_of(nn.ModuleDict({"inner": net}))] == [
        "inner.backbone",
        "inner.head",
    ]


def test_data_dependent_criteria_read_what_their_apply_was_given() -> None:
    net = fresh()
    x, y = batch()
    inside = [(net.backbone(x).flatten(1).detach(), y)]
    sparsify_fx.apply(
        net.head, "obd", sparsity=0.5, batches=inside, loss_fn=F.cross_entropy
    )
    sparsify_fx.apply(net.backbone, "random", sparsity=0.5)
    optimizer = optimize(net)
    scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=1, steps_per_epoch=2)
    follow(net, optimizer, scheduler, 3)
    assert int(
        (net.head[0].weight != 0).sum() + (net.head[2].weight != 0).sum()
    ) == kept_count(2240, 0.5)
    # Batches for the Scheduler are for the whole model.
    net = fresh()
    sparsify_fx.apply(
        net.head, "obd", sparsity=0.5, batches=inside, loss_fn=F.cross_entropy
    )
    sparsify_fx.apply(net.backbone, "random", sparsity=0.5)
    optimizer = optimize(net)
    scheduler = sparsify_fx.Scheduler(
        net, optimizer, epochs=1, steps_per_epoch=2, batches=[batch()]
    )
    follow(net, optimizer, scheduler, 3)
    assert scheduler.nonzeros() == kept_count(2240, 0.5) + kept_count(2160, 0.5)


def test_a_second_apply_may_score_the_whole_model() -> None:
    net = fresh()
    sparsify_fx.apply(net, "signin", sparsity=0.5, include="backbone")
    backbone = {
        name: tensor.clone() for name, tensor in net.backbone.state_dict().items()
    }
    sparsify_fx.apply(
        net,
        "snip",
        sparsity=0.5,
        include="head",
        batches=[batch()],
        loss_fn=F.cross_entropy,
    )
    assert all(
        torch.equal(tensor, net.backbone.state_dict()[name])
        for name, tensor in backbone.items()
    )
    assert [part.plan.method for part in parts_of(net)] == ["signin", "snip"]


def test_contradictions_are_refused_in_words() -> None:
    net = fresh()
    by_modules(net)
    with pytest.raises(
        LayerError, match=r"already computed by a weight program.*exclude="
    ):
        sparsify_fx.apply(net, "gmp")
    net = fresh()
    sparsify_fx.apply(net.backbone, "lrr", sparsity=0.5)
    sparsify_fx.apply(net.head, "lrr-nowarmup", sparsity=0.5)
    with pytest.raises(
        SchedulerError,
        match=r"backbone \(lrr\): 'init' and head \(lrr-nowarmup\): 'warmup'",
    ):
        sparsify_fx.Scheduler(net, optimize(net), epochs=20, steps_per_epoch=3)
    net = fresh()
    sparsify_fx.apply(net.backbone, "lrr", sparsity=0.5)
    sparsify_fx.passes.Lift()(net.head)
    with pytest.raises(
        MethodError, match=r"head\.0\.weight has a weight program but no plan"
    ):
        sparsify_fx.Scheduler(net, optimize(net), epochs=2, steps_per_epoch=3)


def test_tied_weights_that_apply_tore_apart_are_refused() -> None:
    for method in ("random", "magnitude"):
        net = nn.ModuleDict({"encoder": nn.Linear(6, 6), "decoder": nn.Linear(6, 6)})
        net["decoder"].weight = net["encoder"].weight
        sparsify_fx.apply(net["encoder"], method, sparsity=0.5)
        with pytest.raises(
            SchedulerError,
            match=r"encoder\.weight and decoder\.weight were one tied weight",
        ):
            sparsify_fx.Scheduler(net, optimize(net), epochs=2, steps_per_epoch=2)
        sparsify_fx.apply(net["decoder"], method, sparsity=0.25)
        with pytest.raises(
            SchedulerError,
            match=r"decoder\.weight and encoder\.weight were one tied weight",
        ):
            sparsify_fx.Scheduler(net, optimize(net), epochs=2, steps_per_epoch=2)


def test_compiled_and_parallel_wrappers_of_the_model_have_the_same_parts() -> None:
    net = fresh()
    by_modules(net)
    for wrapped in (torch.compile(net), nn.DataParallel(net)):
        optimizer = optimize(net)
        scheduler = sparsify_fx.Scheduler(
            wrapped, optimizer, epochs=4, steps_per_epoch=3, start_over=True
        )
        assert [track.part.root for track in scheduler._tracks] == [
            net.backbone,
            net.head,
        ]
