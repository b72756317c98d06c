"""The folders of the public benchmarks through our dataparser and datamanager: cameras fit the reduced photos, splits
and windows are those of the published protocols."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from public_layouts import FULL, write_public_scene

from genfusion_ns.data.mask import moving_window
from genfusion_ns.errors import UserError
from genfusion_ns.plugin.datamanager import GenFusionDataManager, GenFusionDataManagerConfig
from genfusion_ns.plugin.dataparser import GenFusionDataParserConfig


def manager(data: Path, mask: str = "none", points: str = "random", **parser) -> GenFusionDataManager:
    config = GenFusionDataManagerConfig(
        data=data,
        dataparser=GenFusionDataParserConfig(**parser),
        mask=mask,  # type: ignore[arg-type]
        initial_points=points,  # type: ignore[arg-type]
        max_seed_points=30,
    )
    return config.setup(device="cpu", test_mode="val")


def ids(data: Path, split: str, **settings) -> list[int]:
    outputs = GenFusionDataParserConfig(data=data, **settings).setup().get_dataparser_outputs(split=split)
    return outputs.metadata["image_ids"]


def test_mipnerf360_with_the_splits_of_reconfusion(tmp_path):
    """images_4 was rounded up (25 for 99 / 4), the full photos are missing, the lists lie in a folder of their own."""
    scene = write_public_scene(tmp_path / "360_v2" / "garden", factors=(4, 8))
    lists = tmp_path / "reconfusion" / "garden"
    lists.mkdir(parents=True)
    (lists / "train_test_split_3.json").write_text(json.dumps({"train_ids": [2, 5, 9], "test_ids": [0, 7]}))
    for folder in (lists, lists.parent):
        settings = {"sparse_views": 3, "splits": folder, "downscale_factor": 4}
        assert ids(scene, "train", **settings) == [2, 5, 9] and ids(scene, "test", **settings) == [0, 7]
    views = manager(scene, "none", "tracks", **settings)
    for view in views.train_views():
        photo = np.asarray(Image.open(scene / "images_4" / f"frame_{view.index + 1:05d}.png"))
        assert (view.image == photo).all() and view.image.shape == (16, 25, 3)
        K = torch.tensor([[110 * 25 / 99, 0, 50 * 25 / 99], [0, 112 * 16 / 66, 33 * 16 / 66], [0, 0, 1]])
        torch.testing.assert_close(view.camera.K, K, rtol=1e-5, atol=1e-4)
    camera, data = views.next_eval_image(0)
    assert data["image"].shape == (16, 25, 3) and int(camera.width) == 25


def test_without_images_the_largest_of_the_reduced_ones_is_read(tmp_path):
    scene = write_public_scene(tmp_path / "bonsai", factors=(4, 8))
    outputs = GenFusionDataParserConfig(data=scene).setup().get_dataparser_outputs("train")
    assert {path.parent.name for path in outputs.image_filenames} == {"images_4"}
    whole = write_public_scene(tmp_path / "kitchen", factors=(1, 4))
    outputs = GenFusionDataParserConfig(data=whole).setup().get_dataparser_outputs("train")
    assert {path.parent.name for path in outputs.image_filenames} == {"images"}
    assert (int(outputs.cameras.width[0]), int(outputs.cameras.height[0])) == FULL


def test_missing_reduced_photos_and_lists_are_messages_not_questions(tmp_path):
    scene = write_public_scene(tmp_path / "stump", factors=(1, 8))
    with pytest.raises(UserError, match=r"no images_4 .*images_8.*max-image-side"):
        ids(scene, "train", downscale_factor=4)
    with pytest.raises(UserError, match=r"Found no train_test_split_6.json in .*stump or "):
        ids(scene, "train", sparse_views=6, splits=tmp_path)


@pytest.mark.parametrize("transforms", [False, True])
@pytest.mark.parametrize("every", [2, 4])
def test_dl3dv_masked(tmp_path, transforms, every):
    """Every 2nd (4th) frame trains, frame j on window j of the walk; all other frames are evaluated whole."""
    scene = tmp_path / ("0a1b7c20a9" + "0" * 54)
    write_public_scene(scene / "nerfstudio", "colmap/sparse/0", factors=(4,), transforms=transforms)
    views = manager(scene, "moving", "tracks", downscale_factor=4, train_every=every)
    assert views.get_datapath() == scene / "nerfstudio"
    shown = views.train_views()
    assert [view.index for view in shown] == list(range(0, 12, every))
    for view in shown:
        x, y, width, height = moving_window(view.index, 25, 16)
        photo = np.asarray(Image.open(scene / "nerfstudio" / "images_4" / f"frame_{view.index + 1:05d}.png"))
        assert (view.image == photo[y : y + height, x : x + width]).all()
    assert views.eval_dataset.image_filenames and len(views.eval_dataset) == 12 - len(shown)
    camera, data = views.next_eval_image(0)
    assert data["image"].shape == (16, 25, 3) and (int(camera.width), int(camera.height)) == (25, 16)


def test_tanks_and_temples_masked(tmp_path):
    scene = write_public_scene(tmp_path / "tandt" / "truck", factors=(1,))
    assert ids(scene, "train", train_every=2) == [0, 2, 4, 6, 8, 10]
    assert ids(scene, "test", train_every=2) == [1, 3, 5, 7, 9, 11]
    assert ids(scene, "train", train_every=2, sparse_views=3) != [0, 2, 4]  # sparse views come first
    with pytest.raises(UserError, match="training interval 1"):
        ids(scene, "train", train_every=1)


def test_the_model_and_transforms_json_give_the_same_cameras(tmp_path):
    """Two readers of one capture, both with reduced photos."""
    both = []
    for transforms in (False, True):
        scene = write_public_scene(tmp_path / f"{transforms}" / "counter", transforms=transforms)
        both.append(GenFusionDataParserConfig(data=scene, downscale_factor=4).setup().get_dataparser_outputs("train"))
    a, b = (part.cameras for part in both)
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-5)
    gaps = [torch.cdist(c.camera_to_worlds[:, :, 3], c.camera_to_worlds[:, :, 3]) for c in (a, b)]
    torch.testing.assert_close(gaps[0] / gaps[0].max(), gaps[1] / gaps[1].max(), atol=1e-4, rtol=0)
