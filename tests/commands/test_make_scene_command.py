"""`genfusion-scene`: numbers that make no scene, and a full disk."""

from __future__ import annotations

import pytest

from genfusion_ns.commands.make_scene import MakeScene, run


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": (4, 90)}, "--size is 4 x 90; expected at least 8"),
        ({"views": 1, "points": 0}, "--points is 0"),
        ({"supersample": 2}, "--supersample is 2; give an odd number"),
    ],
)
def test_numbers_that_make_no_scene(tmp_path, capsys, change, words):
    with pytest.raises(SystemExit) as stopped:
        run(MakeScene(tmp_path / "scene", **change))
    assert stopped.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "scene").exists()


def test_a_full_disk_leaves_nothing(tmp_path, capsys, monkeypatch):
    def full(file, array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.save", full)
    with pytest.raises(SystemExit) as stopped:
        run(MakeScene(tmp_path / "scene", size=(16, 8), views=2, supersample=1))
    assert stopped.value.code == 2
    assert "failed (No space left on device). Nothing of it is left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
