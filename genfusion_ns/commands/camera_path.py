"""genfusion-camera-path: write a camera path for a trained run, for `ns-render camera-path`.

Nerfstudio's own `ns-render spiral` refuses splats; this takes its place.
"""

from __future__ import annotations

import json
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import tyro
from rich.console import Console

from genfusion_ns.bounds import ANY, COUNT, Bound, Bounds, check_bounds
from genfusion_ns.camera_path import to_nerfstudio_camera_path
from genfusion_ns.errors import exits_cleanly
from genfusion_ns.files import check_output, write_atomic
from genfusion_ns.geometry import focus_point
from genfusion_ns.loop.trajectories import interpolate, ring, spiral, surrounds, template_view, visiting_order

if TYPE_CHECKING:
    from genfusion_ns.cameras import Camera

Kind = Literal["auto", "spiral", "ring", "interpolate"]


@dataclass
class CameraPathArguments:
    """Write a camera path around a trained scene as JSON, which `ns-render camera-path` turns into a video."""

    load_config: Path
    """config.yml of the run, as ns-train wrote it: outputs/<scene>/<method>/<time>/config.yml."""
    output: Path = Path("camera_path.json")
    """Where to write the path; an existing file is replaced."""
    kind: Kind = "auto"
    """spiral: winds around the mean training view, for captures from one side; ring: around the scene; interpolate:
    through all training views; auto: ring where the views surround the scene, else spiral."""
    frames: int = 120
    """Frames of the video; rendering time grows with it."""
    fps: float = 24.0
    """Frames a second."""
    radius: float = 1.0
    """Size of a spiral or ring, in sizes of the capture; above 1 looks from further out than any photo."""
    height: float = 0.0
    """How much higher a ring runs than the photos' mean height, in capture radii."""
    pitch: float = 0.0
    """Degrees by which a ring's cameras look above the scene's focus."""
    turns: float = 2.0
    """Windings of a spiral."""
    size: tuple[int, int] | None = None
    """Width and height of the video in pixels; the photos' by default."""

    BOUNDS: ClassVar[Bounds] = {
        "frames": COUNT,
        "fps": Bound(1e-3),
        "radius": Bound(1e-3),
        "height": ANY,
        "pitch": Bound(-90, 90),
        "turns": ANY,
        "size": Bound(16),
    }


def make_path(cameras: list[Camera], arguments: CameraPathArguments) -> tuple[list[Camera], bool]:
    """The poses that the arguments ask for, and whether the path is closed.

    Raises:
        UserError: a number is out of its range.
    """
    check_bounds(arguments, "--")
    width, height = arguments.size or (None, None)
    kind = arguments.kind
    around = surrounds(cameras)
    if kind == "auto":
        kind = "ring" if around else "spiral"
    template = template_view(cameras, width, height)
    n, radius = arguments.frames, arguments.radius
    if kind == "spiral":
        return spiral(cameras, n, template, radius=radius, turns=arguments.turns), arguments.turns % 1 == 0
    if kind == "ring":
        return ring(cameras, n, template, radius=radius, height=arguments.height, pitch=arguments.pitch), True
    ordered = [cameras[i] for i in visiting_order(cameras)]
    closed = around and len(ordered) > 2
    return interpolate(ordered, n, template, closed=closed, focus=focus_point(cameras) if around else None), closed


@exits_cleanly
def run(arguments: CameraPathArguments) -> None:
    """Load the run, make the path, write it, and say what to do with it."""
    from genfusion_ns.plugin.runs import load_run

    check_bounds(arguments, "--")
    check_output(arguments.output)
    cameras = [camera.to("cpu") for camera in load_run(arguments.load_config).training_cameras]
    path, closed = make_path(cameras, arguments)
    content = to_nerfstudio_camera_path(path, fps=arguments.fps, is_cycle=closed)
    write_atomic(arguments.output, json.dumps(content).encode())
    console = Console()
    console.print(f"wrote {len(path)} frames to {arguments.output}; next:", highlight=False)
    video = arguments.output.with_suffix(".mp4")
    run, path_file, video = (shlex.quote(str(name)) for name in (arguments.load_config, arguments.output, video))
    console.print(
        f"  ns-render camera-path --load-config {run} --camera-path-filename {path_file} --output-path {video}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(tyro.cli(CameraPathArguments))


if __name__ == "__main__":
    main()
