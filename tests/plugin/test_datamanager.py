"""Views, windows, checks and generated views, through the datamanager alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from genfusion_ns.cameras import project
from genfusion_ns.data.mask import moving_window
from genfusion_ns.errors import UserError
from genfusion_ns.loop.supervision.gate import held_out
from genfusion_ns.loop.view_buffer import GeneratedFrame, Provenance
from genfusion_ns.plugin.bridge import core_camera
from genfusion_ns.plugin.datamanager import GenFusionDataManager, GenFusionDataManagerConfig
from genfusion_ns.plugin.dataparser import GenFusionDataParserConfig
from genfusion_ns.plugin.train_photos import full_frame


def manager(scene: Path, test_mode: str = "val", parser=None, **settings) -> GenFusionDataManager:
    settings = {"initial_points": "random", "max_seed_points": 50, **settings}
    config = GenFusionDataManagerConfig(data=scene, dataparser=parser or GenFusionDataParserConfig(), **settings)
    return config.setup(device="cpu", test_mode=test_mode)


@pytest.fixture
def copy(scene, tmp_path) -> Path:
    return Path(shutil.copytree(scene, tmp_path / "scene"))


def test_order_is_a_fresh_permutation_each_epoch_and_needs_no_memory(scene):
    views = manager(scene)
    count = len(views.train_dataset)

    def shown(step):
        camera, data = views.next_train(step)
        i = data["image_idx"]
        assert torch.equal(camera.w2c, core_camera(views.train_cameras[i : i + 1]).w2c)
        return data["image_idx"]

    epochs = [[shown(step) for step in range(e * count, (e + 1) * count)] for e in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [shown(step) for step in (25, 3, 25)] == [epochs[2][25 - 2 * count], epochs[0][3], epochs[2][25 - 2 * count]]


def test_moving_windows_follow_the_place_in_the_whole_capture(scene):
    """Photo j has window j however few photos train, and the cropped photo shows exactly those pixels."""
    views = manager(scene, mask="moving", parser=GenFusionDataParserConfig(sparse_views=3))
    for view in views.train_views():
        x, y, width, height = moving_window(view.index, 48, 32)
        photo = Image.open(scene / "images" / f"frame_{view.index + 1:05d}.png")
        expected = torch.tensor(list(photo.crop((x, y, x + width, y + height)).getdata())).view(height, width, 3)
        assert torch.equal(torch.from_numpy(view.image).long(), expected)
    evaluated, data = views.next_eval_image(0)
    assert data["image"].shape == (32, 48, 3) and int(evaluated.width) == 48


def test_reduced_photos_keep_their_field_of_view(scene):
    full, small = manager(scene), manager(scene, max_image_side=24)
    for a, b in zip(full.train_views(), small.train_views(), strict=True):
        assert b.image.shape == (16, 24, 3)
        points = torch.tensor([[0.1, 0.2, 0.3], [0.3, -0.1, 0.2]], dtype=a.camera.w2c.dtype)
        assert torch.allclose(project(points, a.camera)[0], 2 * project(points, b.camera)[0], atol=1e-3)


@pytest.mark.parametrize("mask", ["fixed", "moving"])
def test_windows_are_reduced_as_much_as_full_photos(scene, mask):
    """Windows of half the width and height train at the scale that evaluation asks for, not at twice that."""
    views = manager(scene, mask=mask, max_image_side=24)
    evaluated, data = views.next_eval_image(0)
    assert data["image"].shape == (16, 24, 3)
    for i, view in enumerate(views.train_views()):
        assert view.image.shape == (8, 12, 3)
        assert torch.allclose(view.camera.K[:2, :2].float(), evaluated.get_intrinsics_matrices()[0, :2, :2])
        full = full_frame(view.camera, *views._windows[i])
        assert (full.width, full.height) == (24, 16)
        assert torch.allclose(full.K.float(), evaluated.get_intrinsics_matrices()[0], atol=1e-4)


def test_broken_photos_are_skipped_while_few_and_listed_when_many(copy, capsys):
    photos = sorted((copy / "images").iterdir())
    photos[1].write_bytes(photos[1].read_bytes()[:200])
    with pytest.raises(UserError) as caught:  # 1 of 10 training photos is more than 5 %
        manager(copy)
    assert photos[1].name in str(caught.value) and photos[2].name not in str(caught.value)


def test_missing_and_truncated_photos_come_in_one_message(copy):
    photos = sorted((copy / "images").iterdir())
    photos[1].write_bytes(photos[1].read_bytes()[:200])
    photos[2].unlink()
    Image.open(photos[3]).resize((10, 10)).save(photos[3])
    with pytest.raises(UserError) as caught:
        manager(copy)
    text = str(caught.value)
    assert all(photos[i].name in text for i in (1, 2, 3)) and "10x10" in text and "48x32" in text


def test_inference_opens_no_photo(copy):
    """ns-export and the camera-path renderer must work where the photos are gone."""
    shutil.rmtree(copy / "images")
    assert len(manager(copy, test_mode="inference").train_dataset) == 10


def test_nothing_held_out_falls_back_to_training_photos(scene, capsys):
    """Stock ns-eval ends in an IndexError here."""
    views = manager(scene, parser=NerfstudioDataParserConfig(train_split_fraction=1.0, load_3D_points=True))
    assert len(views.eval_dataset) == 2
    assert "No photo is held out" in capsys.readouterr().out
    camera, data = views.next_eval_image(3)
    assert data["image"].shape == (32, 48, 3)


def test_bad_loop_settings_are_refused_at_once(scene):
    config = GenFusionDataManagerConfig(data=scene)
    config.loop.clip_length = 0
    with pytest.raises(UserError, match="loop.clip-length is 0"):
        config.setup(device="cpu")


def test_generated_views_are_served_while_lambda_is_positive(scene):
    views = manager(scene)
    views.set_run_length(7000)
    assert views.next_generated(3000) is None  # nothing generated yet
    camera = views.train_views()[0].camera
    size = camera.height, camera.width
    origin = Provenance("identity", "", "orbit", 0, 0, 1000, 0, 0)
    frame = GeneratedFrame.encode(camera, torch.zeros(*size, 3), torch.ones(*size, 1), torch.ones(*size, 1), origin)
    views.loop_state.pool.admit([frame])
    assert views.next_generated(4000) is None and views.next_generated(6500) is None
    found = views.next_generated(5250)
    assert found is not None
    assert found[1] == pytest.approx(views.config.loop.weight)  # half-way from 4000 to 6500


def test_photos_that_judge_rounds_train_only_once_the_loop_has_ended(scene):
    views = manager(scene)
    views.set_run_length(7000)
    views.loop.config.hold_out_from = 2
    count = len(views.train_dataset)
    judging = held_out(count, 2)

    def shown(first):
        return {views.next_train(step)[1]["image_idx"] for step in range(first, first + 2 * count)}

    for first in (0, 900, 3000, 6400 - 2 * count):
        assert shown(first) == set(range(count)) - set(judging)
    assert shown(6500) == set(range(count))
    views.loop.config.every = 0
    assert shown(0) == set(range(count))


def test_state_survives_a_plain_checkpoint(scene, tmp_path):
    views = manager(scene)
    camera = views.train_views()[0].camera
    size = camera.height, camera.width
    origin = Provenance("identity", "", "orbit", 0, 0, 1000, 0, 0)
    grey = torch.full((*size, 3), 0.5)
    frame = GeneratedFrame.encode(camera, grey, torch.ones(*size, 1), torch.ones(*size, 1), origin)
    views.loop_state.pool.admit([frame, frame])
    torch.save(views.state_dict(), tmp_path / "state")
    other = manager(scene)
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert len(other.loop_state.pool) == 2 and other.loop_state.pool.next_id == 2
    assert torch.equal(other.loop_state.pool.frames[1].rgb, views.loop_state.pool.frames[1].rgb)


def test_held_out_photos_are_checked_too(copy):
    (copy / "images" / "frame_00001.png").write_bytes(b"")
    with pytest.raises(UserError, match="frame_00001.png: the file is empty"):
        manager(copy)


def test_more_measured_points_than_wanted_are_thinned(scene):
    cloud = manager(scene, initial_points="all", max_seed_points=10**6).train_dataparser_outputs.metadata
    thin = manager(scene, initial_points="all", max_seed_points=60).train_dataparser_outputs.metadata
    assert len(thin["points3D_xyz"]) == 60 < len(cloud["points3D_xyz"])
    rows = {tuple(row) for row in cloud["points3D_xyz"].tolist()}
    assert all(tuple(row) in rows for row in thin["points3D_xyz"].tolist())
