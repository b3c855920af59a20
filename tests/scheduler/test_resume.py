"""A training that was killed and goes on is the one that never was, bit for bit, in any order of loading."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    SequentialLR,
)

import sparsify_fx
from sparsify_fx.errors import SchedulerError
from sparsify_fx.learning_rate import CosineWarmup
from sparsify_fx.optimizer_states.records import (
    restore_optimizer_state,
    take_optimizer_state,
)
from sparsify_fx.programs.owners import programs
from tests.common import swept
from tests.conftest import batch, small_net

pytestmark = pytest.mark.slow

PER_EPOCH = 2
BATCHES = [batch(100), batch(101)]

Training = tuple[nn.Module, list[Optimizer]]


def sgd(model: nn.Module) -> list[Optimizer]:
    return [
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    ]


def adamw(model: nn.Module) -> list[Optimizer]:
    return [torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01))]


def two(model: nn.Module) -> list[Optimizer]:
    parameters = list(model.parameters())
    return [
        torch.optim.SGD(parameters[::2], lr=0.1, momentum=0.9),
        torch.optim.AdamW(parameters[1::2], lr=0.01),
    ]


def one_cycle(optimizer: Optimizer) -> OneCycleLR:
    return OneCycleLR(optimizer, max_lr=0.1, total_steps=6 + 1, cycle_momentum=True)


def sequence(optimizer: Optimizer) -> SequentialLR:
    parts = [LinearLR(optimizer, 0.1, total_iters=2), CosineAnnealingLR(optimizer, 6)]
    return SequentialLR(optimizer, parts, milestones=[2])


def alternating(warmup: float, last_dense: float) -> dict[str, Any]:
    """Phases of two steps in a run of ten."""
    return {
        "schedule": {
            "name": "alternating",
            "warmup": warmup,
            "phase": 0.2,
            "last_dense": last_dense,
            "end": 0.8,
        }
    }


WARMUP = CosineWarmup(1)


@dataclass(frozen=True)
class Case:
    """One training of `small_net`."""

    method: str
    axes: dict[str, Any] = field(default_factory=dict)
    optimizers: Callable[[nn.Module], list[Optimizer]] = sgd
    learning_rate: Any = WARMUP
    epochs: int = 3
    head: str = ""
    """The method of the last layer, when it has a plan of its own."""

    def start(self) -> Training:
        model = small_net()
        given = {"batches": BATCHES, "loss_fn": F.cross_entropy}
        exclude = ["7"] if self.head else None
        sparsify_fx.apply(
            model,
            self.method,
            sparsity=0.36,
            seed=3,
            exclude=exclude,
            **given,
            **self.axes,
        )
        if self.head:
            sparsify_fx.apply(model, self.head, sparsity=0.25, include=["7"], **given)
        return model, self.optimizers(model)

    def schedule(
        self, model: nn.Module, optimizers: Sequence[Optimizer]
    ) -> sparsify_fx.Scheduler:
        given = optimizers if len(optimizers) > 1 else optimizers[0]
        return sparsify_fx.Scheduler(
            model,
            given,
            epochs=self.epochs,
            steps_per_epoch=PER_EPOCH,
            learning_rate=self.learning_rate,
            batches=BATCHES,
            loss_fn=F.cross_entropy,
        )


def train(
    model: nn.Module, optimizers: Sequence[Optimizer], scheduler: sparsify_fx.Scheduler
) -> Iterator[int]:
    """Steps until the end; the step number after each."""
    while not scheduler.finished:
        step = scheduler.step_count
        inputs, labels = batch(step)
        outputs = model(inputs)
        (F.cross_entropy(outputs, labels) + scheduler.penalty()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if scheduler.needs_batch:
            scheduler.score_on(inputs, labels)
        scheduler.observe(accuracy=(step % 7) / 7)
        scheduler.step()
        yield scheduler.step_count


def saved(
    model: nn.Module, optimizers: Sequence[Optimizer], scheduler: sparsify_fx.Scheduler
) -> dict[str, Any]:
    """The three states as they come back from a file."""
    states = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "scheduler": scheduler.state_dict(),
    }
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def everything(
    model: nn.Module, optimizers: Sequence[Optimizer], scheduler: sparsify_fx.Scheduler
) -> dict[str, Any]:
    """The states, and what no state dict holds."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        weights = {name: program().clone() for name, program in programs(model).items()}
    rates = [
        float(group["lr"])
        for optimizer in optimizers
        for group in optimizer.param_groups
    ]
    return saved(model, optimizers, scheduler) | {
        "buffers": buffers,
        "weights": weights,
        "rates": rates,
    }


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """The paths at which two nested states are not equal to the bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = (
            a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
        )
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in differences(a[key], b[key], f"{where}/{key}")]
    if (
        isinstance(a, (list, tuple))
        and isinstance(b, (list, tuple))
        and len(a) == len(b)
    ):
        return [
            d
            for i, (x, y) in enumerate(zip(a, b, strict=True))
            for d in differences(x, y, f"{where}/{i}")
        ]
    return [] if a == b else [where]


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


ORDERS = [
    order
    for order in itertools.permutations("MOBS")
    if order.index("B") < order.index("S")
]
"""Model, optimizers and scheduler state loaded, and the Scheduler built, in any order."""


def resume(
    case: Case,
    states: dict[str, Any],
    order: Sequence[str],
    pickled: bytes | None = None,
) -> list[Any]:
    """A new process: everything is built anew and loaded."""
    torch.manual_seed(99)
    states = copy.deepcopy(states)  # optimizers train the very tensors that they load
    if pickled is None:
        model, optimizers = case.start()
    else:
        model = torch.load(io.BytesIO(pickled), weights_only=False)
        optimizers = case.optimizers(model)
    scheduler: Any = None
    for what in order:
        if what == "M" and pickled is None:
            model.load_state_dict(states["model"])
        elif what == "O":
            for optimizer, state in zip(optimizers, states["optimizers"], strict=True):
                optimizer.load_state_dict(state)
        elif what == "B":
            scheduler = case.schedule(model, optimizers)
        elif what == "S":
            scheduler.load_state_dict(states["scheduler"])
    return [model, optimizers, scheduler]


def reference(
    case: Case,
) -> tuple[list[dict[str, Any]], list[bytes], dict[str, Any], sparsify_fx.Scheduler]:
    """The uninterrupted training: what is saved after every step, pickled models, everything at the end."""
    model, optimizers = case.start()
    scheduler = case.schedule(model, optimizers)
    states, pickles = [], []
    for _ in itertools.chain([0], train(model, optimizers, scheduler)):
        states.append(saved(model, optimizers, scheduler))
        file = io.BytesIO()
        torch.save(model, file)
        pickles.append(file.getvalue())
    return states, pickles, everything(model, optimizers, scheduler), scheduler


def interruptions(scheduler: sparsify_fx.Scheduler) -> list[int]:
    """Before, at and after events and the ends."""
    events = {event.step for event in scheduler.timeline().events} | {
        0,
        scheduler.steps,
    }
    return sorted(
        {step + d for step in events for d in (-1, 0, 1)}
        & set(range(scheduler.steps + 1))
    )


def check(
    case: Case,
    orders: Sequence[Sequence[str]],
    pickled: bool = False,
    everywhere: bool = False,
) -> None:
    """Interrupt at every point, load in one of the orders in turn, and train to the end.

    `everywhere`: load in all of them, and train to the end after every fifth.
    """
    states, pickles, end, whole = reference(case)
    points = interruptions(whole)
    assert {0, whole.steps} < set(points)
    turns, count = itertools.cycle(orders), itertools.count()
    for point in points:
        for order in orders if everywhere else [next(turns)]:
            told = f"interrupted after {point} of {whole.steps} steps, loaded in the order {''.join(order)}"
            training = resume(
                case, states[point], order, pickles[point] if pickled else None
            )
            assert differences(saved(*training), states[point]) == [], (
                f"{told}: loading"
            )
            if everywhere and next(count) % 5:
                continue
            for _ in train(*training):
                pass
            assert differences(everything(*training), end) == [], told


# What takes longest and has a near relation among the others.
SWEPT = (
    "pruned at step 0",
    "two parts",
    "two optimizers",
    "lrr-nowarmup",
    "sequence of schedules, AdamW",
    "imp",
)
FIVE = {
    "gmp": Case("gmp"),
    "lrr": Case("lrr"),
    "signin": Case("signin"),
    "rigl": Case("rigl"),
    "acdc+signin": Case("acdc+signin", alternating(0.2, 0.4), epochs=5),
}
OTHERS = {
    "imp": Case("imp"),
    "wr, AdamW with a tensor rate": Case("wr", optimizers=adamw),
    "lrr-bn": Case("lrr-bn"),
    "lrr-nowarmup": Case("lrr-nowarmup"),
    "set": Case("set"),
    "pilot": Case("pilot"),
    "str": Case("str"),
    "cs": Case("cs"),
    "l0": Case("l0"),
    "powerprop": Case("powerprop"),
    "magnitude+signin": Case("magnitude+signin"),
    "signs flipped at step 0": Case(
        "random", {"actions": {"name": "perturb-signs", "fraction": 0.3, "run": 0}}
    ),
    "pruned at step 0": Case("acdc", alternating(0.0, 0.6), epochs=5),
    "one curve over all runs": Case("lrr", {"rewind": {"learning_rate": None}}),
    "rate left alone": Case("gmp", learning_rate=None),
    "one-cycle, momentum too": Case("lrr", learning_rate=one_cycle),
    "sequence of schedules, AdamW": Case(
        "lrr+signin", optimizers=adamw, learning_rate=sequence
    ),
    "two optimizers": Case("wr", optimizers=two),
    "two optimizers, torch's rates": Case(
        "lrr+signin", optimizers=two, learning_rate=sequence
    ),
    "two parts": Case("lrr+signin", head="gmp"),
    "two parts, one at step 0": Case("gmp", head="signin", optimizers=two),
}


@pytest.mark.cross_section("lrr")
@pytest.mark.parametrize(
    "name", ["signin", "lrr", *swept(["gmp", "rigl", "acdc+signin"])]
)
def test_every_order_of_loading(name: str) -> None:
    check(FIVE[name], ORDERS, everywhere=True)


@pytest.mark.cross_section(
    "one-cycle, momentum too",
    "wr, AdamW with a tensor rate",
    "cs",
    "str",
)
@pytest.mark.parametrize(
    "name",
    [
        *(each for each in OTHERS if each not in SWEPT),
        *swept(each for each in OTHERS if each in SWEPT),
    ],
)
def test_other_methods_optimizers_and_rates(name: str) -> None:
    check(OTHERS[name], ORDERS, everywhere="step 0" in name)


@pytest.mark.parametrize(
    "case", [Case("cs"), Case("signin", head="gmp")], ids=["cs", "two parts"]
)
def test_pickled_models_go_on(case: Case) -> None:
    check(case, ["MOBS", "MBOS", "MBSO"], pickled=True)


def trained(
    case: Case, steps: int
) -> tuple[nn.Module, list[Optimizer], sparsify_fx.Scheduler]:
    model, optimizers = case.start()
    scheduler = case.schedule(model, optimizers)
    for _ in itertools.islice(train(model, optimizers, scheduler), steps):
        pass
    return model, optimizers, scheduler


@pytest.mark.parametrize("order", ["MOB", "BMO", "OBM"])
@pytest.mark.parametrize("method", ["signin", "lrr", "gmp"])
def test_weights_without_the_state_of_the_scheduler_do_not_train(
    method: str, order: str
) -> None:
    case = Case(method)
    states = saved(*trained(case, 5))
    model, optimizers, scheduler = resume(case, states, order)
    assert differences(model.state_dict(), states["model"]) == []
    message = (
        rf"those after 5 of {scheduler.steps} optimizer steps, "
        r"the Scheduler is at step 0: load .* start_over=True"
    )
    with pytest.raises(SchedulerError, match=message):
        next(train(model, optimizers, scheduler))


@pytest.mark.parametrize("order", ["MOBS", "BMOS", "SBMO"])
def test_a_state_of_the_scheduler_without_the_weights_does_not_train(
    order: str,
) -> None:
    case = Case("gmp")
    training = resume(
        case, saved(*trained(case, 4)), [what for what in "OBS" if what in order]
    )
    with pytest.raises(
        SchedulerError,
        match="those after 0 of 6 optimizer steps, the Scheduler is at step 4",
    ):
        next(train(*training))


def test_start_over_begins_anew_from_unfinished_weights() -> None:
    case = Case(
        "random", {"actions": {"name": "perturb-signs", "fraction": 1.0, "run": 0}}
    )
    model, optimizers, _ = trained(case, 4)
    before = model[7].weight.detach().clone()
    scheduler = sparsify_fx.Scheduler(
        model, optimizers[0], epochs=3, steps_per_epoch=PER_EPOCH, start_over=True
    )
    assert torch.equal(model[7].weight, -before), "the events of step 0"
    assert list(train(model, optimizers, scheduler)) == [1, 2, 3, 4, 5, 6]


def test_finished_weights_begin_another_training() -> None:
    case = Case(
        "random", {"actions": {"name": "perturb-signs", "fraction": 1.0, "run": 0}}
    )
    model, optimizers, scheduler = trained(case, 6)
    assert scheduler.finished
    state, before = scheduler.state_dict(), model[7].weight.detach().clone()
    again = case.schedule(model, optimizers)
    assert torch.equal(model[7].weight, -before), "the events of step 0"
    assert list(train(model, optimizers, again)) == [1, 2, 3, 4, 5, 6]
    # The state of a training that ended does not bring back weights that trained on since.
    weights = model[7].weight.detach().clone()
    again.load_state_dict(state)
    assert torch.equal(model[7].weight, weights)


def test_weights_of_another_schedule_begin_anew() -> None:
    states = saved(*trained(Case("gmp", epochs=5), 4))
    case = Case("gmp")
    training = resume(case, states, "MOB")
    assert list(train(*training)) == [1, 2, 3, 4, 5, 6]
    training = resume(case, states, "BMO")
    with pytest.raises(SchedulerError, match=r"after 4 of 6 optimizer steps"):
        next(train(*training))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda state: state.pop("rates"),
            "no state of a Scheduler: it holds step, fingerprint, strengths",
        ),
        (lambda state: state.update(step=77), "at step 77 of 6"),
        (
            lambda state: state["fingerprint"].update(sparsity=0.5),
            "sparsity: saved 0.5, here 0.36",
        ),
        (
            lambda state: state["rates"].update(base=[0.1, 0.1]),
            "2 parameter groups, SGD has 1; add the others first",
        ),
        (
            lambda state: state.update(rates={"each": []}),
            "rates of 0 optimizers, this one sets those of 1",
        ),
    ],
)
def test_states_that_do_not_fit_change_nothing(
    break_it: Callable[[Any], Any], message: str
) -> None:
    case = Case("gmp")
    states = saved(*trained(case, 4))
    training = resume(case, states, "BMO")
    before = everything(*training)
    break_it(states["scheduler"])
    with pytest.raises(SchedulerError, match=message):
        training[2].load_state_dict(states["scheduler"])
    assert differences(everything(*training), before) == []


class Halving:
    """A curve of the user's own, without a repr: its text has an address that is new in every process."""

    def factor(self, epoch: float, epochs: float) -> float:
        return 0.5**epoch

    def warmup_epochs(self, epochs: float) -> float:
        return 0.0


def test_a_curve_of_ones_own_resumes() -> None:
    old = Case("signin", learning_rate=Halving())
    states = saved(*trained(old, 3))
    training = resume(Case("signin", learning_rate=Halving()), states, "MBOS")
    assert differences(saved(*training), states) == []


def without_bias(model: nn.Module) -> list[Optimizer]:
    return [
        torch.optim.SGD(
            [p for p in model.parameters() if p is not model[7].bias],
            lr=0.1,
            momentum=0.9,
        )
    ]


def add_bias(training: Sequence[Any]) -> None:
    training[0][7].bias.grad = None
    training[1][0].add_param_group({"params": [training[0][7].bias], "lr": 0.02})


@pytest.mark.cross_section("curve")
@pytest.mark.parametrize(
    "rate",
    [CosineWarmup(1), sequence, one_cycle, None],
    ids=["curve", "torch", "cycle", "none"],
)
def test_a_group_that_is_added_later_follows_and_resumes(rate: Any) -> None:
    case = Case("lrr" if rate else "gmp", optimizers=without_bias, learning_rate=rate)
    whole = [*case.start(), None]
    whole[2] = case.schedule(*whole[:2])
    states, rates = {}, {}
    for step in train(*whole):
        if step == 2:
            add_bias(whole)
        states[step] = saved(*whole)
        rates[step] = [float(group["lr"]) for group in whole[1][0].param_groups]
    if rate not in (None, one_cycle):  # one_cycle names its peak itself
        assert all(
            rates[step][1] == pytest.approx(rates[step][0] / 5)
            for step in rates
            if step > 2
        )
    if rate is not None:
        assert [rates[step] for step in range(7, 12)] == [
            rates[step] for step in range(13, 18)
        ]
    for point, order in itertools.product((2, 3, 4, 5), ("MOBS", "BSOM", "BOSM")):
        training = [*case.start(), None]
        add_bias(training)
        for what in order:
            if what == "M":
                training[0].load_state_dict(states[point]["model"])
            elif what == "O":
                training[1][0].load_state_dict(
                    copy.deepcopy(states[point]["optimizers"][0])
                )
            elif what == "B":
                training[2] = case.schedule(*training[:2])
            else:
                training[2].load_state_dict(copy.deepcopy(states[point]["scheduler"]))
        for _ in train(*training):
            pass
        assert differences(everything(*training), everything(*whole)) == [], (
            f"{order} after {point} steps"
        )


def test_a_recorded_state_comes_back_on_the_device_of_its_parameter() -> None:
    # Checkpoints are often loaded on the CPU. The meta device stands for a GPU: what would be copied there is empty.
    recorded = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([recorded])
    recorded.grad = torch.ones(2)
    optimizer.step()
    record = take_optimizer_state([optimizer], {recorded})
    parameter = nn.Parameter(torch.ones(2, device="meta"))
    fresh = torch.optim.AdamW([parameter])
    restore_optimizer_state([fresh], {parameter}, record)
    devices = {key: value.device.type for key, value in fresh.state[parameter].items()}
    assert devices == {"step": "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}
