"""Models that are hard to rewrite pass every check of `sparsify-fx coverage`, each in its own process.

Some run always; `pytest -m sweep` has the others.

The largest come first, so that no core idles while the last one is examined.

What makes them hard: attention that reads weights past their owner (vit, beit, dinov3), weights read many times per
forward (coat, raft, maskrcnn), recurrent layers (sequencer), standardized weights (nf_regnet, eca_nfnet), branches that
are merged for inference (mobileone), auxiliary heads (inception), mixtures of kernels (efficientnet_cc), loose matrices
beside the layers (swiftformer, xcit), deep nets in which rounding grows (densenet, dpn).
"""

from __future__ import annotations

import pytest

from sparsify_fx.coverage.checks import CHECKS
from sparsify_fx.coverage.process import Limits, examine_apart
from sparsify_fx.coverage.results import ModelResult
from sparsify_fx.coverage.suites import Subject, subjects
from tests.common import SWEEP

pytestmark = pytest.mark.slow

HARD = {
    "torchvision": (
        *(
            "convnext_tiny",
            "densenet121",
            "googlenet",
            "inception_v3",
            "maskrcnn_resnet50_fpn",
            "r3d_18",
            "raft_small",
        ),
        *("ssdlite320_mobilenet_v3_large", "swin_v2_t", "vit_b_32"),
    ),
    "timm": (
        *(
            "beit_base_patch16_224",
            "coat_tiny",
            "deit_small_patch16_224",
            "dpn48b",
            "eca_nfnet_l0",
            "efficientvit_m0",
        ),
        *(
            "eva02_tiny_patch14_224",
            "gcvit_xxtiny",
            "halonet26t",
            "levit_128s",
            "mobileone_s0",
            "mobilevit_xxs",
        ),
        *(
            "nf_regnet_b0",
            "sequencer2d_s",
            "swiftformer_xs",
            "tf_efficientnet_cc_b0_4e",
            "tiny_vit_5m_224",
        ),
        *("visformer_tiny", "vit_small_patch16_dinov3", "xcit_nano_12_p16_224"),
    ),
}
# Each is hard in a way of its own; `pytest -m sweep` has all.
ALWAYS = (
    *("convnext_tiny", "densenet121", "eva02_tiny_patch14_224", "levit_128s"),
    *("raft_small", "ssdlite320_mobilenet_v3_large", "visformer_tiny"),
    "xcit_nano_12_p16_224",
)
EXPORTED = (
    "efficientvit_m0",
    "mobilevit_xxs",
    "nf_regnet_b0",
    "sequencer2d_s",
    "swiftformer_xs",
)
CHOSEN = [
    subject for suite, names in HARD.items() for subject in subjects(suite, names=names)
]
LARGEST_FIRST = sorted(CHOSEN, key=lambda subject: -subject.parameters)


def examine(subject: Subject) -> ModelResult:
    checks = [name for name in CHECKS if name != "onnx" or subject.name in EXPORTED]
    return examine_apart(subject, checks, Limits(seconds=150))


@pytest.mark.cross_section("ssdlite320_mobilenet_v3_large")
@pytest.mark.parametrize(
    "subject",
    [
        pytest.param(subject, marks=() if subject.name in ALWAYS else SWEEP)
        for subject in LARGEST_FIRST
    ],
    ids=lambda subject: subject.name,
)
def test_a_hard_model_passes_every_check(subject: Subject) -> None:
    result = examine(subject)
    assert result.failures() == {}
    assert len(result.checks) == len(CHECKS) - (subject.name not in EXPORTED)
    assert result.weights > 0
    assert all(outcome.state == "passed" for outcome in result.checks.values())


def test_the_slice_is_large_enough() -> None:
    assert len(CHOSEN) >= 25
