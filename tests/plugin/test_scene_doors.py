"""Scenes that are unusual, or broken, at the dataparser's door."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np
import open3d as o3d
import pytest
import torch
from PIL import Image
from public_layouts import write_public_scene

from genfusion_ns.errors import UserError
from genfusion_ns.plugin.dataparser import GenFusionDataParserConfig
from genfusion_ns.plugin.train_photos import checked

OFFSET = np.array([500_000.0, 4_500_000.0, 120.0])


@pytest.fixture
def copy(scene, tmp_path) -> Path:
    return Path(shutil.copytree(scene, tmp_path / "scene"))


def parsed(scene: Path, split: str = "train", **settings):
    return GenFusionDataParserConfig(data=scene, **settings).setup().get_dataparser_outputs(split=split)


def edit(scene: Path, change) -> dict:
    """Change the content of transforms.json in place."""
    meta = json.loads((scene / "transforms.json").read_text())
    meta = change(meta) or meta
    (scene / "transforms.json").write_text(json.dumps(meta))
    return meta


def each_frame(change):
    def all_frames(meta):
        for number, frame in enumerate(meta["frames"]):
            change(number, frame)

    return all_frames


def refused(scene: Path) -> str:
    with pytest.raises(UserError) as caught:
        parsed(scene)
    return str(caught.value)


# -- equal names in different folders --------------------------------------------------------------------------------


def into_two_folders(number: int, frame: dict, scene: Path) -> None:
    """The 12 photos as left/0.png … left/5.png, right/0.png … right/5.png."""
    side = "left" if number < 6 else "right"
    (scene / "images" / side).mkdir(exist_ok=True)
    new = f"images/{side}/{number % 6}.png"
    (scene / frame["file_path"]).rename(scene / new)
    frame["file_path"] = new


def test_photos_of_equal_names_in_different_folders_all_stay(copy):
    """Six of the twelve used to vanish without a word."""
    before = {split: parsed(copy, split) for split in ("train", "test")}
    edit(copy, each_frame(lambda number, frame: into_two_folders(number, frame, copy)))
    for split, was in before.items():
        now = parsed(copy, split)
        assert [p.relative_to(copy / "images").as_posix() for p in now.image_filenames] == [
            f"{'left' if i < 6 else 'right'}/{i % 6}.png" for i in was.metadata["image_ids"]
        ]
        assert torch.equal(now.cameras.camera_to_worlds, was.cameras.camera_to_worlds)


def test_split_lists_name_one_of_several_photos_of_a_name(copy):
    meta = edit(copy, each_frame(lambda number, frame: into_two_folders(number, frame, copy)))
    names = [frame["file_path"] for frame in meta["frames"]]
    edit(copy, lambda meta: {**meta, "train_filenames": names[:10], "test_filenames": names[10:]})
    assert [path.name for path in parsed(copy, "test").image_filenames] == ["4.png", "5.png"]
    assert {path.parent.name for path in parsed(copy, "test").image_filenames} == {"right"}
    assert len(parsed(copy, "train").image_filenames) == 10


def test_a_split_list_with_a_name_that_is_no_frame(copy):
    edit(copy, lambda meta: {**meta, "train_filenames": ["images/other.png"]})
    assert "train_filenames names images/other.png, which no frame has" in refused(copy)


# -- worlds far from the origin --------------------------------------------------------------------------------------


def points_of(outputs) -> torch.Tensor:
    return outputs.metadata["points3D_xyz"]


def move_poses(offset: np.ndarray):
    def move(number, frame):
        for row, value in enumerate(offset):
            frame["transform_matrix"][row][3] += value

    return each_frame(move)


@pytest.mark.parametrize("orientation", ["up", "pca"])
def test_georeferenced_frames_train_as_those_near_the_origin(copy, orientation, capsys):
    near = parsed(copy, orientation_method=orientation)
    edit(copy, move_poses(OFFSET))
    cloud = o3d.io.read_point_cloud(str(copy / "sparse_pc.ply"))
    cloud.points = o3d.utility.Vector3dVector(np.asarray(cloud.points) + OFFSET)
    o3d.io.write_point_cloud(str(copy / "sparse_pc.ply"), cloud)  # as float64
    assert "far from the origin" not in capsys.readouterr().out
    far = parsed(copy, orientation_method=orientation)
    said = " ".join(capsys.readouterr().out.split())
    assert "the cameras are around (" in said and "dataparser_transforms.json leads back" in said
    assert torch.allclose(far.cameras.camera_to_worlds, near.cameras.camera_to_worlds, atol=2e-5)
    assert torch.allclose(points_of(far), points_of(near), atol=2e-5)
    assert far.dataparser_scale == pytest.approx(near.dataparser_scale, rel=1e-5)


def test_poses_go_back_to_the_georeferenced_world_to_a_tenth_of_a_millimetre(copy):
    """Nerfstudio's exporters use this; a float32 transform would be half a metre off."""
    meta = edit(copy, move_poses(OFFSET))
    far = parsed(copy)
    back = far.transform_poses_to_original_space(far.cameras.camera_to_worlds, camera_convention="opengl")
    ids = far.metadata["image_ids"]
    truth = np.array([meta["frames"][i]["transform_matrix"] for i in ids])[:, :3]
    assert np.abs(back.numpy() - truth).max() < 1e-4
    saved = copy / "dataparser_transforms.json"
    far.save_dataparser_transform(saved)
    stored = json.loads(saved.read_text())
    x = np.array(stored["transform"]) @ np.append(truth[0][:, 3], 1.0) * stored["scale"]
    assert np.abs(x - far.cameras.camera_to_worlds[0, :, 3].numpy()).max() < 1e-5


def test_an_applied_transform_stays_in_the_way_back(copy):
    """As ns-process-data writes: file = applied @ original."""
    applied = [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]
    meta = edit(copy, move_poses(OFFSET))
    edit(copy, lambda meta: {**meta, "applied_transform": applied})
    far = parsed(copy)
    back = far.transform_poses_to_original_space(far.cameras.camera_to_worlds, camera_convention="opengl").numpy()
    truth = np.array([meta["frames"][i]["transform_matrix"] for i in far.metadata["image_ids"]])[:, :3]
    assert np.abs(np.array(applied)[:, :3] @ back - truth).max() < 1e-4


def test_georeferenced_colmap_models_too(tmp_path, monkeypatch):
    import public_layouts

    near = parsed(write_public_scene(tmp_path / "near"))
    write = public_layouts._write_model

    def moved(folder, poses, points):
        shifted = [pose + np.block([[np.zeros((3, 3)), OFFSET[:, None]], [np.zeros((1, 4))]]) for pose in poses]
        write(folder, shifted, points + OFFSET)

    # 12 digits, as the layouts' writer has them, are 1e-5 of a metre here
    monkeypatch.setattr(public_layouts, "_write_model", moved)
    far = parsed(write_public_scene(tmp_path / "far"))
    assert torch.allclose(far.cameras.camera_to_worlds, near.cameras.camera_to_worlds, atol=1e-4)
    assert torch.allclose(points_of(far), points_of(near), atol=1e-4)
    back = far.transform_poses_to_original_space(far.cameras.camera_to_worlds, camera_convention="opencv").numpy()
    plain = near.transform_poses_to_original_space(near.cameras.camera_to_worlds, camera_convention="opencv").numpy()
    assert np.abs(back[:, :, 3] - OFFSET - plain[:, :, 3]).max() < 1e-3


# -- cameras ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["EQUIRECTANGULAR", "ORTHOPHOTO", "FOOBAR"])
def test_cameras_that_are_no_pinholes_are_refused_by_name(copy, model):
    edit(copy, lambda meta: {**meta, "camera_model": model})
    assert f"the camera model is {model}; expected one that becomes a pinhole" in refused(copy)
    edit(copy, lambda meta: {**meta, "camera_model": "OPENCV"})
    edit(copy, each_frame(lambda number, frame: frame.update({"camera_model": model} if number == 3 else {})))
    assert f"the camera model is {model};" in refused(copy)


def test_fisheyes_beside_pinholes_are_refused(copy):
    edit(copy, each_frame(lambda number, frame: frame.update(camera_model="OPENCV_FISHEYE" if number else "OPENCV")))
    assert "pinholes or fisheyes, not both" in refused(copy)


def test_an_equidistant_fisheye_is_not_taken_for_a_pinhole(copy):
    """Nerfstudio undistorts only where a coefficient is not 0."""
    edit(copy, lambda meta: {**meta, "camera_model": "OPENCV_FISHEYE", "k1": 0.0, "k2": 0.0})
    assert (parsed(copy).cameras.distortion_params.abs().sum(dim=-1) > 0).all()


def test_focal_lengths_come_from_the_field_of_view(copy):
    """NeRF's and instant-ngp's files have camera_angle_x only."""
    truth = parsed(copy).cameras

    def angle_only(meta):
        focal, width = meta.pop("fl_x"), meta.pop("w")
        for key in ("fl_y", "h", "cx", "cy"):
            meta.pop(key)
        meta["camera_angle_x"] = 2 * math.atan(width / 2 / focal)

    edit(copy, angle_only)
    found = parsed(copy).cameras
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        assert torch.allclose(getattr(found, name).float(), getattr(truth, name).float(), rtol=1e-5), name


def test_no_focal_length_at_all_says_what_is_missing(copy):
    edit(copy, lambda meta: meta.pop("fl_x") and None)
    assert "KeyError: 'fl_x'" in refused(copy) and "or camera_angle_x in radians" in refused(copy)


@pytest.mark.parametrize("key", ["w", "cx", "k1", "distortion_params"])
def test_intrinsics_that_are_no_numbers(copy, key):
    edit(copy, lambda meta: {**meta, key: "abc"})
    assert "frame 0 could not be read (ValueError: could not convert string to float" in refused(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k1": math.nan}, "Lens distortion must be finite numbers"),
        ({"fl_x": 1e12}, "fx = 1e+12"),
        ({"fl_x": 0.5, "fl_y": 0.5}, "fx = 0.5"),
    ],
)
def test_lenses_that_cannot_be_are_named(copy, change, words):
    edit(copy, lambda meta: {**meta, **change})
    assert words in refused(copy) and "12 problems" in refused(copy)


# -- masks -----------------------------------------------------------------------------------------------------------


def test_masks_are_looked_at_with_their_photos(copy):
    """A missing mask used to end in a traceback, black ones in a run that learnt nothing."""
    (copy / "masks").mkdir()

    def add(number, frame):
        frame["mask_path"] = f"masks/{number}.png"
        Image.new("L", (48, 32), 255 if number else 0).save(copy / frame["mask_path"])

    edit(copy, each_frame(add))
    assert len(checked(parsed(copy)).mask_filenames) == 10  # the black one is held out
    (copy / "masks" / "3.png").unlink()
    Image.new("L", (24, 16), 255).save(copy / "masks" / "5.png")
    with pytest.raises(UserError) as caught:
        checked(parsed(copy))
    assert "masks/3.png" in str(caught.value) and "24x16 pixels, its photo 48x32" in str(caught.value)
    with pytest.raises(UserError, match="black all over"):
        checked(parsed(copy, "test"), minimum=1)


# -- places ----------------------------------------------------------------------------------------------------------


def test_a_scene_with_one_photo(copy):
    edit(copy, lambda meta: {**meta, "frames": meta["frames"][:1]})
    assert "More photos from different places are needed" in refused(copy)


def test_cameras_that_are_all_in_one_place(copy):
    def move(number, frame):
        for row in range(3):
            frame["transform_matrix"][row][3] = 4.0

    edit(copy, each_frame(move))
    assert "all 12 cameras are at (4, 4, 4)" in refused(copy)


# -- COLMAP models ---------------------------------------------------------------------------------------------------


def binary(folder: Path) -> Path:
    """A public layout with its model as .bin."""
    import pycolmap

    write_public_scene(folder)
    place = folder / "sparse" / "0"
    model = pycolmap.Reconstruction(str(place))
    for file in place.iterdir():
        file.unlink()
    model.write_binary(str(place))
    return place


BROKEN = {
    "empty cameras": ("cameras.bin", lambda data: b""),
    "empty images": ("images.bin", lambda data: b""),
    "cut cameras": ("cameras.bin", lambda data: data[:30]),
    "cut images": ("images.bin", lambda data: data[: len(data) // 2]),
    "cut points": ("points3D.bin", lambda data: data[: len(data) // 2]),
    "random cameras": ("cameras.bin", lambda data: np.random.default_rng(0).bytes(len(data))),
    "random images": ("images.bin", lambda data: np.random.default_rng(1).bytes(len(data))),
    "random points": ("points3D.bin", lambda data: np.random.default_rng(2).bytes(len(data))),
    "no images at all": ("images.bin", lambda data: struct.pack("<Q", 0)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_models_end_in_one_message(tmp_path, what):
    place = binary(tmp_path / "scene")
    assert len(parsed(tmp_path / "scene").image_filenames) == 10
    name, spoil = BROKEN[what]
    (place / name).write_bytes(spoil((place / name).read_bytes()))
    said = refused(tmp_path / "scene")
    assert str(place) in said and "Export the model again" in said and "\n" not in said


def test_a_model_with_lenses_that_nerfstudio_does_not_know(tmp_path):
    write_public_scene(tmp_path)
    (tmp_path / "sparse/0/cameras.txt").write_text("1 FULL_OPENCV 99 66 110 112 50 33 0 0 0 0 0 0 0 0\n")
    assert "FULL_OPENCV" in refused(tmp_path)
