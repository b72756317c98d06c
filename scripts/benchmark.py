"""Scenes x splits x methods -> held-out quality and cost, as a table and as JSON.

    scripts/benchmark.py --scenes plush llff_fern --splits all 3 --max-num-iterations 2000

Rows that were measured before with the same settings and the same code are read back, so a broken run goes on where
it stopped. Protocol: initial points come from the training photos alone, metrics are means over all held-out photos
at full frame, "masked" trains on a window of a quarter of each photo that wanders from photo to photo.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from benchmark_row import METHODS, Method, Row, Split
from held_out import code_hash
from rich.console import Console
from rich.table import Table

from genfusion_ns.errors import UserError, exits_cleanly

REPO = Path(__file__).resolve().parents[1]
WEIGHTS = "alexnet-owt-7be5be79.pth"


@dataclass
class Benchmark:
    """Train and evaluate every combination of scenes, splits and methods."""

    scenes: tuple[str, ...] = ()
    """Names of folders in the data root, or paths; none = every scene there that has photos to hold out."""
    splits: tuple[Split, ...] = ("all", "3", "6", "9", "masked")
    """Training views: all of them, the scene's sparse splits, or a moving quarter of each photo."""
    methods: tuple[Method, ...] = ()
    """2dgs = our model without loop; genfusion-identity = the loop with a repairer that changes nothing; splatfacto =
    Nerfstudio's own, which needs CUDA. None = all that run here."""
    data_root: Path = REPO.parent / "shared" / "data"
    """Folder of the scenes."""
    out: Path = REPO / "outputs" / "benchmark"
    """Where rows, logs and trained runs are kept."""
    max_num_iterations: int | None = None
    """Training steps of each row; None = the preset of the machine (2,000 on a CPU, 7,000 with CUDA)."""
    width: int | None = None
    """Longest side of the photos in pixels; None = the preset's (320 on a CPU)."""
    seed: int = 42
    """Seed of every row."""
    weights: Path = REPO.parent / "shared" / "weights"
    """Folder with torchvision's alexnet-owt-7be5be79.pth for LPIPS; where it is missing, LPIPS is n/a."""
    json: Path | None = None
    """Also write all rows as one JSON list to this file; - = standard output (the table then goes to stderr)."""
    fresh: bool = False
    """Measure again what has been measured."""
    skip_failed: bool = False
    """Go on after a row that failed instead of stopping there."""


def find_scenes(args: Benchmark) -> list[Path]:
    """Folders of the scenes.

    Raises:
        UserError: a scene or the data root is missing.
    """
    if args.scenes:
        folders = [Path(name) if Path(name).is_dir() else args.data_root / name for name in args.scenes]
        missing = [str(folder) for folder in folders if not folder.is_dir()]
        if missing:
            raise UserError(f"no such scene folder: {', '.join(missing)}. Give --scenes as paths, or --data-root.")
        return [folder.resolve() for folder in folders]
    found = sorted(path.parent for path in args.data_root.glob("*/train_test_split_*.json"))
    if not found:
        raise UserError(f"{args.data_root} holds no scene with train_test_split_*.json. Give --data-root or --scenes.")
    return [folder.resolve() for folder in dict.fromkeys(found)]


def rows_of(args: Benchmark, has_cuda: bool) -> list[Row]:
    """The rows to measure, scene by scene."""
    methods = args.methods or tuple(m for m in METHODS if has_cuda or m != "splatfacto")
    if "splatfacto" in methods and not has_cuda:
        raise UserError("splatfacto needs CUDA, which this machine lacks. Leave it out of --methods.")
    return [
        Row(str(scene), split, method, args.max_num_iterations, args.width, args.seed)
        for scene in find_scenes(args)
        for split in args.splits
        for method in methods
    ]


def measured(row: Row, args: Benchmark, code: str, console: Console) -> dict[str, Any] | None:
    """The row's result, from disk or from a process that trains and evaluates it; None if that failed."""
    key = hashlib.sha256(json.dumps([asdict(row), code]).encode()).hexdigest()[:8]
    name = f"{Path(row.scene).name}-{row.split}-{row.method}-{key}"
    result = args.out / f"{name}.json"
    if result.is_file() and not args.fresh:
        return json.loads(result.read_text())
    args.out.mkdir(parents=True, exist_ok=True)
    settings, log = args.out / f"{name}.settings", args.out / f"{name}.log"
    settings.write_text(json.dumps(asdict(row)))
    command = [sys.executable, str(REPO / "scripts" / "benchmark_row.py"), str(settings), str(result)]
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
    row_result = json.loads(result.read_text()) | {"code": code}
    result.write_text(json.dumps(row_result, indent=1))
    return row_result


def torch_home(args: Benchmark) -> Path:
    """A TORCH_HOME with LPIPS's weights in it, where they are at hand; else the user's own."""
    if not (args.weights / WEIGHTS).is_file():
        return Path(os.environ.get("TORCH_HOME", Path.home() / ".cache" / "torch"))
    checkpoints = args.out / "torch_home" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    if not (checkpoints / WEIGHTS).exists():
        (checkpoints / WEIGHTS).symlink_to((args.weights / WEIGHTS).resolve())
    return args.out.resolve() / "torch_home"


def table_of(results: Iterable[dict[str, Any]]) -> Table:
    """The rows as a rich table."""
    table = Table(title="held-out quality and cost")
    for name in ("scene", "split", "method"):
        table.add_column(name)
    for name in ("steps", "PSNR", "SSIM", "LPIPS", "coverage", "minutes", "memory MiB", "Gaussians"):
        table.add_column(name, justify="right")
    for result in results:
        lpips = f"{result['lpips']:.3f}" if "lpips" in result else "n/a"
        memory = result["peak_gpu_memory_mib"] or result["peak_memory_mib"]
        table.add_row(
            Path(result["scene"]).name,
            result["split"],
            result["method"],
            f"{result['max_num_iterations']:,}",
            f"{result['psnr']:.2f}",
            f"{result['ssim']:.3f}",
            lpips,
            f"{result['coverage']:.3f}",
            f"{result['minutes']:.1f}",
            f"{memory:,.0f}",
            f"{result['gaussians']:,}",
        )
    return table


@exits_cleanly
def run(args: Benchmark) -> None:
    """Measure, print and save all rows.

    Raises:
        UserError: unknown scenes, a method that cannot run here, or a row that failed.
    """
    import torch

    to_stdout = args.json is not None and str(args.json) == "-"
    console = Console(stderr=to_stdout, width=None if sys.stdout.isatty() else 140)
    rows = rows_of(args, torch.cuda.is_available())
    code = code_hash()
    results: list[dict[str, Any]] = []
    for index, row in enumerate(rows):
        console.print(f"row {index + 1} of {len(rows)}", highlight=False)
        result = measured(row, args, code, console)
        if result is not None:
            results.append(result)
        elif not args.skip_failed:
            raise UserError("a row failed; see its log above. The rows before it are kept; --skip-failed goes on.")
    console.print(table_of(results))
    text = json.dumps(results, indent=1)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rows.json").write_text(text)
    console.print(f"rows: {args.out / 'rows.json'}", highlight=False, soft_wrap=True)
    if to_stdout:
        sys.stdout.write(text + "\n")
    elif args.json is not None:
        args.json.write_text(text)


def main() -> None:
    """Entry point of `python scripts/benchmark.py`."""
    run(tyro.cli(Benchmark, description=__doc__))


if __name__ == "__main__":
    main()
