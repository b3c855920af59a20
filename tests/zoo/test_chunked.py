"""Data in LitData's chunks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data import Chunked, DatasetSource
from sparsify_fx.zoo.data.batching import block_order
from sparsify_fx.zoo.data.loader import Loading
from tests.zoo.common import same

WRITE = """
import sys
import numpy as np
import litdata

def item(index):
    return {"image": np.full((3, 8, 8), index, np.uint8), "label": index % 4}

if __name__ == "__main__":
    litdata.optimize(
        item, list(range(100)), sys.argv[1], num_workers=1, chunk_size=8
    )
"""


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 images in chunks of 8, written by LitData in a process of its own."""
    folder = tmp_path_factory.mktemp("chunks")
    (folder / "write.py").write_text(WRITE)
    command = [sys.executable, "write.py", str(folder / "train")]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "train"


def test_an_epoch_opens_few_blocks_at_a_time() -> None:
    blocks = [5] * 40
    order = block_order(blocks, seed=1, epoch=2)
    assert sorted(order.tolist()) == list(range(200))
    for first in range(0, 200, 40):
        assert len(set((order[first : first + 40] // 5).tolist())) == 8
    assert torch.equal(order, block_order(blocks, seed=1, epoch=2))
    assert not torch.equal(order, block_order(blocks, seed=1, epoch=3))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_chunks_give_the_same_bits_with_any_workers(chunks: Path) -> None:
    data = Chunked(str(chunks), classes="abcd", transform=torch.as_tensor)
    assert (len(data), data.blocks) == (100, (8,) * 12 + (4,))

    def epoch(workers: int, start: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
        source = DatasetSource(data, torch.device("cpu"), Loading(workers))
        return list(source.epoch(10, train=True, seed=3, epoch=1, start=start))

    whole = epoch(0)
    assert sorted(
        torch.cat([x[:, 0, 0, 0] * 255 for x, _ in whole]).round().tolist()
    ) == list(range(100))
    assert all(torch.equal((x[:, 0, 0, 0] * 255).round() % 4, y) for x, y in whole)
    assert same(whole, epoch(1))
    assert same(whole[4:], epoch(2, 4))


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_chunks_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as chunks of LitData"):
        Chunked(str(tmp_path), classes="ab")
