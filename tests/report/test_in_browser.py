"""The page of a report in Chromium: no complaint, no request, nothing beyond a telephone's width."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsify_fx.report import report
from tests.browser import chromium

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def test_a_report_reads_well_at_two_widths_in_light_and_dark(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    report([runs["signin"], runs["unfinished"]], page, sizes=False)
    with chromium() as browser:
        for width, scheme in ((1280, "light"), (390, "dark")):
            seen = browser.open(page, width, scheme)
            assert (seen.complaints, seen.asked, seen.overflow) == ([], [], 0)
