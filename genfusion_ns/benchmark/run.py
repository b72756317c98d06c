"""Scenes x splits x methods -> held-out quality and cost: a table, JSON, and an HTML page with plots and pictures.

    genfusion-benchmark --scenes plush llff_fern --splits all 3 --steps 2000

Rows that were measured before with the same settings, weights and code are read back, so a broken run goes on where it
stopped. Fair by construction: the first points come from the training photos alone (or the row says that it leaks), no
held-out pose takes part in training or in the paths of novel views, metrics are means over all held-out photos at full
frame. Folders of Mip-NeRF 360, DL3DV's benchmark, and Tanks and Temples are read as their protocols say.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from genfusion_ns.benchmark.methods import runnable, weights_hash
from genfusion_ns.benchmark.metrics import LPIPS_BACKBONES, code_hash
from genfusion_ns.benchmark.page import write_page
from genfusion_ns.benchmark.report import comparison_of, means_over_scenes, means_over_seeds, published_rows, table_of
from genfusion_ns.benchmark.row import Recipes, Row, Split
from genfusion_ns.data import layouts
from genfusion_ns.data.layouts import Layout
from genfusion_ns.data.points import PointsMode
from genfusion_ns.errors import UserError, exits_cleanly

REPO = Path(__file__).resolve().parents[2]
TRAIN_EVERY = {"masked-half": 2, "masked-quarter": 4}


@dataclass
class Benchmark:
    """Train and evaluate every combination of scenes, splits and methods."""

    scenes: tuple[str, ...] = ()
    """Names of folders in the data root, or paths; none = every scene there: public layouts, and folders that come with
    a train_test_split_{n}.json."""
    splits: tuple[Split, ...] = ("all", "3", "6", "9", "masked")
    """Training views: all but every eighth; the scene's sparse splits; masked = a moving quarter of each photo, with
    every eighth held out (every second on DL3DV, Tanks and Temples); masked-half, masked-quarter = with every second
    (fourth) photo training and all others held out, on any scene."""
    methods: tuple[str, ...] = ()
    """splatfacto, 2dgs, genfusion-identity, genfusion-classical, genfusion-lite, genfusion:WEIGHTS; with -no-expansion,
    -no-densifier or -neither behind a repairer's name, that part is left out. None = the first five, as far as they
    run here."""
    data_root: Path = REPO.parent / "shared" / "data"
    """Folder of the scenes."""
    split_root: Path | None = None
    """Folder of <scene>/train_test_split_{n}.json where these are not in the scenes (ReconFusion's lists)."""
    out: Path = REPO / "outputs" / "benchmark"
    """Where rows, logs, trained runs, rows.json and report.html are kept."""
    max_num_iterations: Annotated[int | None, tyro.conf.arg(aliases=["--steps"])] = None
    """Training steps of each row; None = the recipe's for this machine (2,000 on a CPU, 7,000 with CUDA)."""
    width: int | None = None
    """Longest side of the photos in pixels; None = the recipe's (320 on a CPU)."""
    seeds: tuple[int, ...] = (42,)
    """Every row is measured with each; tables show the means."""
    recipes: Recipes = "ours"
    """ours = the method `genfusion`; paper = genfusion-sparse, and genfusion-masked where photos are masked."""
    initial_points: PointsMode = "depth"
    """Where the first splats lie. official = the official code's rule, all = the whole point cloud: both leak geometry
    from the held-out photos, and the rows say so."""
    lpips_weights: Path = REPO.parent / "shared" / "weights"
    """Folder with torchvision's alexnet-owt-7be5be79.pth and vgg16-397923af.pth; without them LPIPS is n/a."""
    json: Path | None = None
    """Also write rows, means and published figures as JSON to this file; - = standard output (tables go to stderr)."""
    fresh: bool = False
    """Measure again what has been measured."""
    skip_failed: bool = False
    """Go on after a row that failed instead of stopping there."""


def find_scenes(args: Benchmark) -> list[Layout]:
    """The scenes and the layouts of their folders.

    Raises:
        UserError: a scene or the data root is missing, or holds no cameras.
    """
    if not args.scenes:
        found = layouts.find_scenes(args.data_root)
        if not found:
            raise UserError(
                f"{args.data_root} holds no scene: no folder of Mip-NeRF 360, DL3DV or Tanks and Temples, and none "
                "with train_test_split_*.json. Give --data-root or --scenes."
            )
        return found
    folders = [Path(name) if Path(name).is_dir() else args.data_root / name for name in args.scenes]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f"no such scene folder: {', '.join(missing)}. Give --scenes as paths, or --data-root.")
    scenes = {folder: layouts.recognise(folder.resolve()) for folder in folders}
    empty = [str(folder) for folder, layout in scenes.items() if layout is None]
    if empty:
        raise UserError(f"no cameras in {', '.join(empty)}: expected transforms.json or a COLMAP model at sparse/0.")
    return [layout for layout in scenes.values() if layout is not None]


def rows_of(args: Benchmark, methods: list[str]) -> list[Row]:
    """The rows to measure, scene by scene.

    Raises:
        UserError: unknown scenes, or weights that cannot be found.
    """
    hashes = {method: weights_hash(method) for method in methods}
    return [
        Row(
            scene=str(layout.scene.resolve()),
            title=layout.title,
            layout=layout.name,
            split=split,
            method=method,
            max_num_iterations=args.max_num_iterations,
            width=args.width,
            seed=seed,
            recipes=args.recipes,
            initial_points=args.initial_points,
            downscale_factor=layout.downscale_factor,
            train_every=layout.masked_train_every if split == "masked" else TRAIN_EVERY.get(split, 0),
            split_folder=str(args.split_root.resolve()) if args.split_root and split in ("3", "6", "9") else None,
            weights_hash=hashes[method],
        )
        for layout in find_scenes(args)
        for split in args.splits
        for method in methods
        for seed in args.seeds
    ]


def name_of(row: Row, code: str) -> str:
    """What a row's files are called: readable, and another name for other settings or code."""
    key = hashlib.sha256(json.dumps([asdict(row), code]).encode()).hexdigest()[:8]
    method = re.sub(r"[^\w.-]+", "_", row.method)[-40:]
    return f"{row.title}-{row.split}-{method}-{key}"


def measured(row: Row, args: Benchmark, code: str, console: Console) -> dict[str, Any] | None:
    """The row's result, from disk or from a process that trains and evaluates it; None if that failed."""
    name = name_of(row, code)
    result = args.out / f"{name}.json"
    where = {"code": code, "pictures": f"runs/{name}"}
    if result.is_file() and not args.fresh:
        return json.loads(result.read_text()) | where
    args.out.mkdir(parents=True, exist_ok=True)
    settings, log = args.out / f"{name}.settings", args.out / f"{name}.log"
    settings.write_text(json.dumps(asdict(row)))
    command = [sys.executable, "-m", "genfusion_ns.benchmark.row", str(settings), str(result)]
    environment = {**os.environ, "TORCH_HOME": str(torch_home(args)), "COLUMNS": "160"}
    started = time.perf_counter()
    with log.open("w") as stream, console.status(f"{name} (log: {log})"):
        done = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
    settings.unlink()
    if done.returncode != 0:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        console.print(f"[red]{name} failed[/] (exit {done.returncode}); the end of {log}:", highlight=False)
        console.print(tail, markup=False, highlight=False)
        return None
    console.print(f"{name}: {time.perf_counter() - started:.0f} s", highlight=False)
    return json.loads(result.read_text()) | where


def torch_home(args: Benchmark) -> Path:
    """A TORCH_HOME with LPIPS's weights in it, where they are at hand; else the user's own."""
    there = [name for name in LPIPS_BACKBONES.values() if (args.lpips_weights / name).is_file()]
    if not there:
        return Path(os.environ.get("TORCH_HOME", Path.home() / ".cache" / "torch"))
    checkpoints = args.out / "torch_home" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for name in there:
        if not (checkpoints / name).exists():
            (checkpoints / name).unlink(missing_ok=True)  # a link to a folder that has gone
            (checkpoints / name).symlink_to((args.lpips_weights / name).resolve())
    return args.out.resolve() / "torch_home"


def save(results: list[dict[str, Any]], args: Benchmark, console: Console) -> str:
    """Write rows.json and report.html; the JSON's text."""
    content = {
        "rows": results,
        "means_over_seeds": means_over_seeds(results),
        "means_over_scenes": means_over_scenes(results),
        "published": [asdict(row) for row in published_rows(results)],
    }
    text = json.dumps(content, indent=1)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rows.json").write_text(text)
    write_page(results, args.out)
    for title, file in (("rows", "rows.json"), ("page with plots and pictures", "report.html")):
        console.print(f"{title}: {args.out / file}", highlight=False, soft_wrap=True)
    return text


@exits_cleanly
def run(args: Benchmark) -> None:
    """Measure, print and save all rows.

    Raises:
        UserError: unknown scenes or methods, none that can run here, or a row that failed.
    """
    import torch

    to_stdout = args.json is not None and str(args.json) == "-"
    console = Console(stderr=to_stdout, width=None if sys.stdout.isatty() else 180)
    methods, left_out = runnable(args.methods, torch.cuda.is_available())
    for line in left_out:
        console.print(f"[yellow]{line}[/]", highlight=False)
    if not methods:
        raise UserError("none of the methods can run here, see above. Give others as --methods.")
    rows = rows_of(args, methods)
    code = code_hash()
    results: list[dict[str, Any]] = []
    for index, row in enumerate(rows):
        console.print(f"row {index + 1} of {len(rows)}", highlight=False)
        result = measured(row, args, code, console)
        if result is not None:
            results.append(result)
        elif not args.skip_failed:
            raise UserError("a row failed; see its log above. The rows before it are kept; --skip-failed goes on.")
    if not results:
        raise UserError("every row failed; see the logs above.")
    console.print(table_of(results))
    if (comparison := comparison_of(results)) is not None:
        console.print(comparison)
    text = save(results, args, console)
    if to_stdout:
        sys.stdout.write(text + "\n")
    elif args.json is not None:
        args.json.write_text(text)
