"""`camera_path`: there and back, and against Nerfstudio's own reader."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from genfusion_ns.camera_path import from_nerfstudio_camera_path, read_camera_path, to_nerfstudio_camera_path
from genfusion_ns.cameras import Camera, opengl_to_opencv
from genfusion_ns.errors import UserError


def cameras(seed: int, n: int, width: int = 64, height: int = 36, focal: float = 50.0) -> list[Camera]:
    gen = torch.Generator().manual_seed(seed)
    found = []
    for i in range(n):
        w2c = torch.eye(4)
        w2c[:3, :3] = torch.from_numpy(Rotation.random(random_state=seed + i).as_matrix()).float()
        w2c[:3, 3] = torch.randn(3, generator=gen)
        K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        found.append(Camera(w2c, K, width, height))
    return found


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(16, 200), st.integers(16, 200), st.floats(5, 500))
def test_round_trip(seed, n, width, height, focal):
    path = cameras(seed, n, width, height, focal)
    read = from_nerfstudio_camera_path(json.loads(json.dumps(to_nerfstudio_camera_path(path))))
    assert len(read) == n
    for a, b in zip(path, read, strict=True):
        assert (a.width, a.height) == (b.width, b.height)
        torch.testing.assert_close(b.w2c, a.w2c, atol=1e-5, rtol=0)
        torch.testing.assert_close(b.K, a.K, rtol=1e-4, atol=1e-4)


def test_nerfstudio_reads_the_same_cameras():
    from nerfstudio.cameras.camera_paths import get_path_from_json

    path = cameras(3, 4)
    read = get_path_from_json(to_nerfstudio_camera_path(path))
    assert read.camera_to_worlds.shape == (4, 3, 4)
    for i, camera in enumerate(path):
        torch.testing.assert_close(opengl_to_opencv(read.camera_to_worlds[i]), camera.c2w, atol=1e-5, rtol=0)
        torch.testing.assert_close(read.fx[i].float(), camera.K[0, :1], rtol=1e-5, atol=0)
        torch.testing.assert_close(read.fy[i].float(), camera.K[1, 1:2], rtol=1e-5, atol=0)
        assert (int(read.width[i]), int(read.height[i])) == (64, 36)


def test_fields_that_ns_render_asks_for():
    path = to_nerfstudio_camera_path(cameras(0, 48), fps=24, is_cycle=True)
    assert path["seconds"] == 2.0
    assert (path["render_width"], path["render_height"], path["fps"]) == (64, 36, 24)
    assert path["is_cycle"] is True
    assert path["crop"] is None
    frame = path["camera_path"][0]
    assert len(frame["camera_to_world"]) == 16
    assert frame["camera_to_world"][12:] == [0, 0, 0, 1]
    assert frame["fov"] == pytest.approx(2 * math.degrees(math.atan(18 / 50)))
    assert frame["aspect"] == pytest.approx(64 / 36)


def test_a_path_as_the_viewer_saves_it():
    # the viewer looks along -z with y up: at z = 2 it sees the origin
    pose = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1]
    saved = {
        "default_fov": 75.0,
        "render_width": 100,
        "render_height": 50,
        "camera_type": "perspective",
        "keyframes": [],
        "camera_path": [{"camera_to_world": pose, "fov": 90.0, "aspect": 2.0, "render_time": 0.5}],
    }
    (camera,) = from_nerfstudio_camera_path(saved)
    torch.testing.assert_close(camera.position, torch.tensor([0.0, 0, 2]))
    torch.testing.assert_close(camera.w2c[2, :3], torch.tensor([0.0, 0, -1]))
    torch.testing.assert_close(camera.K, torch.tensor([[25.0, 0, 50], [0, 25, 25], [0, 0, 1]]))


def broken(**changes):
    path = to_nerfstudio_camera_path(cameras(0, 2))
    return {**path, **changes}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (broken(camera_type="equirectangular"), "type 'equirectangular'; expected 'perspective'"),
        ({"render_width": 3}, "cannot be read: KeyError"),
        (broken(camera_path=[]), "0 frames of 64 x 36"),
        (broken(camera_path=[{"camera_to_world": [0.0] * 15, "fov": 50}]), "cannot be read"),
        (broken(camera_path=[{"camera_to_world": [0.0] * 16, "fov": 50}]), "not a rotation and a position"),
        (broken(camera_path=[{"camera_to_world": [math.nan] * 16, "fov": 50}]), "not a rotation and a position"),
        (broken(render_width=0), "2 frames of 0 x 36"),
        (broken(camera_path=[{**broken()["camera_path"][0], "fov": 180}]), "between 0 and 180"),
    ],
)
def test_what_is_no_path_is_a_message(path, message):
    with pytest.raises(UserError, match=message):
        from_nerfstudio_camera_path(path)


def test_files(tmp_path):
    path = tmp_path / "path.json"
    path.write_text(json.dumps(to_nerfstudio_camera_path(cameras(1, 3))))
    assert len(read_camera_path(path)) == 3
    for content in ("[1, 2]", "{not json"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"path\.json"):
            read_camera_path(path)
    with pytest.raises(UserError, match="cannot be read as a camera path"):
        read_camera_path(tmp_path / "absent.json")
