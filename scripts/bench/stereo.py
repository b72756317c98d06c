"""Depth of posed photos by the bundled stereo network: milliseconds for all photos together, and peak memory.

python scripts/bench/stereo.py --photos 3 50 --size 320 192
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import tyro

from genfusion_ns.data.points import measured_points
from genfusion_ns.data.sequences import within_unit
from genfusion_ns.data.views import TrainView
from genfusion_ns.errors import exits_cleanly
from genfusion_ns.stereo.estimator import StereoEstimator
from genfusion_ns.stereo.posed_photos import PosedPhoto, posed_photos
from genfusion_ns.synthetic.demo import demo_path, demo_scene
from genfusion_ns.synthetic.render import Studio


@dataclass
class Args:
    """Measure the depth of photos of the demo room."""

    photos: tuple[int, ...] = (3, 50)
    """Numbers of photos."""
    size: tuple[int, int] = (320, 192)
    """Width and height of the photos."""
    repeats: int = 3
    """Runs that are timed, after one that is not."""
    device: measure.Device = measure.DEVICE
    """Where to run."""
    json: Path | None = None
    """Write the figures to this file; - = standard output, and no table."""


@exits_cleanly
def main(args: Args) -> None:
    """Measure and report."""
    device = measure.checked_device(args.device)
    estimator = StereoEstimator(device=device)
    rows: list[dict[str, Any]] = []
    for count in args.photos:
        photos = room_photos(count, args.size)
        found = measure.timed(lambda photos=photos: estimator.estimate(photos), args.repeats, device)
        rows.append({"photos": count, "size": "x".join(map(str, args.size)), **found})
    measure.report(rows, device, "Depth of posed photos", args.json)


def room_photos(count: int, size: tuple[int, int]) -> list[PosedPhoto]:
    """Photos along the demo's path, evenly apart."""
    studio, cameras = Studio(demo_scene()), demo_path(count, *size)
    views = [
        TrainView(camera, studio.photo(shot, 3).rgb, f"{i}.png", i)
        for i, (camera, shot) in enumerate(zip(within_unit(cameras)[0], cameras, strict=True))
    ]
    return posed_photos(views, measured_points(views, None)[0])


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
