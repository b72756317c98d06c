"""Means over seeds and scenes, the table, and published figures beside ours."""

from __future__ import annotations

import io
from statistics import fmean

import numpy as np
import pytest
from benchmark_rows import a_row, finished_row, several
from rich.console import Console

from genfusion_ns.benchmark import published
from genfusion_ns.benchmark import report as benchmark_report


def test_means_over_seeds_then_scenes():
    means = benchmark_report.means_over_seeds(several())
    assert [(m["title"], m["method"], m["psnr"], m["seeds"]) for m in means] == [
        ("pond", "2dgs", 12.0, 2),
        ("pond", "genfusion-identity", 14.0, 2),
        ("attic", "2dgs", 22.0, 2),
    ]
    assert means[0]["psnr_spread"] == pytest.approx(np.std([11, 13], ddof=1))
    assert "lpips" not in means[0] and means[1]["lpips"] == 0.4  # a mean of some rows would mean something else
    (two, identity) = benchmark_report.means_over_scenes(several())
    assert (
        "title" not in two
        and two["psnr"] == 17.0
        and two["scenes"] == ["pond", "attic"]
        and identity["scenes"] == ["pond"]
    )


def printed(table) -> str:
    console = Console(record=True, width=250, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_table_says_na_and_leaks():
    rows = [
        finished_row(a_row(), psnr=23.456),
        finished_row(a_row(method="genfusion-identity", initial_points="official"), psnr=9.0, lpips=0.4321),
    ]
    text = printed(benchmark_report.table_of(rows))
    assert "23.46" in text and "n/a" in text and "0.432" in text and "1,234" in text
    assert text.count("leaks") == 1 and "genfusion-identity (official points, leaks)" in text


def test_published_figures_stand_beside_ours_and_say_what_they_are():
    text = printed(benchmark_report.comparison_of(several()))
    line = next(line for line in text.splitlines() if "GenFusion, published (GenFusion's paper)" in line)
    assert "15.29" in line and "0.369" in line and "0.585" in line and "Mip-NeRF 360" in line
    assert "saw" in text and "held-out photos" in text and "17.00" in text
    assert benchmark_report.comparison_of([finished_row(a_row(split="all"), psnr=1.0)]) is None
    masked = published.published_for(["masked"])
    assert {row.psnr for row in masked if row.method == "GenFusion"} == {20.47, 20.01, 17.45, 16.29}


def test_published_figures_are_consistent_with_the_published_averages():
    """The average column of the paper's Table 2, which is not stored, against the stored ones."""
    averages = {"Zip-NeRF": 13.56, "FreeNeRF": 13.60, "SimpleNeRF": 14.03, "ZeroNVS": 15.31, "ReconFusion": 16.87}
    averages |= {"3DGS": 14.94, "2DGS": 14.92, "FSGS": 16.08, "GenFusion": 16.93}
    for method, average in averages.items():
        rows = [r for r in published.PUBLISHED if r.method == method and "Mip" in r.data and "paper" in r.source]
        assert [row.split for row in rows] == ["3", "6", "9"]
        assert fmean(row.psnr for row in rows) == pytest.approx(average, abs=0.011)
