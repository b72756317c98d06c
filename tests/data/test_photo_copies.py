"""Copies of a user's photos: named apart, upright, small enough, broken ones skipped."""

from __future__ import annotations

import os

import numpy as np
import pytest
from photo_files import photo
from PIL import Image

from genfusion_ns.data.photo_copies import copy_photos, fingerprint, list_photos
from genfusion_ns.errors import UserError


def test_copies_are_named_without_spaces_and_uniquely(tmp_path):
    for name in ("a b/c d.jpg", "a_b/c d.JPG", "e.png", ".hidden/f.jpg", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).touch()
        else:
            photo(tmp_path / name)
    photos = list_photos(tmp_path)
    assert sorted(photos.names) == ["a_b_c_d-2.jpg", "a_b_c_d.jpg", "e.png"]


def test_sound_photos_are_copied_byte_for_byte(tmp_path):
    photo(tmp_path / "in/a.jpg")
    photo(tmp_path / "in/b.png")
    photos = list_photos(tmp_path / "in")
    done = []
    assert copy_photos(photos, tmp_path / "out", 1600, done.append) == [(40, 30), (40, 30)]
    assert done == [1, 1]
    for name in ("a.jpg", "b.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


def test_exif_rotation_is_applied_and_the_focal_length_kept(tmp_path):
    image = Image.new("RGB", (40, 30))
    image.paste((255, 0, 0), (0, 0, 40, 10))  # red on top as stored
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned clockwise: the stored top is on the right
    exif.get_ifd(0x8769)[0xA405] = 28  # focal length in 35 mm film
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        image.save(tmp_path / "in" / name, exif=exif, quality=100)
    copy_photos(list_photos(tmp_path / "in"), tmp_path / "out", 1600, lambda n: None)
    with Image.open(tmp_path / "out" / "a.jpg") as turned:
        assert turned.size == (30, 40)
        pixels = np.asarray(turned).astype(int)
        assert pixels[:, 25:, 0].min() > 200 and pixels[:, :15, 0].max() < 60
        assert turned.getexif().get(0x0112, 1) == 1
        assert turned.getexif().get_ifd(0x8769)[0xA405] == 28


def test_large_photos_are_shrunk_and_alpha_is_blended_with_black(tmp_path):
    photo(tmp_path / "in/a.jpg", (400, 300))
    image = Image.new("RGBA", (40, 30), (200, 100, 50, 0))
    image.paste((200, 100, 50, 255), (0, 0, 20, 30))
    image.save(tmp_path / "in/b.png")
    photos = list_photos(tmp_path / "in")
    assert any("alpha" in note for note in photos.notes)
    assert copy_photos(photos, tmp_path / "out", 100, lambda n: None) == [(100, 75), (40, 30)]
    pixels = np.asarray(Image.open(tmp_path / "out" / "b.png"))
    assert pixels.shape == (30, 40, 3)
    assert (pixels[:, :20] == [200, 100, 50]).all() and (pixels[:, 20:] == 0).all()


def test_what_is_already_copied_is_left_alone(tmp_path):
    photo(tmp_path / "in/a.jpg")
    photo(tmp_path / "in/b.jpg")
    photos = list_photos(tmp_path / "in")
    copy_photos(photos, tmp_path / "out", 0, lambda n: None)
    before = os.stat(tmp_path / "out" / "a.jpg").st_mtime_ns
    (tmp_path / "out" / "b.jpg").unlink()
    copy_photos(photos, tmp_path / "out", 0, lambda n: None)
    assert os.stat(tmp_path / "out" / "a.jpg").st_mtime_ns == before and (tmp_path / "out" / "b.jpg").is_file()


def test_a_folder_that_is_not_there_or_holds_no_photos(tmp_path):
    with pytest.raises(UserError, match="Found no folder"):
        list_photos(tmp_path / "nope")
    (tmp_path / "IMG_1.HEIC").touch()
    with pytest.raises(UserError, match=r"Found 0 photos.*at least 2.*1 files such as IMG_1.HEIC are not read"):
        list_photos(tmp_path)
    photo(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="Found 1 photos"):
        list_photos(tmp_path)


def test_broken_photos_are_listed_or_few_of_them_skipped(tmp_path):
    for i in range(20):
        photo(tmp_path / f"{i:02d}.png")
    (tmp_path / "03.png").write_bytes(b"nonsense")
    photos = list_photos(tmp_path)
    assert len(photos.paths) == 19 and "03.png" in photos.notes[0] and "skipping 1 of 20" in photos.notes[0]
    Image.fromarray(np.zeros((30, 40), np.uint16)).save(tmp_path / "07.png")
    with pytest.raises(UserError, match=r"(?s)2 of 20 photos.*03.png: it is in no.*07.png: its pixels are of mode I"):
        list_photos(tmp_path)


def test_fingerprint_notices_changes(tmp_path):
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png")
    before = fingerprint(list_photos(tmp_path))
    assert fingerprint(list_photos(tmp_path)) == before
    photo(tmp_path / "b.png", (41, 30))
    assert fingerprint(list_photos(tmp_path)) != before
    photo(tmp_path / "c.png")
    assert len(fingerprint(list_photos(tmp_path))) == 3
