"""Which views each split gets, from Nerfstudio and COLMAP folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from genfusion_ns.errors import UserError
from genfusion_ns.plugin.dataparser import GenFusionDataParserConfig


def ids(scene: Path, split: str, **settings) -> list[int]:
    outputs = GenFusionDataParserConfig(data=scene, **settings).setup().get_dataparser_outputs(split=split)
    names = [path.name for path in outputs.image_filenames]
    assert names == sorted(names) and len(outputs.cameras) == len(names)
    return outputs.metadata["image_ids"]


@pytest.fixture
def copy(scene, tmp_path) -> Path:
    """The small room, free to be changed."""
    return Path(shutil.copytree(scene, tmp_path / "scene"))


def edit(scene: Path, **changes) -> None:
    meta = json.loads((scene / "transforms.json").read_text())
    (scene / "transforms.json").write_text(json.dumps({**meta, **changes}))


def test_every_eighth_view_is_held_out(scene):
    assert ids(scene, "test") == ids(scene, "val") == [0, 8]
    assert ids(scene, "train") == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11]


def test_sparse_views_come_from_the_split_file(scene):
    split = json.loads((scene / "train_test_split_3.json").read_text())
    assert ids(scene, "train", sparse_views=3) == split["train_ids"]
    assert ids(scene, "test", sparse_views=3) == split["test_ids"]


def test_sparse_views_without_a_split_file_are_spread(copy):
    (copy / "train_test_split_3.json").unlink()
    train = ids(copy, "train", sparse_views=3)
    assert len(train) == 3 and not set(train) & set(ids(copy, "test", sparse_views=3))
    assert train[2] - train[0] >= 6  # an arc of 12 views: ends and middle, not neighbours


def test_all_splits_share_one_world(scene):
    """The same frame has the same pose whichever split it comes in."""
    everything = GenFusionDataParserConfig(data=scene, eval_interval=2).setup()
    parts = {s: everything.get_dataparser_outputs(split=s) for s in ("train", "test")}
    other = GenFusionDataParserConfig(data=scene, sparse_views=3).setup().get_dataparser_outputs(split="train")
    poses = {}
    for part in (*parts.values(), other):
        for i, pose in zip(part.metadata["image_ids"], part.cameras.camera_to_worlds, strict=True):
            assert torch.equal(poses.setdefault(i, pose), pose)
    assert len(poses) == 12


def test_split_lists_in_transforms_json_are_followed(copy):
    names = [frame["file_path"] for frame in json.loads((copy / "transforms.json").read_text())["frames"]]
    edit(copy, train_filenames=names[:6], val_filenames=names[6:8], test_filenames=names[8:])
    assert ids(copy, "train") == list(range(6))
    assert ids(copy, "val") == [6, 7]
    assert ids(copy, "test") == [8, 9, 10, 11]


def test_lists_without_val_use_test(copy):
    """Stock Nerfstudio stops here: 'The dataset's list of filenames for split val is missing'."""
    names = [frame["file_path"] for frame in json.loads((copy / "transforms.json").read_text())["frames"]]
    edit(copy, train_filenames=names[:10], test_filenames=names[10:])
    assert ids(copy, "val") == ids(copy, "test") == [10, 11]


def test_few_photos_still_hold_one_out(copy):
    """Stock Nerfstudio's fraction of 0.9 leaves an empty evaluation split for up to nine photos."""
    meta = json.loads((copy / "transforms.json").read_text())
    edit(copy, frames=meta["frames"][:3])
    assert ids(copy, "test") == [0] and ids(copy, "train") == [1, 2]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda scene: (scene / "transforms.json").unlink(), "genfusion-prepare"),
        (lambda scene: (scene / "transforms.json").write_text("{"), "no valid JSON"),
        (lambda scene: edit(scene, frames=[]), "lists no frames"),
        (lambda scene: edit(scene, fl_x=None), "frame 0 could not be read"),
    ],
)
def test_unreadable_scenes_say_what_to_do(copy, break_it, words):
    break_it(copy)
    with pytest.raises(UserError, match=words):
        ids(copy, "train")


def test_colmap_folder_shows_what_its_transforms_json_shows(shared, tmp_path):
    """Two independent readers of one capture: the same names, focal lengths, and camera distances up to scale."""
    fern = shared / "data" / "llff_fern"
    (tmp_path / "images").symlink_to(fern / "images")
    (tmp_path / "sparse").symlink_to(fern / "sparse")
    both = [GenFusionDataParserConfig(data=path).setup().get_dataparser_outputs("train") for path in (fern, tmp_path)]
    assert both[0].metadata["image_ids"] == both[1].metadata["image_ids"]
    assert [p.name for p in both[0].image_filenames] == [p.name for p in both[1].image_filenames]
    assert torch.allclose(both[0].cameras.fx, both[1].cameras.fx, rtol=1e-4)
    spans = []
    for part in both:
        places = part.cameras.camera_to_worlds[:, :, 3]
        distances = torch.cdist(places, places)
        spans.append(distances / distances.max())
    assert torch.allclose(spans[0], spans[1], atol=1e-3)


def test_broken_poses_are_named_before_the_world_is_scaled(copy):
    meta = json.loads((copy / "transforms.json").read_text())
    meta["frames"][4]["transform_matrix"][0][3] = float("nan")
    edit(copy, frames=meta["frames"])
    with pytest.raises(UserError) as caught:
        ids(copy, "train")
    assert "frame_00005" in str(caught.value) and "frame_00004" not in str(caught.value)
    assert "finite" in str(caught.value)


def test_faults_of_poses_and_photos_come_in_one_message(copy):
    meta = json.loads((copy / "transforms.json").read_text())
    meta["frames"][4]["transform_matrix"][0][3] = float("nan")
    edit(copy, frames=meta["frames"])
    (copy / "images" / "frame_00007.png").unlink()
    with pytest.raises(UserError) as caught:
        ids(copy, "train")
    assert "frame_00005" in str(caught.value) and "frame_00007.png: there is no such file" in str(caught.value)
