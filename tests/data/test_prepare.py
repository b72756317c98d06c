"""From photos to a scene: copies, stages, and the whole way on a few real photos."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from photo_files import photo
from PIL import Image
from plyfile import PlyData
from rich.progress import Progress

from genfusion_ns.data.colmap import Tracks, find_model, read_model, similarity_between
from genfusion_ns.data.prepare import PrepareConfig, _mapping_options, prepare
from genfusion_ns.data.scene_files import transforms, write_ply
from genfusion_ns.errors import UserError
from genfusion_ns.files import locked

# -- the scene's files ----------------------------------------------------------------------------------------------


def test_ply_is_read_back_by_another_reader(tmp_path):
    rng = np.random.default_rng(0)
    xyz, rgb = rng.normal(size=(17, 3)), rng.integers(0, 256, (17, 3)).astype(np.uint8)
    write_ply(tmp_path / "p.ply", xyz, rgb)
    vertex = PlyData.read(tmp_path / "p.ply")["vertex"]
    np.testing.assert_allclose(np.stack([vertex[k] for k in "xyz"], 1), xyz, rtol=1e-6)
    assert (np.stack([vertex[k] for k in ("red", "green", "blue")], 1) == rgb).all()
    write_ply(tmp_path / "p.ply", np.zeros((0, 3)), np.zeros((0, 3), np.uint8))
    assert len(PlyData.read(tmp_path / "p.ply")["vertex"].data) == 0


def reconstruction(capture, kinds: list[str]) -> pycolmap.Reconstruction:
    model = pycolmap.Reconstruction()
    for v, kind in enumerate(kinds):
        params = [100, 61, 47] if kind == "SIMPLE_PINHOLE" else [100, 110, 61, 47]
        model.add_camera_with_trivial_rig(
            pycolmap.Camera(model=kind, width=120, height=96, params=params, camera_id=v + 1)
        )
        image = pycolmap.Image(name=f"{v}.jpg", camera_id=v + 1, image_id=v + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(capture.w2c[v, :3]))
    return model


def test_transforms_hold_opengl_poses_and_shared_or_own_intrinsics(capture):
    data = capture(3)
    shared = transforms(reconstruction(data, ["PINHOLE"] * 3))
    assert {k: shared[k] for k in ("w", "h", "fl_x", "fl_y", "cx", "cy")} == dict(
        w=120, h=96, fl_x=100, fl_y=110, cx=61, cy=47
    )
    assert shared["ply_file_path"] == "sparse_pc.ply" and "fl_x" not in shared["frames"][0]
    for v, frame in enumerate(shared["frames"]):
        assert frame["file_path"] == f"images/{v}.jpg"
        np.testing.assert_allclose(frame["transform_matrix"], data.c2w[v] @ np.diag([1.0, -1, -1, 1]), atol=1e-12)
    mixed = transforms(reconstruction(data, ["PINHOLE", "SIMPLE_PINHOLE", "PINHOLE"]))
    assert "fl_x" not in mixed and mixed["frames"][1]["fl_y"] == 100 and mixed["frames"][2]["fl_y"] == 110


# -- the whole way --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Six photos of the fern, prepared once; a folder name with spaces on purpose."""
    shared = Path(os.environ.get("GENFUSION_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    source = shared / "data/llff_fern"
    if not source.is_dir():
        pytest.skip(f"the shared test scene {source} is not here")
    folder = tmp_path_factory.mktemp("some photos")
    (folder / "in").mkdir()
    for path in sorted((source / "images").iterdir())[:6]:
        (folder / "in" / path.name.replace("_", " ")).write_bytes(path.read_bytes())
    config = PrepareConfig(folder / "in", folder / "my scene", threads=1)
    with Progress(disable=True) as progress:
        return config, prepare(config, progress), source


def again(config: PrepareConfig):
    with Progress(disable=True) as progress:
        return prepare(config, progress)


@pytest.mark.slow
def test_real_photos_become_a_scene(real):
    config, made, source = real
    assert made.registered == made.photos == 6 and made.points > 300 and not made.notes and not made.skipped
    meta = json.loads((made.scene / "transforms.json").read_text())
    assert [frame["file_path"] for frame in meta["frames"]] == [f"images/IMG_{4026 + i}.jpg" for i in range(6)]
    for frame in meta["frames"]:
        with Image.open(made.scene / frame["file_path"]) as image:
            assert image.size == (meta["w"], meta["h"])
    vertex = PlyData.read(made.scene / "sparse_pc.ply")["vertex"]
    assert len(vertex.data) == made.points


@pytest.mark.slow
def test_prepared_poses_agree_with_the_shared_ones(real):
    """Up to a similarity; the shared ones were found with 20 photos of four times the size."""
    _, made, source = real
    poses = []
    for folder in (made.scene, source):
        frames = json.loads((folder / "transforms.json").read_text())["frames"][:6]
        poses.append(np.array([frame["transform_matrix"] for frame in frames]))
    scale, R, t, misfit = similarity_between(*poses)
    turns = np.einsum("vji,vjk->vik", poses[1][:, :3, :3], R @ poses[0][:, :3, :3])
    angles = np.degrees(np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert misfit < 0.05 and angles.max() < 1.0


@pytest.mark.slow
def test_ply_poses_and_tracks_are_in_one_frame(real):
    """Tracks of sparse/0, seen by the cameras of transforms.json, are at the points of sparse_pc.ply."""
    _, made, _ = real
    meta = json.loads((made.scene / "transforms.json").read_text())
    c2w = np.array([frame["transform_matrix"] for frame in meta["frames"]]) @ np.diag([1.0, -1, -1, 1])
    model = read_model(find_model(made.scene))
    vertex = PlyData.read(made.scene / "sparse_pc.ply")["vertex"]
    xyz = np.stack([vertex[k] for k in "xyz"], 1).astype(float)
    np.testing.assert_allclose(model.xyz, xyz, atol=1e-5)
    tracks: Tracks = model.tracks
    w2c = np.linalg.inv(c2w)[tracks.image]
    local = np.einsum("oij,oj->oi", w2c[:, :3, :3], xyz[tracks.point]) + w2c[:, :3, 3]
    off = np.linalg.norm(local[:, :2] / local[:, 2:] - tracks.ray, axis=1) * meta["fl_x"]
    assert np.median(off) < 1.0 and off.max() < 8.0  # pixels


@pytest.mark.slow
def test_a_second_run_does_nothing(real):
    config, made, _ = real
    before = (made.scene / "transforms.json").stat().st_mtime_ns
    repeated = again(config)
    assert repeated.skipped == ["photos", "features", "matches", "mapping", "scene"]
    assert repeated.points == made.points
    assert (made.scene / "transforms.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_lost_results_and_changed_options_redo_what_is_needed(real):
    config, made, _ = real
    (made.scene / "transforms.json").unlink()
    assert again(config).skipped == ["photos", "features", "matches", "mapping"]
    assert (made.scene / "transforms.json").is_file()
    config.matching = "sequential"
    redone = again(config)
    assert redone.skipped == ["photos", "features"] and redone.registered == 6


@pytest.mark.slow
def test_interrupted_work_continues_where_it_stopped(real, tmp_path, monkeypatch):
    """Stopped after four of six photos' features, then while matching: nothing is done twice."""
    config = PrepareConfig(real[0].images, tmp_path / "scene", threads=1)
    extracted = []

    def interrupted(database, images, *, image_names, **options):
        if len(extracted) == 1:
            raise KeyboardInterrupt
        extracted.append(image_names)
        genuine(database, images, image_names=image_names, **options)

    genuine = pycolmap.extract_features
    monkeypatch.setattr(pycolmap, "extract_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        again(config)
    monkeypatch.undo()
    with pycolmap.Database.open(tmp_path / "scene/.prepare/database.db") as database:
        first = {image.name: database.read_keypoints(image.image_id) for image in database.read_all_images()}
    assert len(first) == 4

    def no_matching(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pycolmap, "match_image_pairs", no_matching)
    with pytest.raises(KeyboardInterrupt):
        again(config)
    monkeypatch.undo()
    made = again(config)
    assert made.skipped == ["photos", "features"] and made.registered == 6
    with pycolmap.Database.open(tmp_path / "scene/.prepare/database.db") as database:
        assert database.num_images() == 6 and database.num_cameras() == 1
        for image in database.read_all_images():
            if image.name in first:
                np.testing.assert_array_equal(database.read_keypoints(image.image_id), first[image.name])
    assert made.points == real[1].points


def test_photos_of_nothing_can_not_be_posed(tmp_path):
    for i in range(3):
        photo(tmp_path / f"in/{i}.png", (64, 48))
    with pytest.raises(UserError, match=r"0 of 3 were registered; 0 pairs.*overlapping its neighbours"):
        again(PrepareConfig(tmp_path / "in", tmp_path / "out", threads=1))


def test_two_runs_into_one_folder_do_not_mix(tmp_path):
    for i in range(2):
        photo(tmp_path / f"in/{i}.png", (64, 48))
    config = PrepareConfig(tmp_path / "in", tmp_path / "out", threads=1)
    (tmp_path / "out/.prepare").mkdir(parents=True)
    with (
        locked(tmp_path / "out/.prepare", ""),
        pytest.raises(UserError, match=r"another process works in .*/out/.prepare. Wait until it has ended"),
    ):
        again(config)
    assert list((tmp_path / "out/.prepare").iterdir()) == []


def test_a_full_disk_is_told_and_leaves_no_half_written_file(tmp_path, monkeypatch):
    for i in range(2):
        photo(tmp_path / f"in/{i}.png", (64, 48))

    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(UserError, match=r"failed \(No space left on device\). What was done is kept; make room"):
        again(PrepareConfig(tmp_path / "in", tmp_path / "out", threads=1))
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left == ["photos.json"]  # the stage's marker, which says that it is not done


def test_colmap_is_not_begun_on_a_disk_that_is_nearly_full(tmp_path, monkeypatch):
    """It would abort the process."""
    for i in range(2):
        photo(tmp_path / f"in/{i}.png", (64, 48))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=2**20))
    with pytest.raises(UserError, match=r"a disk with 1 MiB free; the next stage may write 5 MiB. Make room"):
        again(PrepareConfig(tmp_path / "in", tmp_path / "out", threads=1))


def test_nobodys_images_are_overwritten(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / "scene/images" / name)
        photo(tmp_path / "in" / name)
    with pytest.raises(UserError, match="which the scene's own images would replace"):
        again(PrepareConfig(tmp_path / "scene/images", tmp_path / "scene"))
    with pytest.raises(UserError, match="did not make"):
        again(PrepareConfig(tmp_path / "in", tmp_path / "scene"))
    assert sorted(path.name for path in (tmp_path / "scene/images").iterdir()) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(("option", "value"), [("overlap", 0), ("max_size", -1), ("max_features", 5)])
def test_impossible_options(tmp_path, option, value):
    config = PrepareConfig(tmp_path, tmp_path / "out")
    setattr(config, option, value)
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} is {value}; expected"):
        again(config)


def test_mapping_is_seeded_and_lax_thresholds_are_lower():
    config = PrepareConfig(Path(), Path())
    strict, lax = _mapping_options(config, False), _mapping_options(config, True)
    assert strict.random_seed == lax.random_seed == strict.mapper.random_seed == 0
    assert lax.mapper.init_min_num_inliers < strict.mapper.init_min_num_inliers
    assert lax.mapper.abs_pose_min_num_inliers < strict.mapper.abs_pose_min_num_inliers
