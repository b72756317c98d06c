"""Footage: the world within one unit, paths through captures, and photos that fit their cameras."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from genfusion_ns.cameras import Camera, project, unproject
from genfusion_ns.data.procedural.demo import demo_path, demo_scene
from genfusion_ns.data.procedural.families import make_family_scene
from genfusion_ns.data.procedural.render import Studio
from genfusion_ns.data.procedural.write import write_scene
from genfusion_ns.errors import UserError
from genfusion_ns.pairs.footage import capture_footage, neighbour_path, procedural_footage, within_unit


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """A Nerfstudio folder of 8 photos, 64 x 48."""
    folder = tmp_path_factory.mktemp("capture") / "scene"
    write_scene(folder, demo_scene(2), demo_path(8, 64, 48, 2), {}, supersample=1)
    return folder


def test_the_world_is_scaled_and_moved_and_nothing_else():
    cameras = demo_path(6, 40, 24)
    unit, scale = within_unit(cameras)
    centres = torch.stack([camera.position for camera in unit])
    torch.testing.assert_close(centres.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    assert abs(float(centres.abs().max()) - 1.0) < 1e-9
    # a point that moves along is seen at the same pixels, at scaled depths
    shift = torch.stack([camera.position for camera in cameras]).mean(0)
    point = torch.tensor([[0.1, 0.2, 0.9]], dtype=torch.float64)
    for before, after in zip(cameras, unit, strict=True):
        (pixel, depth), (moved, far) = project(point, before), project((point - shift) * scale, after)
        torch.testing.assert_close(pixel, moved)
        torch.testing.assert_close(depth * scale, far)


def test_cameras_at_one_place_keep_their_scale():
    camera = demo_path(2, 40, 24)[0]
    unit, scale = within_unit([camera, camera])
    assert scale == 1.0 and all(float(view.position.abs().max()) < 1e-12 for view in unit)


def test_procedural_footage_has_exact_depth_in_its_own_world():
    footage = procedural_footage("rooms", 5, 3, 40, 24)
    staged = make_family_scene("rooms", 5)
    photo = Studio(staged.scene).photo(staged.cameras(3, 40, 24)[1], 3)
    np.testing.assert_array_equal(footage.rgb[1], photo.rgb)
    # points unprojected from one frame and seen by the next lie on the surface that this one shows
    points = unproject(torch.from_numpy(footage.depth[0]).double()[..., None], footage.cameras[0]).reshape(-1, 3)
    pixels, depth = project(points, footage.cameras[1])
    place = np.floor(pixels.numpy()).astype(int)
    inside = ((place >= 0) & (place < [40, 24])).all(1) & (depth.numpy() > 0)
    surface = footage.depth[1][place[inside, 1], place[inside, 0]]
    assert inside.mean() > 0.2
    assert np.median(np.abs(surface / depth.numpy()[inside] - 1)) < 0.02


def test_a_path_visits_neighbours_once_each_and_goes_on_its_way():
    cameras = demo_path(12, 40, 24)
    shuffled = np.random.default_rng(0).permutation(12)
    for seed in range(6):
        path = neighbour_path([cameras[i] for i in shuffled], 12, np.random.default_rng(seed))
        assert sorted(path) == list(range(12))
        order = [int(shuffled[i]) for i in path]
        assert sum(abs(a - b) > 1 for a, b in zip(order, order[1:], strict=False)) <= 1


@pytest.mark.parametrize("size", [(32, 16), (24, 24), (64, 48)])
def test_captured_photos_are_what_their_cameras_see(capture, size):
    footage = capture_footage(capture, 3, 5, *size)
    assert footage.rgb.shape == (5, size[1], size[0], 3) and footage.depth is None
    studio, originals = Studio(demo_scene(2)), demo_path(8, 64, 48, 2)
    for photo, camera, name in zip(footage.rgb, footage.cameras, footage.names, strict=True):
        # the world is another one, but the lens and the cut are the photo's own
        original = originals[int(name[6:11]) - 1]
        again = studio.photo(Camera(original.w2c, camera.K, *size), 3).rgb
        error = np.abs(photo.astype(float) - again)
        shifted = np.abs(photo.astype(float) - np.roll(again, 2, axis=1))
        assert error.mean() < 0.5 * shifted.mean()


def test_bent_photos_are_straightened(capture, tmp_path):
    meta = json.loads((capture / "transforms.json").read_text())
    bend = np.array([0.25, 0.0, 0.0, 0.0, 0.0])
    K = np.array([[meta["fl_x"], 0, meta["cx"]], [0, meta["fl_y"], meta["cy"]], [0, 0, 1]])
    # where a bent pixel shows what a straight one shows: a distorted photo made by hand
    grid = np.stack(np.meshgrid(np.arange(64.0), np.arange(48.0)), -1).reshape(-1, 1, 2)
    straight = cv2.undistortPoints(grid, K, bend, P=K).reshape(48, 64, 2).astype(np.float32)
    (tmp_path / "images").mkdir()
    for frame in meta["frames"]:
        photo = np.asarray(Image.open(capture / frame["file_path"]))
        bent = cv2.remap(photo, straight[..., 0], straight[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        Image.fromarray(bent).save(tmp_path / frame["file_path"])
    (tmp_path / "transforms.json").write_text(json.dumps({**meta, "k1": 0.25}))
    footage = capture_footage(tmp_path, 3, 4, 32, 16)
    ignored = capture_footage(capture, 3, 4, 32, 16)
    studio, originals = Studio(demo_scene(2)), demo_path(8, 64, 48, 2)
    for photo, wrong, camera, name in zip(footage.rgb, ignored.rgb, footage.cameras, footage.names, strict=True):
        again = studio.photo(Camera(originals[int(name[6:11]) - 1].w2c, camera.K, 32, 16), 3).rgb
        error, other = (np.abs(image.astype(float) - again).mean() for image in (photo, wrong))
        assert error < 12 and error < other


def test_captures_follow_from_their_seed(capture):
    first, again, other = (capture_footage(capture, seed, 5, 32, 16) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.rgb, again.rgb)
    assert first.names == again.names and not np.array_equal(first.rgb, other.rgb)


def test_unusable_captures_are_told(capture, tmp_path):
    with pytest.raises(UserError, match=r"transforms\.json"):
        capture_footage(tmp_path, 0, 2, 32, 16)
    with pytest.raises(UserError, match="8 photos"):
        capture_footage(capture, 0, 9, 32, 16)
    meta = json.loads((capture / "transforms.json").read_text())

    def written(name: str, **changes) -> object:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "transforms.json").write_text(json.dumps({**meta, **changes}))
        return folder

    with pytest.raises(UserError, match="OPENCV_FISHEYE"):
        capture_footage(written("fish", camera_model="OPENCV_FISHEYE"), 0, 2, 32, 16)
    with pytest.raises(UserError, match="fl_x"):
        capture_footage(written("blind", fl_x=None), 0, 2, 32, 16)
    with pytest.raises(UserError, match="no such file"):
        capture_footage(written("empty"), 0, 2, 32, 16)
    small = written("small")
    (small / "images").mkdir()
    for frame in meta["frames"]:
        Image.new("RGB", (9, 9)).save(small / frame["file_path"])
    with pytest.raises(UserError, match="9x9"):
        capture_footage(small, 0, 2, 32, 16)
