"""Commands for what comes next, ready to paste."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE

_RESUME_OPTIONS = ("--load-dir", "--load-step", "--load-checkpoint", "--timestamp")


def resume_command(argv: Sequence[str], config: TrainerConfig, checkpoints: Path) -> str:
    """The `ns-train` call that continues a run in its own folder.

    Args:
        argv: the process's arguments, its name first; another program's are replaced by the least that is needed.
        checkpoints: the run's folder of checkpoints.
    """
    method, own = str(config.method_name), without_options(argv[1:], _RESUME_OPTIONS)
    if method not in own:
        own = [method, "--data", str(config.pipeline.datamanager.data)]
    place = own.index(method) + 1
    resume = ["--load-dir", str(checkpoints), "--timestamp", config.timestamp]
    return shlex.join(["ns-train", *own[:place], *resume, *own[place:]])


def commands_after_training(config: Path) -> list[str]:
    """Look at the run of a config.yml, measure it, film it, export it."""
    run, out = shlex.quote(str(config)), config.parent
    return [
        f"ns-viewer --load-config {run}",
        f"ns-eval --load-config {run} --output-path {shlex.quote(str(out / 'metrics.json'))}",
        f"ns-render interpolate --load-config {run} --pose-source train "
        f"--output-path {shlex.quote(str(out / 'video.mp4'))}",
        f"ns-export gaussian-splat --load-config {run} --output-dir {shlex.quote(str(out / 'export'))}",
    ]


def without_options(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Arguments less the options of these names and the one value of each (`--name value`, `--name=value`)."""
    kept, skip = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if skip:
            skip = False
        elif name.replace("_", "-") in names:
            skip = not equals
        else:
            kept.append(argument)
    return kept


def print_commands(commands: Sequence[str]) -> None:
    """One command a line, unwrapped and unstyled, so that they survive being pasted."""
    for command in commands:
        CONSOLE.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
