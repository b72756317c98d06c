"""Validation at the door: one bad input per test, and what the message says about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genfusion_ns.data import validate
from genfusion_ns.data.validate import missing_scene_error, validate_scene
from genfusion_ns.errors import UserError, exits_cleanly

COUNT = 6


class Scene:
    """Six sound photos with poses on a ring; tests break one thing."""

    def __init__(self, folder: Path, poses: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.paths = [folder / "images" / f"{i:03d}.jpg" for i in range(COUNT)]
        (folder / "images").mkdir()
        rng = np.random.default_rng(0)
        for path in self.paths:
            Image.fromarray(rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)).save(path)
        self.c2w = poses
        self.K = np.tile(np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]), (COUNT, 1, 1))
        self.widths, self.heights = np.full(COUNT, 64), np.full(COUNT, 48)

    def check(self, **options):
        return validate_scene(self.paths, self.c2w, self.K, self.widths, self.heights, **options)

    def refused(self, **options) -> str:
        """The message that a command line shows before it exits with status 2."""
        with pytest.raises(SystemExit) as stopped:
            exits_cleanly(self.check)(**options)
        message = self.capsys.readouterr().err
        assert stopped.value.code == 2 and "Traceback" not in message
        return message


@pytest.fixture
def scene(tmp_path, capture, capsys) -> Scene:
    return Scene(tmp_path, capture(COUNT).c2w, capsys)


def test_a_sound_scene_passes_without_notes(scene):
    report = scene.check()
    assert report.keep == list(range(COUNT)) and report.notes == []


def test_opengl_poses_and_3x4_matrices_pass(scene):
    scene.c2w = (scene.c2w @ np.diag([1.0, -1.0, -1.0, 1.0]))[:, :3]
    assert scene.check().keep == list(range(COUNT))


def test_missing_photos(scene):
    scene.paths[1].unlink()
    scene.paths[4].unlink()
    message = scene.refused()
    assert "images/001.jpg: there is no such file" in message and "images/004.jpg" in message
    assert "2 problems" in message and "drop their frames from transforms.json" in message


def test_truncated_photo(scene):
    data = scene.paths[2].read_bytes()
    scene.paths[2].write_bytes(data[: len(data) // 2])
    assert "images/002.jpg: the file is truncated" in scene.refused()


@pytest.mark.parametrize(("content", "words"), [(b"", "the file is empty"), (b"hello", "in no image format")])
def test_files_that_are_no_images(scene, content, words):
    scene.paths[0].write_bytes(content)
    message = scene.refused()
    assert "images/000.jpg" in message and words in message


def test_wrong_size(scene):
    Image.new("RGB", (64, 36)).save(scene.paths[3])
    message = scene.refused()
    assert "images/003.jpg: it has 64x36 pixels, its intrinsics are for 64x48" in message
    assert "never resized to another aspect" in message


def rotate_by_exif(path: Path, size: tuple[int, int], orientation: int) -> None:
    image = Image.new("RGB", size)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


def test_photo_that_an_exif_tag_turns(scene):
    rotate_by_exif(scene.paths[0], (48, 64), 6)
    message = scene.refused()
    assert "images/000.jpg" in message and "EXIF orientation 6 turns it by a quarter" in message
    assert "-auto-orient" in message


def test_exif_tag_on_photos_whose_stored_size_fits_is_a_note(scene):
    rotate_by_exif(scene.paths[0], (64, 48), 8)
    (note,) = scene.check().notes
    assert "images/000.jpg" in note and "EXIF orientation" in note and "as they are stored" in note


def test_alpha_is_a_note(scene):
    scene.paths[5] = scene.paths[5].with_suffix(".png")
    Image.new("RGBA", (64, 48)).save(scene.paths[5])
    (note,) = scene.check().notes
    assert "images/005.png" in note and "alpha" in note


def test_16_bit_photo(scene):
    scene.paths[5] = scene.paths[5].with_suffix(".png")
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(scene.paths[5])
    message = scene.refused()
    assert "images/005.png: its pixels are of mode I" in message
    assert "8 bits per channel" in message and "-depth 8" in message


def test_few_broken_photos_are_skipped_with_a_note(scene, monkeypatch):
    monkeypatch.setattr(validate, "KEPT_SHARE", 0.8)
    scene.paths[1].unlink()
    report = scene.check()
    assert report.keep == [0, 2, 3, 4, 5]
    (note,) = report.notes
    assert "skipping 1 of 6 photos" in note and "images/001.jpg: there is no such file" in note


def test_five_percent_of_broken_photos_are_skipped_and_more_are_not(tmp_path, capture):
    poses = capture(40).c2w
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{i:03d}.png" for i in range(40)]
    for path in paths:
        Image.new("RGB", (8, 6)).save(path)
    K = np.tile(np.array([[50.0, 0, 4], [0, 50, 3], [0, 0, 1]]), (40, 1, 1))
    paths[0].unlink()
    paths[7].unlink()
    assert len(validate_scene(paths, poses, K, np.full(40, 8), np.full(40, 6)).keep) == 38
    paths[9].unlink()
    with pytest.raises(UserError, match="3 problems"):
        validate_scene(paths, poses, K, np.full(40, 8), np.full(40, 6))


def test_left_handed_pose(scene):
    scene.c2w[2, :3, 0] *= -1
    message = scene.refused()
    assert "images/002.jpg: det R = -1" in message and "right-handed" in message and "mirrored" in message


def test_scaled_rotation(scene):
    scene.c2w[3, :3, :3] *= 1.1
    message = scene.refused()
    assert "images/003.jpg: R^T R is off from 1 by 0.21, det R = 1.331" in message and "orthonormal" in message


def test_rotations_of_text_files_pass(scene):
    scene.c2w = np.round(scene.c2w, 4)
    assert scene.check().keep == list(range(COUNT))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(scene, value):
    scene.c2w[1, 0, 3] = value
    scene.K[4, 0, 2] = value
    message = scene.refused()
    assert f"images/001.jpg: pose entry [0, 3] is {value}" in message
    assert f"images/004.jpg: intrinsics entry [0, 2] is {value}" in message
    assert message.count("images/001.jpg") == 1


@pytest.mark.parametrize("focal", [0.0, -50.0])
def test_focal_length_that_is_not_positive(scene, focal):
    scene.K[0, 1, 1] = focal
    message = scene.refused()
    assert f"images/000.jpg: fx = 50, fy = {focal:g}" in message and "must be positive" in message


def test_identical_poses(scene):
    scene.c2w[3] = scene.c2w[1]
    scene.c2w[5] = scene.c2w[1]
    message = scene.refused()
    assert "images/001.jpg, images/003.jpg, images/005.jpg: all at (" in message and "share one pose" in message
    assert "1 problem was" in message


def test_all_poses_identical(scene):
    scene.c2w[:] = np.eye(4)
    assert "images/000.jpg, images/001.jpg" in scene.refused()


def test_same_place_other_direction_is_no_duplicate(scene):
    scene.c2w[3, :3, 3] = scene.c2w[1, :3, 3]
    assert scene.check().keep == list(range(COUNT))


def test_fewer_than_two_views(scene):
    one = slice(0, 1)
    with pytest.raises(UserError, match="found 1 usable of 1 listed"):
        validate_scene(scene.paths[one], scene.c2w[one], scene.K[one], scene.widths[one], scene.heights[one])
    with pytest.raises(UserError, match="at least 2 are needed"):
        validate_scene([], np.zeros((0, 4, 4)), np.zeros((0, 3, 3)), *np.zeros((2, 0), np.int64))


def test_everything_wrong_is_listed_once_in_one_message(scene):
    scene.paths[0].unlink()
    scene.c2w[1, :3, 1] *= -1
    scene.K[2, 0, 0] = 0
    scene.c2w[3] = np.nan
    scene.c2w[5] = scene.c2w[4]
    message = scene.refused()
    for index in range(COUNT):
        assert message.count(f"images/{index:03d}.jpg") == 1
    assert "5 problems" in message


def test_skippable_photos_are_not_in_the_message_about_poses(scene, monkeypatch):
    monkeypatch.setattr(validate, "KEPT_SHARE", 0.5)
    scene.paths[0].unlink()
    scene.K[2, 0, 0] = 0
    message = scene.refused()
    assert "images/002.jpg" in message and "images/000.jpg" not in message


def test_nothing_to_train_on_names_what_was_searched_and_the_commands(tmp_path):
    error = missing_scene_error(tmp_path, [tmp_path / "transforms.json", tmp_path / "sparse/0"])
    assert isinstance(error, UserError)
    for words in (
        str(tmp_path / "transforms.json"),
        "sparse/0",
        "genfusion-prepare",
        "ns-process-data",
        "holds no posed",
    ):
        assert words in str(error)
    assert "is not a folder" in str(missing_scene_error(tmp_path / "nope", []))


def masks_of(scene: Scene) -> list[Path]:
    """One mask per photo, white on the left."""
    masks = []
    for path in scene.paths:
        mask = np.zeros((48, 64), np.uint8)
        mask[:, :32] = 255
        masks.append(path.with_name(f"{path.stem}_mask.png"))
        Image.fromarray(mask).save(masks[-1])
    return masks


def test_sound_masks_pass(scene):
    assert scene.check(masks=masks_of(scene)).keep == list(range(COUNT))


@pytest.mark.parametrize(
    ("spoil", "title", "found"),
    [
        (lambda path: path.unlink(), "Masks must exist", "there is no "),
        (lambda path: path.write_bytes(b"hello"), "Masks must be readable", "in no image format"),
        (lambda path: Image.new("RGB", (64, 48)).save(path), "one channel", "has 3 channels"),
        (
            lambda path: Image.new("L", (32, 24), 255).save(path),
            "the size of their photos",
            "32x24 pixels, its photo 64x48",
        ),
        (lambda path: Image.new("L", (64, 48)).save(path), "leave something to train on", "is black all over"),
        (lambda path: Image.new("1", (64, 48)).save(path), "leave something to train on", "is black all over"),
    ],
)
def test_masks_that_cannot_be_used(scene, spoil, title, found):
    masks = masks_of(scene)
    spoil(masks[2])
    message = scene.refused(masks=masks)
    assert title in message and f"images/002.jpg: {masks[2]}"[:15] in message and found in message
    assert "1 problem was found" in message


def test_photos_with_broken_masks_are_skipped_while_they_are_few(scene, monkeypatch):
    monkeypatch.setattr(validate, "KEPT_SHARE", 0.8)
    masks = masks_of(scene)
    Image.new("L", (64, 48)).save(masks[2])
    report = scene.check(masks=masks)
    assert report.keep == [0, 1, 3, 4, 5] and "black all over" in report.notes[0]


def test_focal_lengths_that_no_lens_has(scene):
    scene.K[3, 0, 0] = 1e12
    assert "images/003.jpg: fx = 1e+12, fy = 50 for 64 x 48 pixels" in scene.refused()


def test_distortion_that_is_no_number(scene):
    distortion = np.zeros((COUNT, 6))
    distortion[5, 1] = np.nan
    assert "images/005.jpg: [0.0, nan" in scene.refused(distortion=distortion)
