"""`genfusion-scene`: writes a procedural scene, with exact depths and poses, in Nerfstudio's format."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro
from rich.console import Console
from tyro.conf import Positional

from genfusion_ns.bounds import COUNT, NATURAL, Bound, Bounds, check_bounds
from genfusion_ns.errors import UserError, exits_cleanly
from genfusion_ns.files import write_errors
from genfusion_ns.synthetic.demo import demo_path, demo_scene
from genfusion_ns.synthetic.families import make_family_scene
from genfusion_ns.synthetic.write import write_scene


@dataclass
class MakeScene:
    """Render a procedural scene into a folder that `ns-train genfusion --data FOLDER` takes.

    The same arguments give the same scene; where it is already there, nothing is done.
    """

    out: Positional[Path]
    """New folder for the scene; it appears when the scene is complete."""
    size: tuple[int, int] = (160, 90)
    """Width and height of the photos in pixels; time grows with their product (160 x 90: about 0.2 s a photo)."""
    views: int = 40
    """Photos along the path; every 8th is for tests."""
    seed: int = 0
    """Changes textures, places and the path; the same seed gives the same scene."""
    family: str = "demo"
    """demo = the room with a table that scripts/demo trains on; or a family of random scenes: rooms, tables, facades,
    clutter, terrains, or the irregular ones points, menger and tree."""
    supersample: int = 3
    """Rays per pixel side, odd; 3 is smooth enough for training, 5 for pictures."""
    points: int = 3000
    """Points in sparse_pc.ply, from which training with all views starts."""
    overwrite: bool = False
    """Replace a scene with other settings that is already in the folder."""

    BOUNDS: ClassVar[Bounds] = {
        "size": Bound(8),
        "views": Bound(2),
        "seed": NATURAL,
        "supersample": COUNT,
        "points": COUNT,
    }


@exits_cleanly
def run(args: MakeScene) -> None:
    """Write the scene that `args` describe.

    Raises:
        UserError: sizes that make no scene, an unknown family, or a folder that holds something else.
    """
    check_bounds(args, "--")
    width, height = args.size
    if args.supersample % 2 == 0:
        raise UserError(f"--supersample is {args.supersample}; give an odd number (1, 3, 5).")
    if args.family == "demo":
        scene, path = demo_scene(args.seed), demo_path(args.views, width, height, args.seed)
    else:
        staged = make_family_scene(args.family, args.seed)
        scene, path = staged.scene, staged.cameras(args.views, width, height)
    settings = {
        "scene": args.family,
        "version": 1,
        "size": [width, height],
        "views": args.views,
        "seed": args.seed,
    }
    settings |= {"supersample": args.supersample, "points": args.points}
    with write_errors(args.out, "Nothing of it is left; make room, or give another folder, and try again."):
        written = write_scene(
            args.out,
            scene,
            path,
            settings,
            points=args.points,
            supersample=args.supersample,
            overwrite=args.overwrite,
            show=True,
        )
    console = Console()
    console.print(f"{args.out}: {args.views} photos of {width} x {height} {'written' if written else 'already there'}")
    console.print(f"next: ns-train genfusion --data {shlex.quote(str(args.out))}", markup=False, soft_wrap=True)


def main() -> None:
    """Entry point of `genfusion-scene`."""
    run(tyro.cli(MakeScene))


if __name__ == "__main__":
    main()
