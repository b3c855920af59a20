"""`pretrained:` starts a run from trained weights, which the first pruning sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.utils import prune

from sparsify_fx.checkpoints.run_files import read_state
from sparsify_fx.errors import CheckpointError
from sparsify_fx.train.data import open_data
from sparsify_fx.train.session import build_session, fresh_model
from tests.train.common import quietly, small, write_images


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images.npz")


def pruned_file(data: Path, path: Path, amount: float = 0.8) -> Path:
    """A state dict of somebody else, with the masks of torch.nn.utils.prune beside the weights."""
    config = small(data).resolved()
    model = fresh_model(config, open_data(config))
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            prune.l1_unstructured(module, "weight", amount=amount)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    return path


def test_keep_zeros_trains_a_pruned_file_and_keeps_its_zeros(
    data: Path, tmp_path: Path
) -> None:
    file = pruned_file(data, tmp_path / "pruned.pt")
    config = small(data, "method=keep-zeros", f"pretrained={file}")
    result = quietly(config, tmp_path / "runs")
    state = torch.load(file, weights_only=True)["state_dict"]
    found = read_state(result.path)
    for name, mask in state.items():
        if name.endswith("_mask"):
            weight = found[name.removesuffix("_mask")]
            assert torch.equal(weight == 0, mask == 0), name
    # A folder of ours is as good as a file.
    again = small(data, "method=magnitude", f"pretrained={result.path}")
    model = build_session(again).model
    merged = read_state(result.path)
    bias = next(name for name in merged if name.endswith("bias"))
    assert torch.equal(model.state_dict()[bias], merged[bias])


def test_the_name_of_a_run_follows_the_content_of_the_file(
    data: Path, tmp_path: Path
) -> None:
    plain = small(data)
    first = small(data, f"pretrained={pruned_file(data, tmp_path / 'a.pt')}")
    same = small(data, f"pretrained={pruned_file(data, tmp_path / 'b.pt')}")
    other = small(data, f"pretrained={pruned_file(data, tmp_path / 'c.pt', 0.5)}")
    assert first.hash() == same.hash()
    assert len({plain.hash(), first.hash(), other.hash()}) == 3


def test_what_does_not_fit_is_told(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no checkpoint")
    strange, other = tmp_path / "strange.pt", tmp_path / "other.pt"
    torch.save([1, 2], strange)
    torch.save({"fc.weight": torch.ones(2, 2)}, other)
    for path, message in (
        (broken, "cannot be read"),
        (tmp_path / "absent.pt", "cannot be read"),
        (strange, "holds list and no state dict"),
        (other, "does not fit this model"),
    ):
        with pytest.raises(CheckpointError, match=message):
            build_session(small(data, f"pretrained={path}"))
