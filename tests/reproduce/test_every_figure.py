"""Every figure that is trained, at `tiny` but with made-up images: trained, measured, compared, drawn and written."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

from sparsify_fx.figures import look
from sparsify_fx.reproduce import Figure, figures, reproduced
from sparsify_fx.reproduce.plans import check_data, write_sweep
from sparsify_fx.sweeps import load_sweep, trials_of
from sparsify_fx.sweeps.driver import Sweep, run_sweep
from sparsify_fx.sweeps.ledger import ledger_path
from sparsify_fx.sweeps.records import read_records
from sparsify_fx.sweeps.trial import Job, Outcome, run_job
from tests.train.common import write_images

TRAINED = {f"{f.key}-{f.name}": f for f in figures() if f.kind == "sweep"}


class Here:
    """Trains in this process: starting one for each of these trials would take longer than they do."""

    def submit(self, job: Job) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(run_job(job))
        return future


@pytest.mark.slow
@pytest.mark.cross_section("gadhikar2024-fig7-cd", "gadhikar2025-fig9")
@pytest.mark.parametrize("figure", TRAINED.values(), ids=TRAINED)
def test_every_sweep(
    figure: Figure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1. The sweep of `tiny`, with a hundred images in place of the digits.
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "mine.npz", side=28)
    changes = ["data=npz:mine.npz", "batch_size=4", "device=cpu"]
    path = write_sweep(figure, "tiny", tmp_path, changes)
    trials = trials_of(load_sweep(path))
    check_data(figure, trials)

    # 2. Trained: every trial, none failed.
    (tmp_path / "runs").mkdir()
    sweep = Sweep(trials, ledger_path(tmp_path / "runs", path), retries=0)
    run_sweep(sweep, Here())
    failed = {n: e.error for n, e in sweep.entries.items() if e.state != "finished"}
    assert failed == {}

    # 3. Read, compared and drawn.
    records = read_records([path], tmp_path / "runs")
    done = reproduced(figure, "tiny", records=records, out=tmp_path)
    assert {point.panel for point in done.ours}.isdisjoint({"mnist5k-lenet5-bn"})
    labels = {point.series for point in done.ours}
    for claim, verdict in zip(figure.claims, done.agreement.verdicts, strict=True):
        assert {claim.more, claim.than} <= labels
        # The one sparsity of this test may lie below that of a claim.
        assert verdict.holds is not None or claim.least > 0.36
    assert len(done.write(tmp_path / "out", look(("png",), 60, None))) == 4
