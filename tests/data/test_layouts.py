"""Public benchmarks' folders are told apart by what lies in them; nothing is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from genfusion_ns.data import layouts
from genfusion_ns.data.layouts import Layout, find_scenes, recognise


def folders(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


MODEL = ("sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/points3D.bin")
PHOTOS = ("images/a.jpg", "images_2/a.jpg", "images_4/a.jpg", "images_8/a.jpg")


def test_mipnerf360(tmp_path):
    by_scene = folders(tmp_path / "garden", *MODEL, *PHOTOS)
    by_folder = folders(tmp_path / "360_v2" / "my_garden", *MODEL, *PHOTOS)
    assert recognise(by_scene) == Layout("mipnerf360", by_scene, 4)
    assert recognise(by_folder) == Layout("mipnerf360", by_folder, 4)
    without_quarter = folders(tmp_path / "stump", *MODEL, "images_8/a.jpg")
    assert recognise(without_quarter) == Layout("mipnerf360", without_quarter, None)
    # a folder of one's own that is merely called like a scene
    own = folders(tmp_path / "own" / "room", *MODEL, "images/a.jpg")
    assert recognise(own) == Layout("colmap", own)


@pytest.mark.parametrize(
    "camera_file", ["transforms.json", "colmap/sparse/0/cameras.bin", "colmap/sparse/0/cameras.txt"]
)
def test_dl3dv(tmp_path, camera_file):
    scene = folders(tmp_path / ("0a1b7c20a9" + "5" * 54), f"nerfstudio/{camera_file}", "nerfstudio/images_4/a.png")
    for folder in (scene, scene / "nerfstudio"):
        found = recognise(folder)
        assert found == Layout("dl3dv", scene / "nerfstudio", 4, masked_train_every=2)
        assert found.title == "0a1b7c20a9"


@pytest.mark.parametrize("path", ["tandt/truck", "TNT_GOF/TrainingSet/Barn", "TanksAndTemples/mine", "Ignatius"])
def test_tanks_and_temples(tmp_path, path):
    scene = folders(tmp_path / path, *MODEL, "images/a.jpg")
    assert recognise(scene) == Layout("tanksandtemples", scene, None, masked_train_every=2)


def test_folders_of_ones_own_and_no_scene(tmp_path):
    ours = folders(tmp_path / "pond", "transforms.json", "images/a.jpg", *MODEL)
    assert recognise(ours) == Layout("nerfstudio", ours)
    assert recognise(folders(tmp_path / "model only", *MODEL)).name == "colmap"  # type: ignore[union-attr]
    assert recognise(folders(tmp_path / "photos", "images/a.jpg")) is None
    assert recognise(folders(tmp_path / "points", "sparse/0/points3D.bin")) is None
    assert recognise(tmp_path / "nothing here") is None


def test_scenes_of_a_folder(tmp_path):
    folders(tmp_path, *(f"garden/{file}" for file in (*MODEL, *PHOTOS)), "pond/transforms.json", "notes/read.me")
    folders(tmp_path, "attic/transforms.json", "attic/train_test_split_3.json")
    assert [layout.title for layout in find_scenes(tmp_path)] == ["attic", "garden"]
    assert find_scenes(tmp_path / "nowhere") == []


def test_of_dl3dv_only_the_24_where_they_are_there(tmp_path):
    others = folders(tmp_path / "others", f"{'f' * 64}/nerfstudio/transforms.json")
    assert [layout.title for layout in find_scenes(others)] == ["f" * 10]
    ours = [f"{name}{'0' * 54}" for name in layouts.DL3DV_24[:2]]
    mixed = folders(tmp_path / "mixed", *(f"{name}/nerfstudio/transforms.json" for name in (*ours, "f" * 64)))
    assert [layout.title for layout in find_scenes(mixed)] == list(layouts.DL3DV_24[:2])


def test_lists_are_whole():
    assert len(set(layouts.DL3DV_24)) == 24 and all(len(name) == 10 for name in layouts.DL3DV_24)
    assert len(set(layouts.MIPNERF360_SCENES)) == 9
    assert len(set(layouts.TANKS_AND_TEMPLES_SCENES)) == 21


def test_available_factors(tmp_path):
    folders(tmp_path, "images/a.jpg", "images_2/a.jpg", "images_16/a.jpg", "images_small/a.jpg", "images_4")
    assert layouts.available_factors(tmp_path) == [2, 16]
