"""Rows of a benchmark that nobody ran."""

from __future__ import annotations

from dataclasses import replace

from genfusion_ns.benchmark import row as benchmark_row


def a_row(**changes) -> benchmark_row.Row:
    row = benchmark_row.Row("/scenes/pond", "pond", "nerfstudio", "3", "2dgs", 50, 64, 1)
    return replace(row, **changes)


def finished_row(row: benchmark_row.Row, **metrics: float) -> dict[str, object]:
    costs = {"minutes": 1.0, "peak_memory_mib": 900.0, "peak_gpu_memory_mib": None, "gaussians": 1234}
    known = {"max_num_iterations": 7, "ssim": 0.5, "coverage": 1.0, "device": "CPU"}
    return {**vars(row), **known, **costs, **metrics}


def several() -> list[dict]:
    rows = [
        finished_row(a_row(title=title, method=method, seed=seed), psnr=psnr + seed, lpips=0.4)
        for title, method, psnr in (("pond", "2dgs", 10), ("pond", "genfusion-identity", 12), ("attic", "2dgs", 20))
        for seed in (1, 3)
    ]
    del rows[0]["lpips"]
    return rows
