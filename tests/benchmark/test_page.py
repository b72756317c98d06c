"""The benchmark's page: whole, loads nothing, and shows where two renders differ."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
from benchmark_rows import several
from PIL import Image
from rich.console import Console

from genfusion_ns.benchmark import page as benchmark_page
from genfusion_ns.benchmark import run as benchmark


class Page(HTMLParser):
    """Tags that are open at the end, and all addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]


def test_page_is_whole_and_loads_nothing(tmp_path):
    rows = several()
    for i, row in enumerate(rows):
        row["pictures"] = f"runs/{i}"
        folder = tmp_path / "runs" / str(i)
        folder.mkdir(parents=True)
        picture = np.full((30, 40, 3), 20 * i, np.uint8)
        for name in ("photo", "render"):
            Image.fromarray(picture).save(folder / f"{name}.png")
    rows[-1]["method"] = "genfusion-classical-neither"
    rows[-2]["title"] = "<script>"
    text = benchmark_page.write_page(rows, tmp_path).read_text()
    page = Page()
    page.feed(text)
    assert page.open == ["html"] or page.open == []
    # one photo and two renders of the pond, one of each of <script>, whole and cropped; an ablation has no picture
    assert len([source for source in page.sources if source.startswith("data:image/png;base64,")]) == 2 * 3 + 2 * 2
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert not re.search(r"url\((?!#)", text.replace('url("#', "url(#")) and "<script>" not in text
    assert text.count("<svg") == 2 and "<td class='best'>14.00" in text and "<td>12.00 ± 1.41</td>" in text
    assert "Mip-NeRF 360" in text and "published" in text


def test_crop_is_where_two_renders_differ_most():
    a = np.zeros((20, 30, 3), np.uint8)
    b = a.copy()
    b[12:18, 20:28] = 200
    y, x, height, width = benchmark_page.most_different_window(a, b)
    assert (height, width) == (10, 15)
    assert y <= 12 and y + height >= 18 and x <= 20 and x + width >= 28
    assert benchmark_page.most_different_window(a, a) == (0, 0, 10, 15)


def test_json_and_page_are_saved(tmp_path):
    args = benchmark.Benchmark(out=tmp_path / "out")
    text = benchmark.save(several(), args, Console(quiet=True))
    content = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert json.loads(text) == content and len(content["rows"]) == 6 and len(content["means_over_seeds"]) == 3
    assert {row["data"] for row in content["published"]} == {"Mip-NeRF 360, 9 scenes, images_4, ReconFusion's splits"}
    assert (tmp_path / "out" / "report.html").is_file()
