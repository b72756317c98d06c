"""The demo's work: a procedural scene, three trainings, a table, a before/after picture. Started by scripts/demo.

Rows that are already there from the same settings and the same code are kept, so that a second run ends in seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from tyro.conf import Positional

from genfusion_ns import quiet
from genfusion_ns.benchmark.metrics import code_hash, held_out_metrics, save_pictures
from genfusion_ns.commands.make_scene import MakeScene
from genfusion_ns.commands.make_scene import run as make_scene
from genfusion_ns.errors import UserError, exits_cleanly
from genfusion_ns.files import write_atomic

REPO = Path(__file__).resolve().parents[1]
NO_LOOP = ("--pipeline.datamanager.loop.every", "0")
ONE_STEP = re.compile(r"(\d+) \(\d+\.\d+%\)")  # how Nerfstudio's log tells its progress


@dataclass
class Demo:
    """Train on the embedded scene with all photos, with few, and with few and the loop; show what each gives."""

    out: Positional[Path] = REPO / "outputs" / "demo"
    """Folder for the scene, the runs, the table and the picture."""
    few: int = 3
    """How many photos the runs with few photos get."""
    steps: int = 1300
    """Training steps of the run with all photos."""
    few_steps: int = 700
    """Training steps of the runs with few photos, which have less to learn from."""
    size: tuple[int, int] = (160, 90)
    """Width and height of the scene's photos."""
    fresh: bool = False
    """Train again even if the runs are there."""


class Case(NamedTuple):
    """One row of the demo's table."""

    key: str
    title: str
    steps: int
    options: tuple[str, ...]


def cases(args: Demo) -> list[Case]:
    """The three trainings; the last is what the method is for."""
    sparse = ("genfusion-data", "--sparse-views", str(args.few))  # a subcommand: comes after all other options
    return [
        Case("all_views", "2DGS, all photos", args.steps, NO_LOOP),
        Case("few_views", f"2DGS, {args.few} photos", args.few_steps, (*NO_LOOP, *sparse)),
        Case("genfusion", f"genfusion, {args.few} photos", args.few_steps, sparse),
    ]


def train_command(case: Case, scene: Path, runs: Path) -> list[str]:
    """The `ns-train` call of a case, as a user would type it."""
    return [
        str(Path(sys.executable).with_name("ns-train")),
        "genfusion",
        *("--data", str(scene), "--output-dir", str(runs), "--experiment-name", case.key, "--timestamp", "run"),
        *("--max-num-iterations", str(case.steps), "--vis", "tensorboard", "--steps-per-eval-image", "0"),
        *case.options,
    ]


def train(case: Case, args: Demo, scene: Path, console: Console) -> dict[str, Any]:
    """Train a case in its own process unless it is done already; its held-out metrics and the path of its config.yml.
    The photo and the render of the middle held-out view go beside that as PNG."""
    runs = args.out / "runs"
    command = train_command(case, scene, runs)
    folder = runs / case.key / "genfusion" / "run"
    recipe = [*command, (scene / "procedural.json").read_text(), code_hash()]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
    done = folder / "demo.json"
    if done.is_file() and not args.fresh:
        result = json.loads(done.read_text())
        if result.get("key") == key:
            console.print(f"{case.title}: already trained")
            return result
    console.print(f"[dim]$ ns-train {shlex.join(command[1:])}[/]", highlight=False, soft_wrap=True)
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    follow(command, args.out / f"{case.key}.log", case.title, case.steps, console)
    seconds = time.perf_counter() - started
    from nerfstudio.utils.eval_utils import eval_setup

    with (args.out / f"{case.key}.log").open("a") as log, contextlib.redirect_stdout(log):
        pipeline: Any = eval_setup(folder / "config.yml", test_mode="test")[1]
        metrics = held_out_metrics(pipeline) | {"gaussians": pipeline.model.num_points}
        save_pictures(pipeline, folder)
    result = {"key": key, "config": str(folder / "config.yml"), "seconds": seconds, **metrics}
    write_atomic(done, json.dumps(result, indent=1).encode())
    return result


def follow(command: list[str], log: Path, title: str, steps: int, console: Console) -> None:
    """Run a training with its output in `log` and a progress bar here.

    Raises:
        UserError: it failed; the end of its output is printed.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"))
    environment = {**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    piped: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    with (
        log.open("w") as stream,
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress,
        subprocess.Popen(command, **piped, text=True, errors="replace", env=environment) as process,
    ):
        task = progress.add_task(title, total=steps)
        try:
            for line in process.stdout or ():
                stream.write(line)
                if line.startswith("genfusion:"):
                    progress.console.print(line.rstrip(), style="dim", markup=False, highlight=False)
                if match := ONE_STEP.search(line):
                    progress.update(task, completed=int(match[1]))
            if process.wait() == 0:
                progress.update(task, completed=steps)
        except BaseException:  # stopped by the user: no training without its demo
            process.terminate()
            raise
    if process.returncode != 0:
        console.print("\n".join(log.read_text().splitlines()[-20:]), markup=False, highlight=False)
        raise UserError(f"'{title}' failed with exit code {process.returncode}; its whole output is in {log}.")


def before_after(rows: list[tuple[Case, dict[str, Any]]], target: Path) -> None:
    """One picture: the held-out photo, then what each run shows in its place."""
    folders = [Path(result["config"]).parent for _, result in rows]
    tiles = [("the held-out photo", Image.open(folders[0] / "photo.png"))]
    for (case, result), folder in zip(rows, folders, strict=True):
        tiles.append((f"{case.title}: {result['psnr']:.1f} dB", Image.open(folder / "render.png")))
    width, height = tiles[0][1].size
    scale = max(1, 360 // width)
    width, height, bar = width * scale, height * scale, 20
    sheet = Image.new("RGB", (2 * width + 4, 2 * (height + bar) + 4), "white")
    for index, (caption, image) in enumerate(tiles):
        x, y = (index % 2) * (width + 4), (index // 2) * (height + bar + 4)
        ImageDraw.Draw(sheet).text((x + 4, y + 4), caption, fill="black")
        sheet.paste(image.resize((width, height), Image.Resampling.BICUBIC), (x, y + bar))
    sheet.save(target)


def print_table(rows: list[tuple[Case, dict[str, Any]]], console: Console) -> None:
    """The held-out table."""
    heads = ("run", "steps", "PSNR", "SSIM", "coverage", "Gaussians", "seconds")
    table = Table(*heads, title=f"held-out quality ({rows[0][1]['views']} photos that no run saw)")
    for case, result in rows:
        quality = f"{result['psnr']:.2f} dB", f"{result['ssim']:.3f}", f"{result['coverage']:.3f}"
        table.add_row(case.title, f"{case.steps:,}", *quality, f"{result['gaussians']:,}", f"{result['seconds']:.0f}")
    console.print(table)


def print_next(config: Path, args: Demo, console: Console) -> None:
    """What to try next, ready to paste."""
    here, bin_folder = shlex.quote(str(config)), Path(sys.executable).parent
    console.print("\n[bold]Try next[/]")
    for line in (
        f"source {shlex.quote(str(bin_folder / 'activate'))}",
        f"ns-viewer --load-config {here}",
        f"ns-render dataset --load-config {here} --split test --rendered-output-names rgb depth normal "
        f"--output-path {shlex.quote(str(args.out / 'renders'))}",
        f"ns-export gaussian-splat --load-config {here} --output-dir {shlex.quote(str(args.out / 'splat'))}",
        "genfusion-prepare --images MY_PHOTOS --output my_scene   # your own photos, then:",
        "ns-train genfusion --data my_scene",
    ):
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)


@exits_cleanly
def run(args: Demo) -> None:
    """Make the scene, train, evaluate, show.

    Raises:
        UserError: a training failed, or the folder holds something else.
    """
    started = time.perf_counter()
    console = Console(width=None if sys.stdout.isatty() else 120)
    args.out = args.out.resolve()
    scene, picture = args.out / "scene", args.out / "before_after.png"
    make_scene(MakeScene(out=scene, size=args.size, overwrite=True))
    rows = [(case, train(case, args, scene, console)) for case in cases(args)]
    before_after(rows, picture)
    print_table(rows, console)
    (args.out / "table.json").write_text(json.dumps({case.title: result for case, result in rows}, indent=1))
    console.print(f"before/after picture: {picture}", soft_wrap=True, highlight=False)
    print_next(Path(rows[-1][1]["config"]), args, console)
    console.print(f"\ndone in {time.perf_counter() - started:.0f} s", highlight=False)


def main() -> None:
    """Entry point of scripts/demo."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the training is stopped too
    quiet.third_parties()
    run(tyro.cli(Demo, prog="scripts/demo"))


if __name__ == "__main__":
    main()
