"""genfusion-camera-path, with a run that needs no training."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import tyro

from genfusion_ns.camera_path import read_camera_path
from genfusion_ns.cameras import Camera, invert_rigid, look_at
from genfusion_ns.commands.camera_path import CameraPathArguments, make_path, run
from genfusion_ns.errors import UserError

K = torch.tensor([[30.0, 0, 16.0], [0, 30.0, 12.0], [0, 0, 1]])
PLACES = [(3.0, 0.0, 1.0), (0.0, 3.0, 1.0), (-3.0, 0.0, 1.0), (0.0, -3.0, 1.0)]


def views(places=PLACES) -> list[Camera]:
    up, target = torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3)
    return [Camera(invert_rigid(look_at(torch.tensor(p), target, up)), K, 32, 24) for p in places]


@pytest.fixture
def trained_run(monkeypatch) -> Path:
    """Stands in for genfusion_ns.plugin.runs, whose own test loads a real run."""
    module = ModuleType("genfusion_ns.plugin.runs")
    module.load_run = lambda path: SimpleNamespace(training_cameras=views())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "genfusion_ns.plugin.runs", module)
    return Path("config.yml")


@pytest.mark.parametrize("kind", ["auto", "spiral", "ring", "interpolate"])
def test_writes_what_ns_render_reads(trained_run, tmp_path, capsys, kind):
    out = tmp_path / "my path.json"
    run(CameraPathArguments(trained_run, output=out, kind=kind, frames=12, fps=6, size=(64, 48)))
    path = read_camera_path(out)
    assert len(path) == 12
    assert (path[0].width, path[0].height) == (64, 48)
    torch.testing.assert_close(path[0].K[0, 0], torch.tensor(60.0))
    assert json.loads(out.read_text())["seconds"] == 2.0
    said = capsys.readouterr().out
    assert "ns-render camera-path --load-config" in said
    named = shlex.split(said[said.index("ns-render") :].split("\n")[0])
    assert named[-4:] == ["--camera-path-filename", str(out), "--output-path", str(out.with_suffix(".mp4"))]


def test_auto_follows_the_capture():
    arguments = CameraPathArguments(Path("c"), frames=8)
    path, closed = make_path(views(), arguments)
    ring, _ = make_path(views(), replace(arguments, kind="ring"))
    assert closed
    assert all(torch.equal(a.w2c, b.w2c) for a, b in zip(path, ring, strict=True))
    side = views([(3.0, 0.0, 1.0), (3.0, 0.5, 1.0)])
    path, _ = make_path(side, arguments)
    spiral, _ = make_path(side, replace(arguments, kind="spiral"))
    assert all(torch.equal(a.w2c, b.w2c) for a, b in zip(path, spiral, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "--frames is 0; expected at least 1"),
        ({"fps": 0.0}, "--fps is 0.0"),
        ({"radius": -1.0}, "--radius is -1.0"),
        ({"size": (8, 64)}, "--size is 8 x 64; expected at least 16"),
    ],
)
def test_numbers_out_of_range(change, message):
    with pytest.raises(UserError, match=message):
        make_path(views(), replace(CameraPathArguments(Path("c")), **change))


def test_no_such_folder_exits_with_status_2(trained_run, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        run(CameraPathArguments(trained_run, output=tmp_path / "absent" / "path.json"))
    assert exit_info.value.code == 2
    assert "does not exist; create it" in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as exit_info:
        tyro.cli(CameraPathArguments, args=["--help"])
    assert exit_info.value.code == 0
    said = capsys.readouterr().out
    for word in ("ns-render camera-path", "--kind", "spiral", "--turns"):
        assert word in said
