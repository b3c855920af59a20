"""A communication hook for DistributedDataParallel that sends one gradient for the two factors of a product."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future

from sparsify_fx.distributed.replicas import group
from sparsify_fx.errors import DistributedError
from sparsify_fx.parameterizations import Product
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import WeightProgram

if TYPE_CHECKING:
    from torch._C._distributed_c10d import GradBucket

# Of the largest entry: what rounding in the gradients' own dtype can make of one that is the same on paper.
_ROUNDING = 64


def living_hook(state: nn.Module, bucket: GradBucket) -> Future[Tensor]:
    """Average gradients over the ranks; of a weight m ⊙ w that of the weight itself, in place of those of m and w.

    With g the gradient in the weight, g_m = g w and g_w = g m. So g = g_w / m where m is the larger in size, else
    g_m / w; g is averaged, and g_m and g_w are made of it anew. Half of the traffic of Sign-In goes, and the training
    is the same to rounding. Other parameters are averaged as they are, and so are products with a penalty, which adds
    to the gradients of each factor.

    Args:
        state: the model that is wrapped, as `sparsify_fx.apply` gave it back.
        bucket: some of its gradients, from DistributedDataParallel.

    Raises DistributedError at the first step when the gradients of m and w are not those of one weight: a term of the
    loss depends on the factors themselves.

        wrapped = DistributedDataParallel(model)
        wrapped.register_comm_hook(model, sparsify_fx.distributed.living_hook)
    """
    trip = _TRIPS.get(state)
    if trip is None:
        trip = _TRIPS[state] = _Trip(_products(state))
    return trip.send(bucket)


# DistributedDataParallel compares them with its classes, and these are texts.
living_hook.__annotations__.clear()


@dataclass
class _Bucket:
    """A bucket on its way; its future is there when all that is in it has been averaged."""

    buffer: Tensor
    future: Any  # a torch Future, whose annotations know no exceptions
    left: int = 1
    lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self) -> None:
        with self.lock:
            self.left += 1

    def arrived(self) -> None:
        with self.lock:
            self.left -= 1
            ready = self.left == 0
        if ready:
            self.future.set_result(self.buffer)

    def failed(self, error: Exception) -> None:
        with self.lock:
            self.left = -1
        if not self.future.done():
            self.future.set_exception(error)


@dataclass
class _Half:
    """The gradient of one factor, which waits for that of the other: they may be in different buckets."""

    factor: str
    gradient: Tensor
    bucket: _Bucket


# What is sent, and what is done with the average.
_Part = tuple[Tensor, Callable[[Tensor], Any]]


@dataclass
class _Trip:
    """The buckets of one model, step after step.

    Attributes:
        products: the program and the factor's name, by the id of the parameter.
        waiting: factors whose partner is in a later bucket, by the id of the program.
    """

    products: dict[int, tuple[WeightProgram, str]]
    waiting: dict[int, _Half] = field(default_factory=dict)
    steps: int = 0

    def send(self, bucket: GradBucket) -> Future[Tensor]:
        # Buckets come in their order; what still waits at the first is of a backward pass that failed.
        if bucket.index() == 0:
            self.waiting.clear()
            self.steps += 1
        buffer = bucket.buffer()
        devices: list[Any] = [buffer.device] if buffer.device.type != "cpu" else []
        own = _Bucket(buffer, Future(devices=devices))
        # 1. What is to be sent: gradients as they are, and one for each product of which both are there by now.
        touched, parts = [own], list[_Part]()
        for parameter, gradient in zip(
            bucket.parameters(), bucket.gradients(), strict=True
        ):
            found = self.products.get(id(parameter))
            if found is None:
                parts.append((gradient, gradient.copy_))
                continue
            program, factor = found
            half = _Half(factor, gradient, own)
            other = self.waiting.pop(id(program), None)
            if other is None:
                own.expect()
                self.waiting[id(program)] = half
                continue
            parts.append(self._joined(program, {factor: half, other.factor: other}))
            touched.append(other.bucket)
        # 2. All of it in one message; then each average goes where it belongs.
        _average(parts, touched)
        future: Future[Tensor] = own.future
        return future

    def _joined(self, program: WeightProgram, halves: dict[str, _Half]) -> _Part:
        m, w = program.get_parameter("m").detach(), program.get_parameter("w").detach()
        of_m, of_w = halves["m"].gradient, halves["w"].gradient
        if self.steps == 1:
            _check(m * of_m, w * of_w)
        larger = m.abs() >= w.abs()
        made = torch.where(larger, of_w, of_m) / torch.where(larger, m, w)
        # Where both factors are zero, nothing reaches either.
        made = torch.where((m == 0) & (w == 0), torch.zeros_like(made), made)

        def back(average: Tensor) -> None:
            torch.mul(average, w, out=of_m)
            torch.mul(average, m, out=of_w)

        return made, back


_TRIPS: WeakKeyDictionary[nn.Module, _Trip] = WeakKeyDictionary()


def _average(parts: list[_Part], touched: list[_Bucket]) -> None:
    """Send the parts and write their averages back; then tell each bucket that something of it has arrived."""
    if not parts:
        touched[0].arrived()
        return
    ranks = group() or dist.group.WORLD
    message = torch.cat([tensor.reshape(-1) for tensor, _ in parts])
    # Before the sum and not after it, as torch does: a sum of halves does not overflow.
    message /= dist.get_world_size(ranks)

    def arrived(done: Future[list[Tensor]]) -> None:
        try:
            # Raises what went wrong on the way.
            done.value()
            with torch.no_grad():
                at = 0
                for tensor, back in parts:
                    part = message[at : at + tensor.numel()]
                    back(part.view_as(tensor))
                    at += tensor.numel()
        except Exception as error:
            # Of a thread that nobody waits for: DistributedDataParallel waits for the futures.
            for bucket in touched:
                bucket.failed(error)
            return
        for bucket in touched:
            bucket.arrived()

    work = dist.all_reduce(message, group=ranks, async_op=True)
    assert work is not None
    work.get_future().then(arrived)


def _check(one: Tensor, other: Tensor) -> None:
    """g_m m = g w m = g_w w, or the loss has a term of the factors themselves."""
    size = float(torch.maximum(one.abs(), other.abs()).max()) if one.numel() else 0.0
    gap = float((one - other).abs().max()) if one.numel() else 0.0
    # A scaled loss may overflow, and then the scaler leaves the step out.
    if size < float("inf") and gap > _ROUNDING * torch.finfo(one.dtype).eps * size:
        raise DistributedError(
            f"the gradients of m and w of one weight differ by {gap / size:.1e} from what one gradient of the weight "
            "makes of them: the loss has a term of the factors themselves, which living_hook would change; add it as "
            "apply(..., penalty=...), or train without the hook"
        )


def has_products(model: nn.Module) -> bool:
    """Whether the model has products whose gradients `living_hook` would join."""
    return bool(_products(model))


def _products(model: nn.Module) -> dict[int, tuple[WeightProgram, str]]:
    """The factors of products whose gradients are those of the weight alone, and both of which are trained."""
    found: dict[int, tuple[WeightProgram, str]] = {}
    for program in programs(model).values():
        axes = None if program.plan is None else program.plan.axes
        plain = axes is None or axes.to_dict()["penalty"] == "none"
        factors = program.factor_tensors()
        if (
            isinstance(program.parameterization, Product)
            and plain
            and all(factor.requires_grad for factor in factors.values())
        ):
            found |= {id(tensor): (program, name) for name, tensor in factors.items()}
    return found
