"""The benchmark's HTML page: one file with tables, plots (SVG) and before/after crops (PNG), nothing loaded from
elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genfusion_ns.benchmark.methods import is_ablation
from genfusion_ns.benchmark.published import published_for
from genfusion_ns.benchmark.report import COLUMNS, Result, cells, label, means_over_scenes, means_over_seeds

CROP_SHARE = 0.5
"""Crops are half as wide and high as the photo: where the first two methods differ most."""
CROP_WIDTH = 260
"""Width of a shown crop in pixels."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1c2330;
  background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem } p, figcaption { color: #4a5568 }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: .28rem .6rem; border-bottom: 1px solid #e2e8f0; text-align: right; white-space: nowrap }
th.text, td.text { text-align: left } tr.published td { color: #718096; font-style: italic }
td.best { font-weight: 700 } .leak { color: #b7791f } svg { max-width: 100%; height: auto }
.strip { display: flex; flex-wrap: wrap; gap: .6rem } figure { margin: 0; width: 260px }
figure img { display: block; margin-bottom: .4rem }
"""


def write_page(results: Sequence[Result], out: Path) -> Path:
    """Write report.html into `out`, where the rows' pictures lie too."""
    rows = means_over_seeds(results)
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>genfusion benchmark</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body>",
        "<h1>genfusion benchmark</h1>",
        f"<p>{_protocol(results)}</p>",
        "<h2>Scenes</h2>",
        _table(rows),
        _comparison(results),
        "<h2>Plots</h2>",
        *(f"<p>{svg}</p>" for svg in plots(rows)),
        "<h2>Held-out views</h2>",
        f"<p>The middle held-out photo of each scene and split, and the {CROP_SHARE:.0%}-wide window of it in which "
        "2DGS without loop and genfusion differ most, whichever is better there. First seed.</p>",
        *(_strip(list(group), out) for _, group in groupby(_first_seeds(results), _scene_and_split)),
        "</body></html>",
    ]
    path = out / "report.html"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _protocol(results: Sequence[Result]) -> str:
    devices = ", ".join(sorted({str(result.get("device", "?")) for result in results}))
    points = {result.get("initial_points", "depth") for result in results}
    leak = (
        "<span class='leak'>Rows marked as leaking start from points whose positions the held-out photos helped to "
        "find.</span>"
        if points & {"official", "all"}
        else "First points come from the training photos alone."
    )
    return (
        f"Means over all held-out photos, at full frame also where training saw a window only. {leak} No held-out pose "
        f"takes part in training or in the paths of novel views; poses come with the scenes. Measured on: "
        f"{escape(devices)}."
    )


def _table(rows: Sequence[Result]) -> str:
    heads = [("scene", "text"), ("split", "text"), ("method", "text"), ("steps", "")]
    heads += [(heading, "") for heading, _ in COLUMNS.values()]
    body = []
    for _, group in groupby(rows, _scene_and_split):
        same = list(group)
        best = max(result["psnr"] for result in same)
        for result in same:
            texts = [result["title"], result["split"], label(result)]
            cellsof = [f"<td class='text'>{escape(text)}</td>" for text in texts]
            cellsof.append(f"<td>{result['max_num_iterations']:,}</td>")
            for i, text in enumerate(cells(result)):
                cellsof.append(
                    f"<td class='best'>{text}</td>" if not i and result["psnr"] == best else f"<td>{text}</td>"
                )
            body.append(f"<tr>{''.join(cellsof)}</tr>")
    return _html_table(heads, body)


def _comparison(results: Sequence[Result]) -> str:
    if not published_for(result["split"] for result in results):
        return ""
    heads = [("split", "text"), ("method", "text"), ("data", "text"), ("PSNR", ""), ("SSIM", ""), ("vgg on [0,1]", "")]
    body = []
    for split, ours in groupby(means_over_scenes(results), lambda result: result["split"]):
        for result in ours:
            data = f"ours: {', '.join(result['scenes'])}"
            body.append(
                _row("", split, label(result), data, result["psnr"], result["ssim"], result.get("lpips_vgg_paper"))
            )
        for row in published_for([split]):
            name = f"{row.method}, published ({row.source})"
            body.append(_row("published", row.split, name, row.data, row.psnr, row.ssim, row.lpips_vgg_paper))
    return (
        "<h2>Means over scenes, beside published figures</h2><p>Rows in italics are published figures: other data, "
        "named in the row, other cameras and, where splats are trained, first points that saw the held-out photos.</p>"
        + _html_table(heads, body)
    )


def _row(kind: str, split: str, name: str, data: str, psnr: float, ssim: float | None, lpips: float | None) -> str:
    text = "".join(f"<td class='text'>{escape(value)}</td>" for value in (split, name, data))
    numbers = "".join(f"<td>{'n/a' if value is None else f'{value:.3f}'}</td>" for value in (ssim, lpips))
    return f"<tr class='{kind}'>{text}<td>{psnr:.2f}</td>{numbers}</tr>"


def _html_table(heads: Iterable[tuple[str, str]], body: Iterable[str]) -> str:
    head = "".join(f"<th class='{kind}'>{escape(text)}</th>" for text, kind in heads)
    return f"<div class='scroll'><table><tr>{head}</tr>{''.join(body)}</table></div>"


def plots(rows: Sequence[Result]) -> list[str]:
    """PSNR by scene and split, and PSNR against minutes, as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    places = list(dict.fromkeys((row["title"], row["split"]) for row in rows))
    methods = list(dict.fromkeys(label(row) for row in rows))
    colours = dict(zip(methods, pyplot.get_cmap("tab10")(np.arange(len(methods)) % 10), strict=True))
    drawn = []
    by_place, axes = pyplot.subplots(figsize=(max(6.0, 0.35 * len(rows) + 2), 3.6))
    for i, method in enumerate(methods):
        own = {(row["title"], row["split"]): row["psnr"] for row in rows if label(row) == method}
        x = [places.index(place) + (i - (len(methods) - 1) / 2) * 0.6 / len(methods) for place in own]
        axes.scatter(x, list(own.values()), label=method, color=colours[method])
    axes.set_xticks(range(len(places)), [f"{title}\n{split}" for title, split in places])
    axes.set_ylabel("held-out PSNR, dB")
    drawn.append(by_place)
    cost, axes = pyplot.subplots(figsize=(6.0, 3.6))
    for method in methods:
        own_rows = [row for row in rows if label(row) == method]
        axes.scatter([row["minutes"] for row in own_rows], [row["psnr"] for row in own_rows], color=colours[method])
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("held-out PSNR, dB")
    drawn.append(cost)
    by_place.legend(
        loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=min(len(methods), 3), fontsize=8, frameon=False
    )
    return [_svg(figure, pyplot) for figure in drawn]


def _svg(figure: Any, pyplot: Any) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight")
    pyplot.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _scene_and_split(result: Result) -> tuple[str, str]:
    return result["title"], result["split"]


def _first_seeds(results: Sequence[Result]) -> list[Result]:
    """The first of each method's rows, scene by scene."""
    first = {(*_scene_and_split(result), label(result)): result for result in reversed(results)}
    places = dict.fromkeys(_scene_and_split(result) for result in results)
    methods = dict.fromkeys(label(result) for result in results)
    keys = [(*place, method) for place in places for method in methods]
    return [first[key] for key in keys if key in first]


def _strip(rows: list[Result], out: Path) -> str:
    """truth | 2dgs | genfusion, whole and cropped."""
    shown = [
        row
        for row in rows
        if not is_ablation(row["method"]) and (out / row.get("pictures", "?") / "render.png").is_file()
    ]
    if not shown:
        return ""
    pictures = [("the held-out photo", _read(out / shown[0]["pictures"] / "photo.png"))]
    pictures += [
        (f"{label(row)}: {row['psnr']:.2f} dB over all views", _read(out / row["pictures"] / "render.png"))
        for row in shown
    ]
    named = {row["method"]: picture for row, (_, picture) in zip(shown, pictures[1:], strict=True)}
    plain = named.get("2dgs", pictures[1][1])
    other = next((image for method, image in named.items() if method.startswith("genfusion")), pictures[0][1])
    y, x, height, width = most_different_window(plain, other)
    figures = []
    for title, picture in pictures:
        whole = _img(picture, f"{title}, whole")
        crop = _img(picture[y : y + height, x : x + width], f"{title}, crop")
        figures.append(f"<figure>{whole}{crop}<figcaption>{escape(title)}</figcaption></figure>")
    head = f"<h3>{escape(rows[0]['title'])}, {escape(rows[0]['split'])}</h3>"
    return f"{head}<div class='strip'>{''.join(figures)}</div>"


def most_different_window(a: NDArray[np.uint8], b: NDArray[np.uint8], share: float = CROP_SHARE) -> tuple[int, ...]:
    """(y, x, height, width) of the window of `share` of the sides in which two images [H, W, 3] differ most."""
    height, width = max(1, round(a.shape[0] * share)), max(1, round(a.shape[1] * share))
    difference = np.abs(a.astype(np.float64) - b).sum(axis=2)
    total = np.pad(difference.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(y), int(x), height, width


def _read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _img(picture: NDArray[np.uint8], text: str) -> str:
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.width > 2 * CROP_WIDTH:
        image.thumbnail((2 * CROP_WIDTH, 4 * CROP_WIDTH))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    return f"<img width='{CROP_WIDTH}' alt='{escape(text, quote=True)}' src='data:image/png;base64,{data}'>"
