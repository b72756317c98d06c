"""Procedural scenes: geometry against formulas, light against expectation, files against their conventions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import binary_erosion
from trimesh.creation import icosphere

from genfusion_ns.cameras import pixel_rays, project, unproject
from genfusion_ns.commands.make_scene import MakeScene, run
from genfusion_ns.errors import UserError
from genfusion_ns.synthetic import textures as tx
from genfusion_ns.synthetic.demo import demo_path, demo_scene
from genfusion_ns.synthetic.poses import arc, cameras_along, hand_held
from genfusion_ns.synthetic.render import Lamp, Scene, Studio, Thing
from genfusion_ns.synthetic.shapes import bumpy, placed, quad, room, terrain, turned
from genfusion_ns.synthetic.write import sparse_splits, surface_points, write_scene

SUN = Lamp((0.0, 0.0, 3.0), (4.0, 4.0, 4.0), size=0.0)


def one_camera(width=48, height=36, position=(2.0, 0.3, 1.5), target=(0.0, 0.0, 0.5)):
    return cameras_along(np.array([position]), np.array([target]), width, height, fov=60.0)[0]


def test_depth_of_a_plane_and_a_ball_follows_the_formulas():
    ball, floor = icosphere(subdivisions=6, radius=0.5), quad(20, 20)
    things = (Thing(ball, tx.plain((0.5, 0.5, 0.5)), placed(ball, (0, 0, 0.25))), Thing(floor, tx.plain((1, 1, 1))))
    camera = one_camera()
    depth = Studio(Scene(things, (SUN,))).photo(camera, supersample=1).depth

    rays = pixel_rays(camera).numpy().reshape(-1, 3) @ camera.w2c[:3, :3].numpy()
    origin = camera.position.numpy()
    to_floor = -origin[2] / rays[:, 2]
    centre = origin - [0.0, 0.0, 0.75]
    a, b, c = (rays**2).sum(1), rays @ centre, centre @ centre - 0.25
    root = b * b - a * c
    to_ball = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0.0))) / a, np.inf)
    to_floor = np.where(to_floor > 0, to_floor, np.inf)
    on_floor = np.abs(rays * to_floor[:, None] + origin)[:, :2].max(1) < 10
    expected = np.minimum(to_ball, np.where(on_floor, to_floor, np.inf)).reshape(depth.shape)
    grazing = (np.abs(root) < 0.05 * a).reshape(depth.shape)  # the tessellated outline differs from the ball's
    seen = np.isfinite(expected) & ~grazing
    np.testing.assert_allclose(depth[seen], expected[seen], rtol=2e-3)
    assert (depth[~np.isfinite(expected) & ~grazing] == 0).all()
    np.testing.assert_allclose(depth[-1], expected[-1], rtol=1e-5)  # floor only: exact


def test_lambert_shading_of_a_floor_under_a_point_lamp():
    floor = quad(20, 20)
    scene = Scene((Thing(floor, tx.plain((0.5, 0.4, 0.3))),), (SUN,), sky=(0.1,) * 3, ground=(0.0,) * 3)
    camera = one_camera(position=(0.01, 0.0, 2.0), target=(0.0, 0.0, 0.0))
    photo = Studio(scene).photo(camera, supersample=1)
    points = unproject(torch.from_numpy(photo.depth)[..., None].double(), camera).numpy()
    offset = np.array(SUN.position) - points
    distance = np.linalg.norm(offset, axis=-1, keepdims=True)
    cosine = offset[..., 2:] / distance
    light = 0.1 + 4.0 * cosine**2 / distance**2  # the lamp faces down: one cosine for it, one for the floor
    expected = 255.0 * np.clip(np.array([0.5, 0.4, 0.3]) * light, 0, 1) ** (1 / 2.2)
    np.testing.assert_allclose(photo.rgb, expected, atol=0.51)


def test_a_ball_casts_a_shadow_and_a_larger_lamp_softens_it():
    ball, floor = icosphere(subdivisions=4, radius=0.3), quad(8, 8)
    grey = tx.plain((0.5, 0.5, 0.5))
    things = (Thing(floor, grey), Thing(ball, grey, placed(ball, (0, 0, 0.6))))
    camera = one_camera(96, 72, position=(0.0, 2.2, 0.4), target=(0.0, 0.0, 0.0))

    def photo(size, supersample):
        scene = Scene(things, (Lamp(SUN.position, SUN.color, size),), sky=(0.0,) * 3, ground=(0.0,) * 3)
        return Studio(scene).photo(camera, supersample)

    sharp, soft = photo(0.0, 1), photo(1.0, 5)
    points = unproject(torch.from_numpy(sharp.depth)[..., None].double(), camera).numpy()
    reach = np.linalg.norm(points[..., :2], axis=-1)
    on_floor = binary_erosion(np.abs(points[..., 2]) < 1e-3, np.ones((3, 3)))  # no pixel that is half ball
    edge = 0.3 / math.sqrt(1 - (0.3 / 2.1) ** 2) * 3.0 / 2.1  # where the cone from the lamp around the ball meets z = 0
    assert sharp.rgb[on_floor & (reach < 0.9 * edge)].max() == 0
    assert sharp.rgb[on_floor & (reach > 1.1 * edge) & (reach < 1.0)].min() > 100
    penumbra = on_floor & (reach > 0.75 * edge) & (reach < 0.95 * edge)
    assert soft.rgb[penumbra].mean() > sharp.rgb[penumbra].mean() + 5


def test_supersampling_is_the_mean_of_a_finer_photo():
    scene = demo_scene(3)
    lamps = tuple(Lamp(lamp.position, lamp.color, size=0.0) for lamp in scene.lamps)
    studio = Studio(Scene(scene.things, lamps))
    camera = demo_path(2, 32, 18)[0]
    coarse = studio.photo(camera, supersample=3)
    fine = studio.photo(camera.resized(96, 54), supersample=1)
    linear = (fine.rgb / 255.0) ** 2.2
    mean = 255.0 * linear.reshape(18, 3, 32, 3, 3).mean((1, 3)) ** (1 / 2.2)
    bright = (fine.rgb < 255).reshape(18, 3, 32, 3, 3).all((1, 3, 4))  # clipping is per photo
    np.testing.assert_allclose(coarse.rgb[bright], mean[bright], atol=1.5)
    np.testing.assert_array_equal(coarse.depth, fine.depth[1::3, 1::3])


def test_even_supersampling_is_refused():
    with pytest.raises(ValueError, match="supersample is 2.*odd"):
        Studio(Scene((Thing(quad(1, 1), tx.plain((1, 1, 1))),), ())).photo(one_camera(), supersample=2)


def test_neighbouring_photos_show_the_same_colours_at_the_same_points():
    studio = Studio(demo_scene(0))
    first, second = demo_path(40, 128, 72)[10:12]
    one, two = studio.photo(first), studio.photo(second)
    points = unproject(torch.from_numpy(one.depth)[..., None].double(), first)
    pixel, depth = project(points, second)
    x, y = pixel[..., 0].floor().long().numpy(), pixel[..., 1].floor().long().numpy()
    inside = (x >= 0) & (x < 128) & (y >= 0) & (y < 72)
    x, y = x.clip(0, 127), y.clip(0, 71)
    visible = inside & (np.abs(two.depth[y, x] - depth.numpy()) < 0.01)
    assert visible.mean() > 0.5
    apart = np.abs(one.rgb.astype(float) - two.rgb[y, x])[visible]
    assert np.median(apart) < 6


def test_demo_scene_fills_the_photo_and_depends_on_the_seed_alone():
    camera = demo_path(3, 64, 36, seed=5)[1]
    photos = [Studio(demo_scene(seed)).photo(camera) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(photos[0].rgb, photos[1].rgb)
    np.testing.assert_array_equal(photos[0].depth, photos[1].depth)
    assert np.abs(photos[0].rgb.astype(int) - photos[2].rgb).mean() > 5
    assert (photos[0].depth > 0.2).all()
    assert photos[0].rgb.std() > 30


TEXTURES = {
    "plain": tx.plain((0.2, 0.4, 0.6)),
    "mottled": tx.mottled((0.1, 0.2, 0.3), (0.9, 0.8, 0.7), 1, 5.0),
    "grained": tx.grained((0.3, 0.2, 0.1), (0.7, 0.5, 0.3), 2, 9.0),
    "veined": tx.veined((0.9, 0.9, 0.9), (0.1, 0.1, 0.2), 3, 4.0),
    "tiled": tx.tiled(tx.palette(4, 5), (0.1, 0.0, 0.2), 4),
    "cells": tx.cells(tx.palette(5, 6), 5, 2.0),
    "dirtied": tx.dirtied(tx.plain((1.0, 1.0, 1.0)), 6, 8.0),
    "layered": tx.layered(tx.plain((0, 0, 0)), tx.plain((1, 1, 1)), tx.fractal(7, 3.0)),
}


@pytest.mark.parametrize("name", TEXTURES)
@given(seed=st.integers(0, 2**31), reach=st.floats(0.01, 100.0))
@settings(max_examples=15, deadline=None)
def test_textures_are_pure_and_stay_in_range(name, seed, reach):
    points = np.random.default_rng(seed).uniform(-reach, reach, (64, 3))
    color = TEXTURES[name](points)
    assert color.shape == (64, 3)
    assert (color >= 0).all() and (color <= 1).all()
    np.testing.assert_array_equal(color[::2], TEXTURES[name](points[::2]))


def test_noise_is_smooth_and_uses_its_range():
    points = np.random.default_rng(0).uniform(-5, 5, (20000, 3))
    step = np.random.default_rng(1).normal(size=points.shape)
    step *= 1e-4 / np.linalg.norm(step, axis=1, keepdims=True)
    noise = tx.value_noise(points, 3, frequency=2.0)
    steepest = 1.5 * 2.0 * math.sqrt(3)  # smoothstep's slope times cells per metre, along a diagonal
    assert np.abs(tx.value_noise(points + step, 3, 2.0) - noise).max() <= steepest * 1e-4 * 1.01
    assert noise.min() < 0.1 and noise.max() > 0.9 and abs(noise.mean() - 0.5) < 0.05


def test_tiles_have_one_colour_each_and_joints_between():
    look = tx.tiled(tx.palette(0, 9), (0.5, 0.0, 0.5), 0, joint=0.2, mortar=(0.0, 0.0, 0.0))
    inside = np.array([[0.1, 7.0, 0.1], [0.4, -3.0, 0.4], [0.25, 0.0, 0.25]])
    assert (look(inside) == look(inside)[0]).all() and look(inside).max() > 0
    assert (look(np.array([[0.01, 0.0, 0.25], [0.25, 0.0, 0.49]])) == 0).all()


def test_placed_puts_the_foot_where_it_belongs():
    mesh = icosphere(subdivisions=2, radius=0.5)
    moved = mesh.copy().apply_transform(placed(mesh, (1.0, 2.0, 3.0), turn=0.7, tilt=0.4, scale=(1.0, 2.0, 0.5)))
    assert moved.bounds[0, 2] == pytest.approx(3.0, abs=1e-9)


def test_shapes_are_closed_or_open_as_they_should_be():
    cup = turned(np.array([[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]), sections=256)
    assert cup.is_watertight and cup.volume == pytest.approx(math.pi * 0.25, rel=1e-3)
    assert room(2.0, 3.0, 4.0).volume == pytest.approx(-24.0)  # faces look inwards
    rough = bumpy(icosphere(subdivisions=3, radius=1.0), 0.1, tx.fractal(0, 3.0))
    assert rough.is_watertight and 1.0 < np.linalg.norm(rough.vertices, axis=1).max() <= 1.1 + 1e-6
    hill = terrain(2.0, 8, lambda xy: xy[:, 0] ** 2)
    assert hill.area > 4.0 and (hill.face_normals[:, 2] > 0).all()


@given(seed=st.integers(0, 1000), amount=st.floats(0.0, 0.5))
@settings(max_examples=30, deadline=None)
def test_hand_held_paths_stay_near_and_smooth(seed, amount):
    still = arc(60, np.array([0.0, 0.0, 1.0]), 1.5, 0.4, math.pi / 2)
    shaken = hand_held(still, amount, seed)
    assert np.abs(shaken - still).max() <= amount + 1e-12
    bend = np.abs(np.diff(shaken - still, 2, axis=0)).max()
    assert bend <= amount * (2 * math.pi * 4 / 59) ** 2 + 1e-12


@given(count=st.integers(4, 200))
def test_sparse_splits_never_share_a_view_between_training_and_test(count):
    for n, split in sparse_splits(count).items():
        assert len(set(split["train_ids"])) == n
        assert not set(split["train_ids"]) & set(split["test_ids"])
        assert max(split["train_ids"] + split["test_ids"]) < count


def test_the_written_folder_has_nerfstudios_conventions(tmp_path):
    """A red ball in a known place must appear where the file's OpenGL poses and intrinsics put it."""
    ball, floor = icosphere(subdivisions=3, radius=0.15), quad(6, 6)
    stand = (0.3, -0.2, 0.0)
    things = (
        Thing(floor, tx.plain((0.3, 0.3, 0.3))),
        Thing(ball, tx.plain((0.9, 0.0, 0.0)), placed(ball, stand), smooth=True),
    )
    path = arc(9, np.array([0.0, 0.0, 0.2]), 2.0, 1.0, 2.0)
    cameras = cameras_along(path, np.zeros((9, 3)), 80, 60, fov=50.0)
    out = tmp_path / "a scene"
    assert write_scene(out, Scene(things, (SUN,)), cameras, {"name": "ball"}, points=900)
    meta = json.loads((out / "transforms.json").read_text())
    centre = np.array([0.3, -0.2, 0.15, 1.0])
    for frame in meta["frames"]:
        x, y, z = (np.linalg.inv(np.array(frame["transform_matrix"])) @ centre)[:3]
        expected = [meta["cx"] + meta["fl_x"] * x / -z, meta["cy"] - meta["fl_y"] * y / -z]
        rgb = np.asarray(Image.open(out / frame["file_path"])).astype(int)
        rows, columns = np.nonzero(rgb[..., 0] > rgb[..., 1] + 40)
        assert [columns.mean() + 0.5, rows.mean() + 0.5] == pytest.approx(expected, abs=1.0)
        depth = np.load(out / "ground_truth" / f"{frame['file_path'][7:-4]}.npy")
        assert depth[int(expected[1]), int(expected[0])] == pytest.approx(-z - 0.15, abs=0.03)
    assert {p.name for p in out.iterdir()} >= {"sparse_pc.ply", "train_test_split_3.json", "procedural.json"}


def test_initial_points_lie_on_the_scene_in_its_colours():
    studio = Studio(demo_scene(0))
    cameras = demo_path(2, 64, 36)
    photos = [studio.photo(camera) for camera in cameras]
    xyz, rgb = surface_points(cameras, photos, 400)
    assert xyz.shape == (400, 3) and rgb.shape == (400, 3)
    pixel, depth = project(torch.from_numpy(xyz[:200]), cameras[0])
    x, y = pixel[:, 0].long().numpy(), pixel[:, 1].long().numpy()
    np.testing.assert_allclose(depth.numpy(), photos[0].depth[y, x], rtol=1e-5)
    np.testing.assert_array_equal(rgb[:200], photos[0].rgb[y, x])


def test_open3d_reads_the_point_file_as_nerfstudio_does(tmp_path):
    o3d = pytest.importorskip("open3d")
    cameras = demo_path(2, 16, 9)
    write_scene(tmp_path / "scene", demo_scene(0), cameras, {"name": "tiny"}, points=40, supersample=1)
    cloud = o3d.io.read_point_cloud(str(tmp_path / "scene" / "sparse_pc.ply"))
    photos = [Studio(demo_scene(0)).photo(camera, 1) for camera in cameras]
    xyz, rgb = surface_points(cameras, photos, 40)
    np.testing.assert_allclose(np.asarray(cloud.points), xyz, atol=1e-6)
    np.testing.assert_allclose(np.asarray(cloud.colors) * 255, rgb, atol=0.5)


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(*_args):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_scene(tmp_path / "scene", demo_scene(0), demo_path(2, 16, 9), {"name": "tiny"}, supersample=1)
    assert not list(tmp_path.iterdir())


def test_command_writes_once_refuses_strangers_and_replaces_on_demand(tmp_path, capsys):
    out = tmp_path / "scene"
    small = {"out": out, "size": (16, 9), "views": 2, "supersample": 1, "points": 10}
    run(MakeScene(**small))
    stamp = (out / "procedural.json").stat().st_mtime_ns
    run(MakeScene(**small))
    assert (out / "procedural.json").stat().st_mtime_ns == stamp
    assert "already there" in capsys.readouterr().out

    with pytest.raises(SystemExit) as stop:
        run(MakeScene(**small, seed=1))
    error = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2 and "other settings" in error and "--overwrite" in error
    run(MakeScene(**small, seed=1, overwrite=True))
    assert json.loads((out / "procedural.json").read_text())["seed"] == 1

    stranger = tmp_path / "photos"
    stranger.mkdir()
    (stranger / "holiday.jpg").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        run(MakeScene(**{**small, "out": stranger}, overwrite=True))
    assert stop.value.code == 2 and "no procedural scene" in " ".join(capsys.readouterr().err.split())
    assert (stranger / "holiday.jpg").read_text() == "mine"


@pytest.mark.parametrize("bad", [{"size": (4, 4)}, {"views": 1}, {"supersample": 2}, {"points": 0}, {"seed": -1}])
def test_command_refuses_numbers_that_make_no_scene(tmp_path, bad, capsys):
    with pytest.raises(SystemExit) as stop:
        run(MakeScene(out=tmp_path / "scene", **bad))
    assert stop.value.code == 2 and "error:" in capsys.readouterr().err
    assert not (tmp_path / "scene").exists()


def test_unknown_folder_error_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="holds no procedural scene"):
        write_scene(tmp_path, demo_scene(0), demo_path(2, 16, 9), {})
