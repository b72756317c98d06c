"""A round's numbers and its picture for Nerfstudio's writers (TensorBoard, Weights & Biases, Comet), and the picture as
a file in the run's folder."""

from __future__ import annotations

import io
from pathlib import Path

import nerfstudio.configs.base_config  # noqa: F401 - it and writer import each other; only this order works
from nerfstudio.utils import writer
from PIL import Image
from torch import Tensor

from genfusion_ns.files import write_atomic
from genfusion_ns.loop.state import RoundReport

FOLDER = "rounds"


def log_round(report: RoundReport, sheet: Tensor | None, step: int, run_folder: Path) -> None:
    """Hand one finished round over.

    Args:
        sheet: [H, W, 3] in [0, 1] what it changed (`contact_sheet`), if it had clips.
        step: the training step, from 0, that it followed.
        run_folder: the picture becomes rounds/round_001.png in it, numbered from 1 as in the log.
    """
    scalars = {
        "pool size": report.pool,
        "coverage": report.coverage,
        "agreement": report.agreement,
        "admitted": report.admitted,
        "clips refused": report.clips_refused,
        "splats added": report.added,
        "change": report.change,
    }
    if report.before is not None:
        scalars |= {f"before: {name}": value for name, value in report.before.items()}
    writer.put_dict(name="Rounds", scalar_dict=scalars, step=step)
    if sheet is None:
        return
    writer.put_image(name="Rounds/before, after, confidence", image=sheet, step=step)
    folder = run_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"round_{report.round + 1:03d}.png", encoded(sheet, "PNG"))


def encoded(sheet: Tensor, kind: str, max_width: int | None = None) -> bytes:
    """A picture [H, W, 3] in [0, 1] as the bytes of a `kind` file (PNG, JPEG), reduced to `max_width` pixels."""
    image = Image.fromarray((sheet * 255.0).round().byte().cpu().numpy())
    if max_width is not None and image.width > max_width:
        image = image.resize((max_width, max(1, round(image.height * max_width / image.width))))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def last_sheet(run_folder: Path) -> Path | None:
    """The picture of the run's last round, if there is one."""
    return max((run_folder / FOLDER).glob("round_*.png"), default=None)
