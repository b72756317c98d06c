"""Clips on disk: what is written is read back, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion.errors import UserError
from diffusion.inputs.clips import read_clip, read_image, write_repaired

rng = np.random.default_rng(0)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    arrays = {
        "rgb": rng.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8),
        "depth": rng.random((3, 6, 8), dtype=np.float32) * 5,
        "alpha": rng.integers(0, 256, (3, 6, 8), dtype=np.uint8),
        "reference": rng.integers(0, 256, (2, 5, 7, 3), dtype=np.uint8),
    }
    for i in range(3):
        save(tmp_path / "rgb" / f"f{i}.png", arrays["rgb"][i])
        save(tmp_path / "depth" / f"f{i}.npy", arrays["depth"][i])
        save(tmp_path / "alpha" / f"f{i}.png", arrays["alpha"][i])
    for i in range(2):
        save(tmp_path / "reference" / f"{i}.png", arrays["reference"][i])
    return tmp_path, arrays


def test_a_folder(folder):
    path, arrays = folder
    clip = read_clip(path)
    assert clip.names == ["f0", "f1", "f2"]
    assert np.allclose(clip.rgb, arrays["rgb"] / 255)
    assert clip.depth is not None and np.array_equal(clip.depth[..., 0], arrays["depth"])
    assert clip.alpha is not None and np.allclose(clip.alpha[..., 0], arrays["alpha"] / 255)
    assert np.allclose(np.stack(clip.references), arrays["reference"] / 255)
    for values in (clip.rgb, clip.depth, clip.alpha):
        assert values.dtype == np.float32


def test_an_npz_file_is_the_same_clip(folder):
    path, arrays = folder
    np.savez(path / "clip.npz", **arrays)
    a, b = read_clip(path), read_clip(path / "clip.npz")
    assert np.array_equal(a.rgb, b.rgb)
    assert a.depth is not None and b.depth is not None and np.array_equal(a.depth, b.depth)
    assert a.alpha is not None and b.alpha is not None and np.array_equal(a.alpha, b.alpha)
    assert np.array_equal(a.references, b.references)
    assert b.names == ["0000", "0001", "0002"]


def test_frames_without_a_subfolder_and_a_single_reference_file(tmp_path):
    for i in range(2):
        save(tmp_path / f"{i}.png", np.full((4, 4, 3), i, np.uint8))
    save(tmp_path / "reference.jpg", np.full((4, 4, 3), 200, np.uint8))
    clip = read_clip(tmp_path)
    assert len(clip.rgb) == 2 and clip.depth is None and clip.alpha is None
    assert clip.references[0].mean() == pytest.approx(200 / 255, abs=0.01)


def test_sixteen_bit_depth_keeps_its_unit(tmp_path):
    save(tmp_path / "rgb" / "a.png", np.zeros((4, 4, 3), np.uint8))
    values = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    save(tmp_path / "depth" / "a.png", values)
    depth = read_clip(tmp_path).depth
    assert depth is not None and np.array_equal(depth[0, ..., 0], values)


def test_what_is_written_can_be_read(tmp_path):
    rgb, disparity = rng.random((2, 6, 8, 3), np.float32), rng.random((2, 6, 8, 1), np.float32)
    write_repaired(tmp_path, rgb, disparity, ["a", "b"])
    assert np.abs(read_clip(tmp_path).rgb - rgb).max() <= 0.5 / 255 + 1e-6
    with np.load(tmp_path / "repaired.npz") as stored:
        assert np.allclose(stored["rgb"], rgb, atol=1e-3)
        assert np.array_equal(stored["disparity"], disparity)
    with Image.open(tmp_path / "disparity" / "b.png") as image:
        assert np.abs(np.asarray(image) / 65535 - disparity[1, ..., 0]).max() < 1e-4
    assert not [p for p in tmp_path.rglob("*") if ".part" in p.name]


def break_nothing_there(path: Path) -> None:
    for file in (path / "rgb").iterdir():
        file.unlink()


def break_image(path: Path) -> None:
    (path / "rgb" / "f1.png").write_bytes(b"no image")


def break_size(path: Path) -> None:
    save(path / "rgb" / "f1.png", np.zeros((6, 9, 3), np.uint8))


def break_depth_count(path: Path) -> None:
    (path / "depth" / "f2.npy").unlink()


def break_depth_size(path: Path) -> None:
    save(path / "depth" / "f2.npy", np.zeros((2, 2), np.float32))


def break_depth_file(path: Path) -> None:
    (path / "depth" / "f2.npy").write_bytes(b"no array")


def break_depth_pickle(path: Path) -> None:
    np.save(path / "depth" / "f2.npy", np.array([{}], dtype=object), allow_pickle=True)


def break_alpha_type(path: Path) -> None:
    (path / "alpha" / "f0.png").unlink()
    save(path / "alpha" / "f0.npy", np.zeros((6, 8), np.int64))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (break_nothing_there, "no images.*expected one file per frame"),
        (break_image, "f1.png is no readable image"),
        (break_size, "f1.png has 9x6 pixels; expected 8x6"),
        (break_depth_count, "neither f2.npy nor f2.png.*3 frames"),
        (break_depth_size, r"f2.npy has the shape \(2, 2\); expected \(6, 8\)"),
        (break_depth_file, "f2.npy is no readable .npy"),
        (break_depth_pickle, "f2.npy is no readable .npy"),
        (break_alpha_type, "f0.npy holds numbers of type int64"),
    ],
)
def test_a_broken_folder_is_named(folder, harm, message):
    path, _ = folder
    harm(path)
    with pytest.raises(UserError, match=message) as caught:
        read_clip(path)
    assert "\n" not in str(caught.value)


def test_a_broken_npz_is_named(tmp_path):
    path = tmp_path / "clip.npz"
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match="no readable .npz"):
        read_clip(path)
    np.savez(path, images=np.zeros(3))
    with pytest.raises(UserError, match=r"holds \['images'\]; expected at least the array rgb"):
        read_clip(path)


def test_an_npz_of_the_wrong_shape_is_named(tmp_path):
    np.savez(tmp_path / "clip.npz", rgb=np.zeros((4, 4, 3)))
    with pytest.raises(UserError, match=r"shape \(4, 4, 3\); expected \[T, H, W, 3\]"):
        read_clip(tmp_path / "clip.npz")


@pytest.mark.parametrize(("name", "message"), [("nowhere", "does not exist"), ("file.txt", "neither a folder")])
def test_a_path_that_is_no_clip(tmp_path, name, message):
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(UserError, match=message):
        read_clip(tmp_path / name)


def test_a_missing_photo_is_named(tmp_path):
    with pytest.raises(UserError, match="photo.png is no readable image"):
        read_image(tmp_path / "photo.png")
