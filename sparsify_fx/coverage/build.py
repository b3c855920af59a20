"""A model and the smallest inputs that it takes; weights are random, nothing is downloaded."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from sparsify_fx.coverage.suites import Subject

BATCH = 2
# Growing: the smallest input that a model takes is the cheapest to check it on, and some need more than others.
_SIDES = (64, 56, 96, 128, 224, 299)
# (frames, side) of clips, growing as well.
_CLIPS = ((8, 48), (16, 64), (16, 112), (16, 224))


@dataclass(frozen=True)
class Trial:
    """A model, and inputs that it may or may not take.

    Attributes:
        build: the same model with the same random weights each time, in training mode.
        inputs: the arguments of its forward.
        training: the arguments in training mode, where they differ (detection: with targets).
        as_list: the forward takes a list of images instead of a batch.
        shape: the shape of the first input, for the table.
    """

    build: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    training: tuple[Any, ...]
    shape: str
    as_list: bool = False


def seed_everything(seed: int) -> None:
    """Seed all three generators that models draw from: torch's, NumPy's and Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def trials(subject: Subject) -> Iterator[Trial]:
    """The model with inputs of growing size; the first that it takes is the one to use."""
    if subject.suite == "timm":
        yield from _timm_trials(subject.name)
    else:
        yield from _torchvision_trials(subject)


def _seeded(
    build: Callable[..., nn.Module], *args: Any, **options: Any
) -> Callable[[], nn.Module]:
    """A builder that gives the same weights each time, so that a model can be built again instead of copied."""

    def model() -> nn.Module:
        seed_everything(0)
        return _awake(build(*args, **options))

    return model


@torch.no_grad()
def _awake(model: nn.Module) -> nn.Module:
    """Add noise of 0.1 to every parameter that is constant.

    Heads of zeros, gains of 0 and layer scales of 1e-6 would hide what comes before them from a comparison of outputs.
    """
    for parameter in model.parameters():
        if parameter.numel() > 0 and bool((parameter == parameter.flatten()[0]).all()):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def _noise(*shape: int) -> Tensor:
    """Normal noise, the same for the same shape whatever was drawn before."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _trial(build: Callable[[], nn.Module], *inputs: Tensor) -> Trial:
    """A trial whose model takes the same tensors in training and in evaluation."""
    return Trial(build, inputs, inputs, "x".join(map(str, inputs[0].shape)))


def _timm_trials(name: str) -> Iterator[Trial]:
    import timm

    config = timm.get_pretrained_cfg(name)
    channels, height, width = (3, 224, 224) if config is None else config.input_size
    fixed = config is not None and config.fixed_input_size
    build = _seeded(timm.create_model, name, pretrained=False)
    # Models of a fixed size, transformers above all, refuse every other one; the others get smaller images first.
    for side in () if fixed else (64, 96, 128, 160):
        if side < min(height, width):
            yield _trial(build, _noise(BATCH, channels, side, side))
    yield _trial(build, _noise(BATCH, channels, height, width))


def _torchvision_trials(subject: Subject) -> Iterator[Trial]:
    from torchvision import models

    builder = models.get_model_builder(subject.name)
    kinds: dict[str, Callable[[Any], Iterator[Trial]]] = {
        "classification": _classifiers,
        "segmentation": _segmenters,
        "detection": _detectors,
        "video": _videos,
        "optical flow": _flows,
        "quantizable": _quantizables,
    }
    yield from kinds[subject.group](builder)


def _classifiers(builder: Any) -> Iterator[Trial]:
    from torchvision import models

    for side in _SIDES:
        # By the class that the builder says it returns. The two Inceptions warn unless they are told how to begin.
        options: dict[type, dict[str, Any]] = {
            models.VisionTransformer: {"image_size": side},
            models.MaxVit: {"input_size": (side, side)},
            models.GoogLeNet: {"init_weights": True},
            models.Inception3: {"init_weights": True},
        }
        chosen = options.get(get_type_hints(builder)["return"], {})
        yield _trial(
            _seeded(builder, weights=None, **chosen), _noise(BATCH, 3, side, side)
        )


def _quantizables(builder: Any) -> Iterator[Trial]:
    # Unquantized: in int8 there are no float weights to prune.
    for side in _SIDES:
        yield _trial(
            _seeded(builder, weights=None, quantize=False), _noise(BATCH, 3, side, side)
        )


def _segmenters(builder: Any) -> Iterator[Trial]:
    from torchvision.models.segmentation import LRASPP

    # With the auxiliary head, whose layers would otherwise not be there to be checked; LRASPP has none.
    head = {} if get_type_hints(builder)["return"] is LRASPP else {"aux_loss": True}
    yield _trial(
        _seeded(builder, weights=None, weights_backbone=None, **head),
        _noise(BATCH, 3, 64, 64),
    )


def _videos(builder: Any) -> Iterator[Trial]:
    for frames, side in _CLIPS:
        yield _trial(
            _seeded(builder, weights=None), _noise(BATCH, 3, frames, side, side)
        )


def _flows(builder: Any) -> Iterator[Trial]:
    # RAFT wants two frames in [-1, 1], of at least 128 pixels: it looks for matches on an eighth of the resolution.
    first, second = _noise(2 * BATCH, 3, 128, 128).tanh().chunk(2)
    yield _trial(_seeded(builder, weights=None), first, second)


def _detectors(builder: Any) -> Iterator[Trial]:
    """Small images, few proposals; and no threshold on scores, for random weights would detect nothing at all."""
    from torchvision.models import detection

    side = 128
    images = list(_noise(BATCH, 3, side, side).sigmoid())
    small = {"min_size": side, "max_size": side}
    proposals = {
        "rpn_post_nms_top_n_train": 40,
        "rpn_post_nms_top_n_test": 40,
        "box_batch_size_per_image": 20,
    }
    boxes = small | proposals | {"box_score_thresh": 0.0, "box_detections_per_img": 10}
    anchors = small | {"score_thresh": 0.0, "detections_per_img": 10}
    options: dict[type, dict[str, Any]] = {
        detection.FasterRCNN: boxes,
        detection.MaskRCNN: boxes,
        detection.KeypointRCNN: boxes,
        detection.RetinaNet: anchors,
        detection.FCOS: anchors,
    }
    # SSD and SSDlite have a fixed size of their own.
    kind = get_type_hints(builder)["return"]
    chosen = options.get(kind, {"score_thresh": 0.0, "detections_per_img": 10})
    build = _seeded(builder, weights=None, weights_backbone=None, **chosen)
    targets = [_target(side) for _ in images]
    yield Trial(
        build, (images,), (images, targets), f"{BATCH} of 3x{side}x{side}", as_list=True
    )


def _target(side: int) -> dict[str, Tensor]:
    """Two objects, with masks and 17 visible keypoints each."""
    boxes = torch.tensor([[8.0, 8.0, 72.0, 72.0], [40.0, 24.0, 120.0, 104.0]])
    masks = torch.zeros(2, side, side, dtype=torch.uint8)
    masks[:, 24:72, 40:72] = 1
    keypoints = torch.ones(2, 17, 3)
    keypoints[..., :2] = 40 + 1.5 * torch.arange(17.0)[:, None]
    return {
        "boxes": boxes,
        "labels": torch.tensor([1, 1]),
        "masks": masks,
        "keypoints": keypoints,
    }
