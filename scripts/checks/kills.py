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

CONSOLE = Console(width=120, file=sys.stdout, highlight=False)
SIZE = (48, 32)
"""Width and height of the photos."""


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
    seed: int = 0
    """The moments of the kills follow from it."""


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
    data.loop = replace(data.loop, repairer="classical", start=every, every=every, until=args.steps - every // 2)
    data.loop = replace(data.loop, frames=4, clip_length=4, max_side=max(SIZE), expand=100)
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
    with (
        (config.output_dir / f"{config.timestamp}.log").open("a") as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
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
    now, parts = 0, 0

    def inside(what: str) -> None:
        nonlocal parts
        parts += 1
        tell(f"round {now}: {what} {parts}")

    def begin(loop: Loop, *_: Any, **__: Any) -> None:
        nonlocal now, parts
        now, parts = loop.state.round + 1, 0
        inside("begin")

    tell_when(Loop, "round", begin)
    tell_when(round, "render_clip", lambda *_: inside("clip"))
    tell_when(view_buffer, "write_atomic", lambda *_: inside("file"))
    tell_when(GeneratedViews, "save", lambda *_: tell(f"round {now} saved"), after=True)
    tell_when(GenFusionTrainer, "save_checkpoint", lambda _, step: tell(f"checkpoint {step}"))


def tell_when(owner: Any, name: str, say: Callable[..., None], after: bool = False) -> None:
    """Have `say` called, with the same arguments, before or after each call of an owner's function."""
    original = getattr(owner, name)

    def wrapped(*given: Any, **named: Any) -> Any:
        if not after:
            say(*given, **named)
        result = original(*given, **named)
        if after:
            say(*given, **named)
        return result

    setattr(owner, name, wrapped)


# -- the killer ------------------------------------------------------------------------------------------------------


def is_inside(moment: str) -> bool:
    """Whether a moment lies within a round."""
    return moment.startswith("round") and ":" in moment


def moments_of(config: GenFusionTrainerConfig) -> Iterator[tuple[str, Any]]:
    """Start the training, and give each moment with the process, which may be killed then.

    Raises:
        UserError: it ended by itself, and badly.
    """
    context: Any = mp.get_context("fork")  # quick, and safe: this process trains nothing itself
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
        end = (config.output_dir / f"{config.timestamp}.log").read_text()[-3000:]
        raise UserError(f"the training failed with exit code {process.exitcode}:\n{end}")


def aims(moments: Sequence[str], args: Check) -> list[str]:
    """The moments of the kills, in their order: some within rounds, the others anywhere."""
    draw = random.Random(args.seed)
    # The last part of a round is left out: by the time the signal arrives, it may be over.
    inside = [m for i, m in enumerate(moments) if is_inside(m) and is_inside(moments[min(i + 3, len(moments) - 1)])]
    chosen = set(draw.sample(inside, min(args.in_rounds, len(inside))))
    others = [m for m in moments if m not in chosen and not is_inside(m)]
    chosen |= set(draw.sample(others, args.kills - len(chosen)))
    return [moment for moment in moments if moment in chosen]


def run_until(aim: str, moments: Sequence[str], config: GenFusionTrainerConfig) -> str | None:
    """Start or resume the run and kill it at `aim`; the last moment that it told of, None if it came to its end."""
    place = {moment: i for i, moment in enumerate(moments)}
    last, killed = "start", False
    for last, process in moments_of(config):
        if not killed and place.get(last, -1) >= place[aim]:
            os.kill(process.pid, signal.SIGKILL)
            killed = True
    if not killed:
        return None
    frames = read_pool(config.get_base_dir() / GENERATED_FOLDER)
    CONSOLE.print(f"killed at '{aim}', last told '{last}'; {frames} frames on disk, all of them whole")
    return last


def kill_and_resume(moments: Sequence[str], args: Check, config: GenFusionTrainerConfig) -> list[str]:
    """Kill the run at all aims; the moments of its deaths. The last start is left to be made."""
    deaths: list[str] = []
    todo = aims(moments, args)
    while todo:
        aim = todo.pop(0)
        death = run_until(aim, moments, config)
        if death is None:
            break
        deaths.append(death)
        if is_inside(aim) and not is_inside(death):
            spare = [m for m in moments[moments.index(death) + 1 :] if is_inside(m) and m not in todo]
            todo = sorted([*todo, *spare[:1]], key=moments.index)
    return deaths


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


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """All leaves of a checkpoint by their names, to the bit; wall-clock times are left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is not None:
        for key, inner in items:
            if key != "seconds":
                yield from leaves(inner, f"{name}/{key}")
    elif isinstance(value, torch.Tensor):
        yield name, (value.dtype, value.shape, value.numpy().tobytes())
    else:
        yield name, (type(value), repr(value))


def result_of(config: GenFusionTrainerConfig) -> dict[str, Any]:
    """Everything in a run's last checkpoint and in its pool on disk."""
    path = config.get_checkpoint_dir() / f"step-{config.max_num_iterations - 1:09d}.ckpt"
    found = dict(leaves(torch.load(path, weights_only=True), "checkpoint"))
    pool = config.get_base_dir() / GENERATED_FOLDER
    return found | {f"pool file {path.name}": path.read_bytes() for path in pool.iterdir()}


def check(args: Check, folder: Path) -> list[str]:
    """Run everything; what went wrong."""
    scene = folder / "scene"
    write_scene(scene, demo_scene(), demo_path(12, *SIZE), {"views": 12}, points=400, supersample=1)
    whole, broken = config_of(args, scene, "whole"), config_of(args, scene, "broken")
    moments = [moment for moment, _ in moments_of(whole)]
    rounds = sum(moment.endswith(": begin 1") for moment in moments)
    CONSOLE.print(f"the unbroken run: {args.steps} steps, {rounds} rounds, {len(moments)} moments to be killed at")
    deaths = kill_and_resume(moments, args, broken)
    for _ in moments_of(broken):
        pass
    a, b = result_of(whole), result_of(broken)
    CONSOLE.print(f"compared to the bit: {len(a):,} values and tensors of the last checkpoint, and files of the pool")
    faults = [f"differs: {name}" for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
    base = broken.get_base_dir()
    left = [*base.glob(".step-*"), *(base / GENERATED_FOLDER).glob(".*")]
    faults += [f"left over at the end: {path}" for path in left]
    hits = sum(map(is_inside, deaths))
    if len(deaths) < args.kills or hits < args.in_rounds:
        faults.append(f"only {len(deaths)} kills, {hits} of them within rounds; try another --seed")
    return faults


def main(args: Check) -> int:
    """Check; the exit status."""
    quiet.third_parties()
    with tempfile.TemporaryDirectory() as folder:
        faults = check(args, Path(folder))
    for fault in faults[:20]:
        CONSOLE.print(f"[red]missed:[/] {fault}")
    if not faults:
        CONSOLE.print("[green]the killed run ended like the unbroken one[/]")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Check)))
