"""Which checkpoint a run goes on from, and reading it without running what a stranger may have put in it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from genfusion_ns.errors import UserError

MODELS = "nerfstudio_models"
"""Folder of a run's checkpoints."""
PARTS = ("step", "pipeline", "optimizers", "scalers")
"""What every checkpoint of Nerfstudio's trainer holds."""
MOST_BROKEN = 0.01
"""Share of splats that may be NaN; the densifier removes single ones."""
_NAME = re.compile(r"step-(\d+)\.ckpt")


def checkpoints(folder: Path) -> dict[int, Path]:
    """A folder's checkpoints by step, the oldest first; other files are passed over."""
    found = {int(match[1]): path for path in folder.glob("*.ckpt") if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def find_checkpoint(folder: Path, step: int | None = None) -> Path:
    """The newest checkpoint, or that of a step, in a folder of checkpoints or of a run. Raises UserError: no such
    folder, checkpoint or step."""
    if folder.is_file():
        raise UserError(f"--load-dir is {folder}, a file; expected a folder. For one file take --load-checkpoint.")
    found = checkpoints(folder) or checkpoints(folder / MODELS)
    if not found:
        state = "holds no checkpoint" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{folder} {state}; expected step-*.ckpt files, as in outputs/<scene>/<method>/<time>/{MODELS}. Train "
            "without --load-dir to begin anew."
        )
    if step is not None and step not in found:
        raise UserError(f"{folder} has no checkpoint of step {step}; it has those of {', '.join(map(str, found))}.")
    return found[max(found) if step is None else step]


def chosen_checkpoint(folder: Path | None, step: int | None, file: Path | None) -> Path | None:
    """What --load-dir, --load-step and --load-checkpoint ask for; None = to begin anew. Raises UserError: it is not
    there."""
    if folder is not None:
        return find_checkpoint(folder, step)
    if file is not None and not file.is_file():
        raise UserError(f"--load-checkpoint is {file}, which is no file; expected a step-*.ckpt.")
    return file


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content: tensors, numbers and strings only. Raises UserError: cut off, damaged, holding other
    objects, or of something else; names an older one if there is one."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unreadable(
            path, "is no checkpoint, or holds objects besides numbers and tensors, which are not run"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise _unreadable(path, "is cut off or damaged") from error
    missing = [part for part in PARTS if not isinstance(state, Mapping) or part not in state]
    if missing or not isinstance(state["step"], int):
        raise _unreadable(path, f"is no checkpoint of ns-train: it lacks {', '.join(missing) or 'a whole step number'}")
    return dict(state)


@contextmanager
def fitting_errors(path: Path) -> Iterator[None]:
    """Turn what PyTorch raises while it takes over a checkpoint of other networks into a `UserError`."""
    try:
        yield
    except UserError as error:
        raise _unreadable(path, f"can't be loaded: {error}") from error
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _unreadable(path, f"does not fit this run ({type(error).__name__}: {reason})") from error


def check_finite(params: Mapping[str, torch.Tensor]) -> None:
    """Splats of a diverged run are worth nothing. Raises UserError: more than `MOST_BROKEN` of them, raw parameters
    [N, ...] each, are NaN or infinite."""
    broken = torch.stack([~value.isfinite().flatten(1).all(dim=1) for value in params.values()]).any(dim=0)
    if len(broken) and broken.float().mean() > MOST_BROKEN:
        raise UserError(f"{int(broken.sum()):,} of its {len(broken):,} splats are NaN or infinite")


def _unreadable(path: Path, what: str) -> UserError:
    older = [step for step, other in checkpoints(path.parent).items() if other != path and other.name < path.name]
    hint = (
        f"An older checkpoint is there: --load-dir {path.parent} --load-step {older[-1]}."
        if older
        else f"There is no older checkpoint in {path.parent}; train anew, or restore the file from a copy."
    )
    return UserError(f"{path} {what}. {hint}")
