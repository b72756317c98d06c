"""Scene files so small that a fit takes a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from genfusion_ns.data.sequences import within_unit
from genfusion_ns.stereo.train.scenes import write_views
from genfusion_ns.synthetic.families import make_family_scene
from genfusion_ns.synthetic.render import Studio
from genfusion_ns.training_data.make import Recipe

FRAMES = 6
TINY = Recipe(side=40, frames=FRAMES, points=120, splats=200)


def tiny_scene(folder: Path, name: str = "scene_00001", family: str = "tables", seed: int = 1) -> Path:
    """Six photos of 40 x 24 pixels, as `genfusion-train-stereo scenes` writes them."""
    staged = make_family_scene(family, seed)
    cameras = staged.cameras(FRAMES, 40, 24)
    studio = Studio(staged.scene)
    photos = [studio.photo(camera, 1) for camera in cameras]
    unit, scale = within_unit(cameras)
    depth = np.stack([photo.depth for photo in photos])
    folder.mkdir(parents=True, exist_ok=True)
    write_views(folder / f"{name}.safetensors", np.stack([photo.rgb for photo in photos]), depth * scale, unit)
    return folder / f"{name}.safetensors"


def spoiled(scene: Path, to: Path, keep: list[int]) -> Path:
    """The same scene with other colours and depths in all photos but those to keep."""
    content = {name: value.copy() for name, value in load_file(scene).items()}
    for i in set(range(FRAMES)) - set(keep):
        content["rgb"][i] = 255 - content["rgb"][i]
        content["depth"][i] *= np.float16(0.7)
    to.mkdir(parents=True, exist_ok=True)
    save_file(content, to / scene.name)
    return to / scene.name
