"""Families of scenes: functions of their seed, plausible to film, and what they claim to be."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from genfusion_ns.cameras import opengl_to_opencv
from genfusion_ns.commands.make_scene import MakeScene, run
from genfusion_ns.errors import UserError
from genfusion_ns.synthetic import textures as tx
from genfusion_ns.synthetic.families import make_family_scene, scene_names
from genfusion_ns.synthetic.irregular import merged, sponge
from genfusion_ns.synthetic.looks import muted
from genfusion_ns.synthetic.poses import cameras_along
from genfusion_ns.synthetic.render import Scene, Studio, Thing
from genfusion_ns.synthetic.things import cushion, scattered

pytestmark = pytest.mark.slow

FAMILIES = ("rooms", "tables", "facades", "clutter", "terrains", "points", "menger", "tree")


def test_all_families_are_listed():
    assert set(scene_names()) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scene_follows_from_its_seed(family):
    first, again, other = (make_family_scene(family, seed) for seed in (3, 3, 4))
    photos = [Studio(staged.scene).photo(staged.cameras(3, 32, 20)[1], 1) for staged in (first, again, other)]
    np.testing.assert_array_equal(photos[0].rgb, photos[1].rgb)
    np.testing.assert_array_equal(photos[0].depth, photos[1].depth)
    assert (photos[0].rgb != photos[2].rgb).mean() > 0.3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [11, 12])
def test_photos_show_something_lit_from_outside_of_all_things(family, seed):
    staged = make_family_scene(family, seed)
    studio = Studio(staged.scene)
    photos = [studio.photo(camera, 1) for camera in staged.cameras(5, 32, 20)]
    depth, rgb = np.stack([photo.depth for photo in photos]), np.stack([photo.rgb for photo in photos])
    assert np.isfinite(depth).all() and (depth >= 0).all()
    assert (depth > 0).mean() > 0.05
    # a camera within a thing or right before it would see nothing else
    assert all(np.percentile(d[d > 0], 2) > 0.15 for d in depth if (d > 0).any())
    assert all(20 < photo.mean() < 240 and photo.std() > 4 for photo in rgb)


@pytest.mark.parametrize("family", FAMILIES)
def test_paths_are_smooth_and_do_not_depend_on_how_many_frames_are_taken(family):
    staged = make_family_scene(family, 21)
    cameras = staged.cameras(32, 160, 96)
    centres = np.stack([camera.position.numpy() for camera in cameras])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    bends = np.linalg.norm(np.diff(centres, n=2, axis=0), axis=1)
    assert steps.max() > 0 and bends.max() < 0.5 * steps.max()
    turns = [float(a.w2c[2, :3] @ b.w2c[2, :3]) for a, b in zip(cameras, cameras[1:], strict=False)]
    assert min(turns) > np.cos(np.radians(25))
    fewer = staged.cameras(2, 160, 96)
    np.testing.assert_allclose(fewer[1].w2c.numpy(), cameras[-1].w2c.numpy(), atol=1e-12)
    focal = float(cameras[0].K[0, 0])
    assert 45 <= 2 * np.degrees(np.arctan(80 / focal)) <= 75


def test_unknown_families_and_negative_seeds_are_told():
    with pytest.raises(UserError, match="rooms"):
        make_family_scene("castles", 0)
    with pytest.raises(UserError, match="-1"):
        make_family_scene("rooms", -1)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_menger_sponge_has_20_to_the_level_cubes_and_its_holes(level):
    cells = sponge(level)
    side = 3**level
    assert len(np.unique(cells, axis=0)) == len(cells) == 20**level
    assert np.abs(cells).max() == (side - 1) / 2
    # a cube is missing wherever two of its coordinates have a 1 at the same place in base 3
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    digits = [(grid // 3**place) % 3 == 1 for place in range(level)]
    solid = ~np.any([middle.sum(1) >= 2 for middle in digits], axis=0)
    found = {tuple(cell) for cell in (cells + (side - 1) / 2).astype(int)}
    assert found == {tuple(cell) for cell in grid[solid]}


def test_one_sees_through_the_middle_of_a_sponge_and_through_no_other_part_of_its_side():
    from trimesh.creation import box

    mesh = merged(box((1, 1, 1)), sponge(1), np.ones(20))
    camera = cameras_along(np.array([[20.0, 0.0, 0.0]]), np.zeros((1, 3)), 31, 31, fov=6.0)[0]
    depth = Studio(Scene((Thing(mesh, tx.plain((1, 1, 1))),), ())).photo(camera, 1).depth
    # the far end of the hole seems smaller than the near one
    rows, columns = np.nonzero(depth == 0)
    across = (np.stack([rows, columns]) + 0.5 - 15.5) / float(camera.K[0, 0])
    half_far, half_near = 0.5 / 21.5, 0.5 / 18.5
    assert len(rows) and (np.abs(across) <= half_near).all()
    y, x = (np.mgrid[:31, :31] + 0.5 - 15.5) / float(camera.K[0, 0])
    assert (depth[(np.abs(x) < half_far - 1e-3) & (np.abs(y) < half_far - 1e-3)] == 0).all()


def test_colours_are_mostly_muted():
    rng = np.random.default_rng(0)
    colors = np.array([muted(rng) for _ in range(600)])
    assert (colors > 0).all() and (colors <= 0.95).all()
    shown = colors ** (1 / 2.2)
    saturation = 1 - shown.min(1) / shown.max(1)
    assert np.median(saturation) < 0.35 and (saturation > 0.5).mean() < 0.15


def test_scattered_places_keep_their_distance():
    places = scattered(np.random.default_rng(0), 12, (1.0, 0.5), 0.3)
    assert len(places) >= 6 and (np.abs(places) <= [1.0, 0.5]).all()
    assert KDTree(places).query(places, k=2)[0][:, 1].min() >= 0.3


def test_a_cushion_fills_its_box_and_has_no_corners():
    mesh = cushion((0.4, 0.2, 0.6), 0.5)
    np.testing.assert_allclose(mesh.extents, [0.4, 0.2, 0.6], rtol=1e-3)
    assert 0.55 < mesh.volume / (0.4 * 0.2 * 0.6) < 0.95


def test_the_scene_command_writes_families_too(tmp_path, capsys):
    small = {"size": (24, 16), "views": 3, "supersample": 1, "points": 20}
    run(MakeScene(tmp_path / "cloud", family="points", seed=5, **small))
    frames = json.loads((tmp_path / "cloud" / "transforms.json").read_text())["frames"]
    staged = make_family_scene("points", 5)
    cameras = staged.cameras(3, 24, 16)
    depth = np.load(tmp_path / "cloud" / "ground_truth" / "frame_00003.npy")
    np.testing.assert_array_equal(depth, Studio(staged.scene).photo(cameras[2], 1).depth)
    pose = opengl_to_opencv(torch.tensor(frames[2]["transform_matrix"], dtype=torch.float64))
    torch.testing.assert_close(pose, cameras[2].c2w)
    with pytest.raises(SystemExit) as stop:
        run(MakeScene(tmp_path / "other", family="castles", **small))
    assert stop.value.code == 2 and "castles" in capsys.readouterr().err
