"""Kill a training by SIGKILL again and again, resume it each time, and compare its end with that of an unbroken one.

    python scripts/checks/kills.py

The unbroken run tells its moments: each step, each checkpoint, and within a round each clip and each file of the pool.
The other run is killed when it announces moments drawn from the seed, and goes on from its latest checkpoint. After
each kill every file of the pool is read back. Exits with status 1 if a tensor or a file differs, a file is torn, or
too few kills hit a round. Linux and macOS.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from genfusion_ns import quiet
from genfusion_ns.errors import UserError
from genfusion_ns.loop import round, view_buffer
from genfusion_ns.loop.round import Loop
from genfusion_ns.loop.view_buffer import GeneratedViews
from genfusion_ns.plugin.config import cpu_config
from genfusion_ns.plugin.trainer import GenFusionTrainer, GenFusionTrainerConfig
from genfusion_ns.plugin.training_rounds import GENERATED_FOLDER
from genfusion_ns.synthetic.demo import demo_path, demo_scene
from genfusion_ns.synthetic.write import write_scene

CONSOLE = Console(width=120, file=sys.stdout)


@dataclass
class Check:
    """Kill and resume a tiny training, and compare it with an unbroken one."""

    kills: int = 10
    """How often the run is killed."""
    in_rounds: int = 4
    """How many of these kills have to hit a round; where one comes too late, the run is killed once more."""
    steps: int = 100
    """Length of the run."""
    rounds: int = 5
    """About how many rounds it has."""
    save_every: int = 7
    """Steps between checkpoints."""
    size: tuple[int, int] = (48, 32)
    """Width and height of the photos."""
    repairer: str = "classical"
    """Who repairs the renders."""
    seed: int = 0
    """The moments of the kills follow from it."""
    fresh: bool = False
    """Start each training in a new interpreter (ten seconds each) instead of a fork of this one, which trains nothing
    itself."""


def config_of(args: Check, scene: Path, name: str) -> GenFusionTrainerConfig:
    """A training in which everything happens that a checkpoint has to carry over."""
    config = cpu_config("genfusion-kills")
    data, model = config.pipeline.datamanager, config.pipeline.model
    config.data = data.data = scene
    config.output_dir, config.experiment_name, config.timestamp = scene.parent, "runs", name
    config.vis, config.logging.local_writer.enable = "tensorboard", False
    config.max_num_iterations, config.steps_per_save, config.steps_per_eval_image = args.steps, args.save_every, 0
    data.reference_iterations = model.reference_iterations = args.steps
    data.max_seed_points, data.initial_points = 400, "all"
    every = args.steps // (args.rounds + 1)
    data.loop = replace(data.loop, repairer=args.repairer, start=every, every=every, until=args.steps - every // 2)
    data.loop = replace(data.loop, frames=4, clip_length=4, max_side=max(args.size), expand=100)
    model.sh_degree_interval, model.normal_start, model.distortion_lambda = args.steps // 4, args.steps // 2, 1e-2
    densifier = model.densifier
    densifier.start, densifier.stop, densifier.every = args.steps // 10, args.steps, args.steps // 10
    densifier.reset_every, densifier.pause_after_reset = args.steps // 3, 2
    densifier.grow_grad2d, densifier.visible_base, densifier.visible_cap = 1e-6, 2, 4
    return config


# -- the run that is killed ------------------------------------------------------------------------------------------


def train(config: GenFusionTrainerConfig, told: Connection) -> None:
    """What the killed process does: train, from the latest checkpoint if there is one, and tell its moments."""
    torch.set_num_threads(1)
    log = config.output_dir / f"{config.timestamp}.log"
    with log.open("a") as stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        folder = config.get_checkpoint_dir()
        config.load_dir = folder if any(folder.glob("step-*.ckpt")) else None
        announce_moments(told.send)
        trainer: Any = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        before_step = [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION]
        trainer.callbacks.append(TrainingCallback(before_step, lambda step: told.send(f"step {step}")))
        trainer.train()


def announce_moments(tell: Callable[[str], None]) -> None:
    """From now on, this process tells when it begins a round, a clip, a file of the pool, or a checkpoint."""
    run_round, render_clip, write = Loop.round, round.render_clip, view_buffer.write_atomic
    save_pool, save_checkpoint = GeneratedViews.save, GenFusionTrainer.save_checkpoint
    now, parts = 0, 0

    def inside(what: str) -> None:
        nonlocal parts
        parts += 1
        tell(f"round {now}: {what} {parts}")

    def told_round(loop: Loop, *given: Any, **named: Any) -> Any:
        nonlocal now, parts
        now, parts = loop.state.round + 1, 0
        inside("begin")
        return run_round(loop, *given, **named)

    def told_clip(*given: Any) -> Any:
        inside("clip")
        return render_clip(*given)

    def told_write(*given: Any) -> None:
        inside("file")
        write(*given)

    def told_save(self: GeneratedViews, folder: Path) -> None:
        save_pool(self, folder)
        tell(f"round {now} saved")

    def told_checkpoint(trainer: GenFusionTrainer, step: int) -> None:
        tell(f"checkpoint {step}")
        save_checkpoint(trainer, step)

    Loop.round = told_round  # pyright: ignore[reportAttributeAccessIssue]
    round.render_clip, view_buffer.write_atomic = told_clip, told_write
    GeneratedViews.save, GenFusionTrainer.save_checkpoint = told_save, told_checkpoint


# -- the killer ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Death:
    """One start of the run, and its end."""

    aim: str
    """At which moment it was to be killed."""
    last: str
    """The last moment that it told of."""
    resumed_at: int
    """First step after its start."""
    frames: int
    """Frames of the pool on disk, all of them whole."""
    leftovers: int
    """Temporary files that the kill left behind."""

    @property
    def in_round(self) -> bool:
        """Whether a round was going on."""
        return is_inside(self.last)


def is_inside(moment: str) -> bool:
    """Whether a moment lies within a round."""
    return moment.startswith("round") and ":" in moment


def moments_of(args: Check, config: GenFusionTrainerConfig) -> Iterator[tuple[str, Any]]:
    """Start the training, and give each moment with the process, which may be killed then.

    Raises:
        UserError: it ended by itself, and badly.
    """
    context: Any = mp.get_context("spawn" if args.fresh else "fork")
    heard, told = context.Pipe(duplex=False)
    process = context.Process(target=train, args=(config, told))
    process.start()
    told.close()
    try:
        while True:
            yield heard.recv(), process
    except EOFError:
        process.join()
    finally:
        process.kill()
        process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        log = config.output_dir / f"{config.timestamp}.log"
        raise UserError(f"the training failed with exit code {process.exitcode}:\n{log.read_text()[-3000:]}")


def aims(moments: Sequence[str], args: Check) -> list[str]:
    """The moments of the kills, in their order: some within rounds, the others anywhere."""
    draw = random.Random(args.seed)
    # The last part of a round is left out: by the time the signal arrives, it may be over.
    inside = [m for i, m in enumerate(moments) if is_inside(m) and is_inside(moments[min(i + 3, len(moments) - 1)])]
    chosen = set(draw.sample(inside, min(args.in_rounds, len(inside))))
    others = [m for m in moments if m not in chosen and not is_inside(m)]
    chosen |= set(draw.sample(others, args.kills - len(chosen)))
    return [moment for moment in moments if moment in chosen]


def run_until(aim: str, moments: Sequence[str], args: Check, config: GenFusionTrainerConfig) -> Death | None:
    """Start or resume the run and kill it at `aim`; None if it came to its end."""
    place = {moment: i for i, moment in enumerate(moments)}
    last, first_step, killed = "start", -1, False
    for moment, process in moments_of(args, config):
        last = moment
        if first_step < 0 and moment.startswith("step "):
            first_step = int(moment.split()[1])
        if not killed and place.get(moment, -1) >= place[aim]:
            os.kill(process.pid, signal.SIGKILL)
            killed = True
    if not killed:
        return None
    frames = read_pool(config.get_base_dir() / GENERATED_FOLDER)
    return Death(aim, last, first_step, frames, len(leftovers_in(config.get_base_dir())))


# -- what has to hold ------------------------------------------------------------------------------------------------


def read_pool(folder: Path) -> int:
    """How many frames the pool on disk names.

    Raises:
        UserError: its index or a frame is missing or damaged.
        SafetensorError: a frame that it does not name (yet) is damaged.
    """
    for path in folder.glob("[!.]*.safetensors"):  # a temporary file, cut off by the kill, begins with a dot
        load_file(path)
    return len(GeneratedViews.load(folder).frames) if (folder / "pool.json").is_file() else 0


def leftovers_in(run_folder: Path) -> list[Path]:
    """Temporary files in a run's folder."""
    return [*run_folder.glob(".step-*"), *(run_folder / GENERATED_FOLDER).glob(".*")]


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves of a checkpoint by their names; wall-clock times are left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        yield name, value
        return
    for key, inner in items:
        if key != "seconds":
            yield from flat(inner, f"{name}/{key}")


def same(a: Any, b: Any) -> bool:
    """Whether two leaves are alike to the bit."""
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return type(a) is type(b) and repr(a) == repr(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def differences(whole: GenFusionTrainerConfig, broken: GenFusionTrainerConfig) -> tuple[list[str], int, int]:
    """What differs in the last checkpoints and the pools on disk, and how many tensors and files were compared."""
    loaded = []
    for config in (whole, broken):
        path = config.get_checkpoint_dir() / f"step-{config.max_num_iterations - 1:09d}.ckpt"
        loaded.append(dict(flat(torch.load(path, weights_only=True))))
    a, b = loaded
    found = [f"only in one checkpoint: {name}" for name in sorted(a.keys() ^ b.keys())]
    found += [f"differs: {name}" for name in sorted(a.keys() & b.keys()) if not same(a[name], b[name])]
    folders = [config.get_base_dir() / GENERATED_FOLDER for config in (whole, broken)]
    p, q = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    found += [f"only in one pool: {name}" for name in sorted(p.keys() ^ q.keys())]
    found += [f"differs: pool file {name}" for name in sorted(p.keys() & q.keys()) if p[name] != q[name]]
    return found, sum(isinstance(value, torch.Tensor) for value in a.values()), len(p)


def check(args: Check, folder: Path) -> list[str]:
    """Run everything; what went wrong."""
    scene = folder / "scene"
    write_scene(scene, demo_scene(), demo_path(12, *args.size), {"views": 12}, points=400, supersample=1)
    whole, broken = config_of(args, scene, "whole"), config_of(args, scene, "broken")
    moments = [moment for moment, _ in moments_of(args, whole)]
    rounds = sum(moment.endswith(": begin 1") for moment in moments)
    CONSOLE.print(f"the unbroken run: {args.steps} steps, {rounds} rounds, {len(moments)} moments to be killed at")
    deaths = kill_and_resume(moments, args, broken)
    for _ in moments_of(args, broken):
        pass
    CONSOLE.print(table_of(deaths))
    faults, tensors, files = differences(whole, broken)
    CONSOLE.print(f"compared to the bit: {tensors:,} tensors of the last checkpoint, {files} files of the pool")
    faults += [f"left over at the end: {path}" for path in leftovers_in(broken.get_base_dir())]
    hits = sum(death.in_round for death in deaths)
    if len(deaths) < args.kills or hits < args.in_rounds:
        faults.append(f"only {len(deaths)} kills, {hits} of them within rounds; try another --seed")
    return faults


def kill_and_resume(moments: Sequence[str], args: Check, config: GenFusionTrainerConfig) -> list[Death]:
    """Kill the run at all aims; the last start is left to be made."""
    deaths: list[Death] = []
    todo = aims(moments, args)
    while todo:
        aim = todo.pop(0)
        death = run_until(aim, moments, args, config)
        if death is None:
            break
        deaths.append(death)
        if is_inside(aim) and not death.in_round:
            spare = [m for m in moments[moments.index(death.last) + 1 :] if is_inside(m) and m not in todo]
            todo = sorted([*todo, *spare[:1]], key=moments.index)
    return deaths


def table_of(deaths: Sequence[Death]) -> Table:
    """One row per kill."""
    table = Table(title="kills")
    for name in ("killed at", "last sign of life", "in a round", "had begun at step", "frames on disk", "leftovers"):
        table.add_column(name, justify="left" if name in ("killed at", "last sign of life") else "right")
    for death in deaths:
        numbers = str(death.resumed_at), str(death.frames), str(death.leftovers)
        table.add_row(death.aim, death.last, "yes" if death.in_round else "", *numbers)
    return table


def main(args: Check) -> int:
    """Check; the exit status."""
    quiet.third_parties()
    with tempfile.TemporaryDirectory() as folder:
        faults = check(args, Path(folder))
    for fault in faults[:20]:
        CONSOLE.print(f"[red]missed:[/] {fault}", highlight=False)
    if not faults:
        CONSOLE.print("[green]the killed run ended like the unbroken one[/]")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Check)))
