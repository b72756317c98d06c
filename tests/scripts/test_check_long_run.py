"""`scripts/checks/long_run.py`: each of its bars can be missed."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("nerfstudio")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "checks"))
from long_run import MOST_FRAMES, MOST_SPLATS, Row, faults_of

CURVE = [Row(step, 5000, 60, 900.0, 20 + step / 100) for step in range(100, 501, 100)]


def test_a_run_that_keeps_all_bars():
    assert faults_of([*CURVE[:-1], replace(CURVE[-1], psnr=CURVE[-2].psnr - 0.29, gaussians=5499, rss=963.0)]) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"psnr": CURVE[-2].psnr - 0.31}, "0.31 dB below the best"),
        ({"psnr": math.nan}, "below the best"),
        ({"pool": MOST_FRAMES + 1}, "beyond the bounds"),
        ({"gaussians": MOST_SPLATS + 1}, "beyond the bounds"),
        ({"gaussians": 5501}, "Gaussians grew from 5,000"),
        ({"rss": 965.0}, "memory grew from 900 MiB"),
    ],
)
def test_a_missed_bar_is_told(change, fault):
    faults = faults_of([*CURVE[:-1], replace(CURVE[-1], **change)])
    assert any(fault in text for text in faults) and all("step 100" not in text for text in faults)
