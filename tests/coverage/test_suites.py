"""The suites hold what they promise."""

from __future__ import annotations

import timm
import torchvision

from sparsify_fx.coverage.suites import shard, subjects
from sparsify_fx.coverage.timm_sizes import count_on_meta, parameters_of


def test_torchvision_has_every_name() -> None:
    found = subjects("torchvision")
    assert sorted(subject.name for subject in found) == sorted(
        torchvision.models.list_models()
    )
    assert {s.group for s in found} >= {
        "classification",
        "segmentation",
        "detection",
        "video",
        "optical flow",
    }


def test_timm_has_one_model_of_every_module_the_smallest() -> None:
    found = {subject.group: subject for subject in subjects("timm")}
    with_models = [
        module for module in timm.list_modules() if timm.list_models(module=module)
    ]
    assert sorted(found) == sorted(with_models)
    for module in ("vision_transformer", "sequencer", "regnet"):
        real = [
            name
            for name in timm.list_models(module=module)
            if not name.startswith("test_")
        ]
        assert found[module].parameters == min(parameters_of(name) for name in real)


def test_all_of_timm_means_every_name() -> None:
    assert {subject.name for subject in subjects("timm", every=True)} == set(
        timm.list_models()
    )


def test_the_table_of_sizes_is_true() -> None:
    for name in ("convnext_atto", "sequencer2d_s", "test_vit", "mobileone_s0"):
        assert parameters_of(name) == count_on_meta(name)


def test_shards_divide_the_models_without_loss() -> None:
    found = subjects("timm")
    parts = [shard(found, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(s.name for part in parts for s in part) == sorted(
        s.name for s in found
    )
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
