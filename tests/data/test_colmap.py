"""Reading COLMAP models and moving them between worlds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from genfusion_ns.data.colmap import find_model, read_model, similarity_between
from genfusion_ns.errors import UserError


def written_model(folder: Path, capture, camera: pycolmap.Camera, binary: bool = True) -> None:
    """The synthetic capture as COLMAP files, made with pycolmap itself."""
    model = pycolmap.Reconstruction()
    camera.camera_id = 1
    model.add_camera_with_trivial_rig(camera)
    for v in range(len(capture.c2w)):
        own = capture.tracks.where(capture.tracks.image == v)
        image = pycolmap.Image(name=f"{9 - v}.jpg", camera_id=1, image_id=v + 1)
        # A keypoint that belongs to no point comes first.
        pixels = [camera.img_from_cam(np.append(ray, 1.0)) for ray in own.ray]
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(np.array(p)) for p in [(1.0, 2.0), *pixels]])
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(capture.w2c[v, :3]))
    for p, xyz in enumerate(capture.xyz):
        track = pycolmap.Track()
        for v in range(len(capture.c2w)):
            track.add_element(v + 1, p + 1)
        model.add_point3D(xyz, track, capture.rgb[p])
    folder.mkdir(parents=True)
    (model.write_binary if binary else model.write_text)(str(folder))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("kind", "params"),
    [("PINHOLE", [100, 110, 61, 47]), ("OPENCV", [100, 110, 61, 47, 0.06, -0.08, -1e-3, 2e-4])],
)
def test_a_written_model_is_read_back_without_distortion(tmp_path, capture, kind, params, binary):
    data = capture(4)
    camera = pycolmap.Camera(model=kind, width=120, height=96, params=params)
    written_model(tmp_path / "sparse" / "0", data, camera, binary)
    folder = find_model(tmp_path)
    assert folder == tmp_path / "sparse" / "0"
    model = read_model(folder)
    assert model.names == ["6.jpg", "7.jpg", "8.jpg", "9.jpg"]  # sorted, so in reverse order
    np.testing.assert_allclose(model.c2w, data.c2w[::-1], atol=1e-9)
    order = [int(np.linalg.norm(data.xyz - xyz, axis=1).argmin()) for xyz in model.xyz]
    np.testing.assert_allclose(model.xyz, data.xyz[order], atol=1e-12)
    assert (model.rgb == data.rgb[order]).all()
    rays = {(3 - i, order[p]): ray for p, i, ray in zip(*vars(model.tracks).values(), strict=True)}
    assert len(rays) == len(data.tracks.point) == len(model.tracks.point)
    for p, i, ray in zip(*vars(data.tracks).values(), strict=True):
        # The text format keeps fewer digits.
        np.testing.assert_allclose(rays[(i, p)], ray, atol=1e-6)


def test_places_where_models_are_looked_for(tmp_path):
    assert find_model(tmp_path) is None
    for place in ("sparse", "sparse/0", "colmap/sparse/0"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "points3D.txt").touch()
        assert find_model(tmp_path) == tmp_path / place
    assert find_model(tmp_path / "transforms.json") == tmp_path / "colmap/sparse/0"


def test_a_damaged_model_is_refused_with_words(tmp_path):
    (tmp_path / "points3D.bin").write_bytes(b"\x01\x02")
    with pytest.raises(UserError, match="holds no COLMAP model that pycolmap"):
        read_model(tmp_path)


def test_a_cut_off_model_is_refused_with_words(tmp_path, capture):
    written_model(
        tmp_path / "m", capture(3), pycolmap.Camera(model="PINHOLE", width=120, height=96, params=[9, 9, 9, 9])
    )
    path = tmp_path / "m" / "images.bin"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="can read"):
        read_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("points3D.bin", lambda data: b""),
        ("points3D.bin", lambda data: b"\xff" * 8 + data[8:]),
        ("points3D.bin", lambda data: data[:-3]),
        ("cameras.bin", lambda data: data[:-3]),
        ("cameras.bin", lambda data: data[:30]),
        ("images.bin", lambda data: data[:8]),
    ],
)
def test_ends_of_files_that_pycolmap_would_read_beyond(tmp_path, capture, name, spoil):
    """It would go on for hours, or take whatever follows for numbers, without a word."""
    camera = pycolmap.Camera(model="PINHOLE", width=120, height=96, params=[90, 90, 60, 48])
    folder = tmp_path / "m"
    written_model(folder, capture(3), camera)
    assert len(read_model(folder).names) == 3
    path = folder / name
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=f"{name} is cut off or damaged"):
        read_model(folder)


@pytest.mark.parametrize("count", [2, 5])
def test_similarity_is_found_from_poses(capture, count):
    data = capture(count)
    rng = np.random.default_rng(3)
    R = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    R *= np.sign(np.linalg.det(R))
    moved = data.c2w.copy()
    moved[:, :3, :3] = R @ moved[:, :3, :3]
    moved[:, :3, 3] = 0.3 * moved[:, :3, 3] @ R.T + [1, 2, 3]
    scale, found, t, misfit = similarity_between(data.c2w, moved)
    np.testing.assert_allclose(found, R, atol=1e-9)
    np.testing.assert_allclose([scale, *t], [0.3, 1, 2, 3], atol=1e-9)
    assert misfit < 1e-9
    moved[0, :3, 3] += 1.0
    assert similarity_between(data.c2w, moved)[3] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "images", "points"), [("plush", 97, 15519), ("llff_fern", 20, 9081), ("fox", 50, 13406)]
)
def test_shared_models(shared_scene, name, images, points):
    """The points, projected by the model's own cameras, lie where they were observed."""
    model = read_model(find_model(shared_scene(name)))
    assert len(model.names) == images and len(model.xyz) == points
    w2c = np.linalg.inv(model.c2w)[model.tracks.image]
    local = np.einsum("oij,oj->oi", w2c[:, :3, :3], model.xyz[model.tracks.point]) + w2c[:, :3, 3]
    off = np.linalg.norm(local[:, :2] / local[:, 2:] - model.tracks.ray, axis=1)
    assert np.median(off) < 1e-3 and off.max() < 0.01
