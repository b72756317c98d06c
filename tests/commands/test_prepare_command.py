"""The command line of genfusion-prepare: help, exit codes, messages."""

from __future__ import annotations

import pytest
from PIL import Image

from genfusion_ns.commands.prepare import main


def exit_of(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return int(stopped.value.code or 0)


def test_help_teaches(capsys):
    assert exit_of(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "--images",
        "folder of photos",
        "continues where the first one stopped",
        "SIMPLE_RADIAL",
        "exhaustive",
    ):
        assert words in text


def test_missing_options_end_with_status_2():
    assert exit_of([]) == 2


def test_no_folder_and_no_photos_end_with_status_2_and_no_traceback(tmp_path, capsys):
    assert exit_of(["--images", str(tmp_path / "nope"), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "error: Found no folder" in error and "Traceback" not in error
    assert exit_of(["--images", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "Found 0 photos" in capsys.readouterr().err


def test_unposable_photos_end_with_status_2_and_advice(tmp_path, capfd):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / "in" / name)
    assert exit_of(["--images", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--threads", "1"]) == 2
    error = capfd.readouterr().err
    assert "0 of 2 were registered" in error and "--matching exhaustive" in error and "Traceback" not in error


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(config, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr("genfusion_ns.commands.prepare.prepare", interrupted)
    assert exit_of(["--images", str(tmp_path), "--output", str(tmp_path / "out")]) == 130
    assert "continues where this one stopped" in capsys.readouterr().err
