"""What `benchmarks.channel_speed` measures: ResNet-50 with fewer channels, and with scattered zeros in what is left."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

import sparsify_fx
from sparsify_fx.budgets.counting import count_multiply_adds

# Where real images are loaded; it is a script, whose folder Python looks in.
sys.path.insert(0, str(Path(__file__).parent))
from pruned_models import real_images

SIDE, ZEROS = 224, 0.9
DENSE = "dense"


@dataclass(frozen=True)
class Case:
    """A model: the multiply-adds that are left, how channels were chosen, whether nine of ten weights left are zero.

    `wanted` times as fast as `beside` is the aim; 0: none.
    """

    share: float
    granularity: str
    zeros: bool = False
    wanted: float = 0.0
    beside: str = DENSE

    @property
    def name(self) -> str:
        if self.share == 1:
            return f"{DENSE}, 90 % zeros" if self.zeros else DENSE
        multiple = self.granularity.partition(":")[2]
        said = f"{self.share:g} of the MACs"
        said += {"": "", "1": ", any number"}.get(
            multiple, f", multiples of {multiple}"
        )
        return f"{said}, 90 % zeros" if self.zeros else said

    @property
    def stem(self) -> str:
        """The name of its files, without an ending."""
        parts = (f"{self.share:g}", self.granularity, "zeros" if self.zeros else "")
        return "-".join(part.replace(":", "") for part in parts if part)


def cases() -> tuple[Case, ...]:
    """Dense ones first: the others are compared with them."""
    found = [Case(1, ""), Case(1, "", zeros=True)]
    for share, wanted in ((0.5, 1.8), (0.25, 3.2)):
        for granularity in ("channel", "channel:1", "channel:8", "channel:16"):
            found.append(Case(share, granularity, wanted=wanted))
        plain = Case(share, "channel:8")
        found.append(Case(share, "channel:8", True, 2.0, plain.name))
    return tuple(found)


def images(count: int) -> Tensor:
    """Real images of this size."""
    return real_images("mnist5k", SIDE, count)


def dense_model() -> nn.Module:
    """Random weights, running statistics of real images, evaluation mode."""
    torch.manual_seed(0)
    model = resnet50(weights=None)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain average of what it sees
    with torch.no_grad():
        model.train()(images(4))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def made(case: Case, dense: nn.Module) -> nn.Module:
    """The model of a case, out of the dense one, which stays as it is."""
    model, one = copy.deepcopy(dense), images(1)
    if case.share < 1:
        sparsify_fx.apply(
            model,
            "magnitude",
            sparsity=1 - case.share,
            budget="macs",
            granularity=case.granularity,
            allocation="uniform",
            schedule="at-init",
            example_inputs=one,
        )
        sparsify_fx.shrink(sparsify_fx.merge(model), one)
    if case.zeros:
        sparsify_fx.apply(
            model, "magnitude", sparsity=ZEROS, allocation="uniform", schedule="at-init"
        )
        sparsify_fx.merge(model)
    return model.eval()


def write_case(case: Case, dense: nn.Module, folder: Path) -> None:
    """`STEM.onnx` and `STEM.pt`, the module itself; what is there already is not made again."""
    file = folder / f"{case.stem}.onnx"
    if file.exists():
        return
    model = made(case, dense)
    torch.save(model, folder / f"{case.stem}.pt")
    options = {"target": "sparse-ort"} if case.zeros else {"encoding": "dense"}
    sparsify_fx.export(model, file, images(1), **options)


def facts(case: Case, folder: Path) -> dict[str, float]:
    """Multiply-adds for an image, parameters, and bytes of the ONNX file."""
    model = torch.load(folder / f"{case.stem}.pt", weights_only=False)
    return {
        "multiply_adds": count_multiply_adds(model, ((images(1),), {})).total,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": (folder / f"{case.stem}.onnx").stat().st_size,
    }
