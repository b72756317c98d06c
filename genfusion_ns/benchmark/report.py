"""The benchmark's rows as means and tables: over seeds for each scene, and over scenes beside published figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from genfusion_ns.benchmark.published import Published, published_for

METRICS = ("psnr", "ssim", "sharpness", "lpips", "lpips_vgg", "lpips_vgg_paper", "coverage")
COSTS = ("minutes", "peak_memory_mib", "peak_gpu_memory_mib", "gaussians")
COLUMNS = {
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 3),
    "sharpness": ("sharpness", 2),
    "lpips": ("LPIPS alex", 3),
    "lpips_vgg": ("LPIPS vgg", 3),
    "lpips_vgg_paper": ("vgg on [0,1]", 3),
    "coverage": ("coverage", 3),
    "minutes": ("minutes", 1),
    "peak_memory_mib": ("memory MiB", 0),
    "gaussians": ("Gaussians", 0),
}
"""Column -> heading and digits after the point."""
SAME_RUN = ("title", "split", "method", "initial_points", "recipes", "max_num_iterations", "layout")
OF_ONE_SCENE = ("scene", "title", "layout", "seed", "pictures", "views", "train_views", "psnr_spread")
"""What a mean over scenes does not have."""

Result = dict[str, Any]


def means_over_seeds(results: Iterable[Result]) -> list[Result]:
    """One result for each scene, split and method, in the order of the first of them: means over seeds, `seeds` their
    number, `psnr_spread` the standard deviation where there are several."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(result.get(key) for key in SAME_RUN), []).append(result)
    return [_mean(group) | {"seeds": len(group)} for group in groups.values()]


def means_over_scenes(results: Iterable[Result]) -> list[Result]:
    """One result for each split and method: means of the scenes' means, `scenes` their names."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in means_over_seeds(results):
        key = result["split"], result["method"], result.get("initial_points"), result.get("recipes")
        groups.setdefault(key, []).append(result)
    found = [
        {name: value for name, value in _mean(group).items() if name not in OF_ONE_SCENE}
        | {"scenes": [one["title"] for one in group]}
        for group in groups.values()
    ]
    return sorted(found, key=_by_split)


def _by_split(result: Result) -> tuple[int, str]:
    order = ("all", "9", "6", "3", "masked", "masked-half", "masked-quarter")
    split = result["split"]
    return (order.index(split) if split in order else len(order), split)


def _mean(group: Sequence[Result]) -> Result:
    mean = dict(group[0])
    for name in (*METRICS, *COSTS):
        values = [result[name] for result in group if result.get(name) is not None]
        if len(values) == len(group):
            mean[name] = fmean(values)
        else:
            mean.pop(name, None)
    if len(group) > 1:
        mean["psnr_spread"] = stdev(result["psnr"] for result in group)
    return mean


def label(result: Result) -> str:
    """The method's name, and what sets the row apart from the rule."""
    marks = []
    if result.get("initial_points", "depth") != "depth":
        points = result["initial_points"]
        marks.append(f"{points} points{', leaks' if points in ('official', 'all') else ''}")
    if result.get("recipes") == "paper":
        marks.append("paper's settings")
    return f"{result['method']} ({'; '.join(marks)})" if marks else str(result["method"])


def cells(result: Result) -> list[str]:
    """The numbers of a row as text, by `COLUMNS`; n/a where something was not measured."""
    memory = result.get("peak_gpu_memory_mib") or result.get("peak_memory_mib")
    shown = []
    for name, (_, digits) in COLUMNS.items():
        value = memory if name == "peak_memory_mib" else result.get(name)
        text = "n/a" if value is None else f"{value:,.{digits}f}"
        if name == "psnr" and "psnr_spread" in result and result.get("seeds", 1) > 1:
            text += f" ± {result['psnr_spread']:.2f}"
        shown.append(text)
    return shown


def table_of(results: Iterable[Result]) -> Table:
    """Scene by scene, means over seeds."""
    table = Table(title="held-out quality and cost", caption="metrics: means over all held-out photos at full frame")
    for name in ("scene", "split", "method"):
        table.add_column(name, overflow="fold")
    for name in ("steps", *(heading for heading, _ in COLUMNS.values())):
        table.add_column(name, justify="right")
    for result in means_over_seeds(results):
        table.add_row(
            result["title"], result["split"], label(result), f"{result['max_num_iterations']:,}", *cells(result)
        )
    return table


def comparison_of(results: Sequence[Result]) -> Table | None:
    """Means over scenes, with published rows below ours; None where there is nothing published for these splits."""
    published = published_for(result["split"] for result in results)
    if not published:
        return None
    table = Table(
        title="means over scenes, beside published figures",
        caption="published figures come from other data (named in the row), other cameras and, where splats are "
        "trained, first points that saw the held-out photos: they are no competitors of the rows above them",
    )
    for name in ("split", "method", "data"):
        table.add_column(name, overflow="fold")
    for name in ("PSNR", "SSIM", "vgg on [0,1]"):
        table.add_column(name, justify="right")
    for split, ours in groupby(means_over_scenes(results), lambda result: result["split"]):
        for result in ours:
            data = f"{len(result['scenes'])} of ours: {', '.join(result['scenes'])}"
            values = (result["psnr"], result["ssim"], result.get("lpips_vgg_paper"))
            table.add_row(split, label(result), data, *_numbers(*values))
        for row in published_for([split]):
            name = f"{row.method}, published ({row.source})"
            table.add_row(row.split, name, row.data, *_numbers(row.psnr, row.ssim, row.lpips_vgg_paper), style="dim")
        table.add_section()
    return table


def _numbers(psnr: float, ssim: float | None, lpips: float | None) -> list[str]:
    return [f"{psnr:.2f}", *("n/a" if value is None else f"{value:.3f}" for value in (ssim, lpips))]


def published_rows(results: Iterable[Result]) -> list[Published]:
    """The published figures beside these rows."""
    return published_for(result["split"] for result in results)
