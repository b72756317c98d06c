"""The viewer's panel of the rounds, its writer, and the view that the viewer opens with; without a viewer."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement
from PIL import Image

from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.state import LoopState, RoundReport
from genfusion_ns.loop.view_buffer import GeneratedViews
from genfusion_ns.plugin import panel as panels
from genfusion_ns.plugin.panel import RoundsPanel
from genfusion_ns.plugin.round_log import encoded, last_sheet, log_round, writer
from genfusion_ns.plugin.training_rounds import TrainingRounds
from genfusion_ns.plugin.wishes import ViewerWishes

LOOP = LoopConfig(start=10, every=10, until=35)


def report(number: int = 0, **values) -> RoundReport:
    numbers = {"step": 10 * (number + 1), "clips": 2, "admitted": 7, "evicted": 0, "pool": 7, "coverage": 0.625}
    return RoundReport(round=number, **{**numbers, "change": 0.1, "seconds": 1.0, "agreement": 0.875, **values})


def state(*reports: RoundReport) -> LoopState:
    return LoopState(GeneratedViews(10), list(reports))


def sheet(width: int = 12) -> torch.Tensor:
    return torch.linspace(0, 1, 9 * width * 3).view(9, width, 3)


# -- what the loop is told -------------------------------------------------------------------------------------------


def test_scheduled_rounds_come_unless_paused():
    panel = RoundsPanel(training=True)
    due = lambda: [k for k in range(60) if panel.wants_round(LOOP, k, 50)]  # noqa: E731
    assert due() == [10, 20, 30]
    panel.pause_rounds.default_value = True  # what the box shows where there is no viewer
    assert due() == []


def test_a_round_that_is_asked_for_comes_once_even_while_paused():
    panel = RoundsPanel(training=True)
    panel.pause_rounds.default_value = True
    panel.run_round.cb_hook(panel.run_round)
    assert [k for k in range(13, 20) if panel.wants_round(LOOP, k, 50)] == [13]


def test_asking_at_a_scheduled_step_makes_one_round():
    panel = RoundsPanel(training=True)
    panel.ask()
    assert panel.wants_round(LOOP, 20, 50) and not panel.wants_round(LOOP, 21, 50)


@pytest.mark.parametrize(("loop", "k", "why"), [(LOOP, 35, "step 35"), (LoopConfig(every=0), 5, "switched off")])
def test_a_round_that_could_not_teach_is_refused_with_the_reason(loop, k, why):
    panel = RoundsPanel(training=True)
    panel.ask()
    assert not panel.wants_round(loop, k, 50)
    assert why in panel.status.content


# -- what the user is told -------------------------------------------------------------------------------------------


def test_status():
    panel = RoundsPanel(training=True)
    panel.update(state(), LOOP, 0, 50)
    assert "0 done, next at step 10" in panel.status.content
    panel.update(state(report(0), report(1, outcome="rolled back")), LOOP, 20, 50)
    for text in ("2 done, next at step 30", "round 2 at step 20, rolled back", "7 views", "0.62", "0.88"):
        assert text in panel.status.content
    panel.update(state(report(2)), LOOP, 30, 50)
    assert "next none" in panel.status.content and "not judged yet" in panel.status.content


def test_a_finished_run_has_no_next_round_and_no_controls():
    panel = RoundsPanel(training=False)
    panel.update(state(report()), LOOP, 10, 50)
    assert "next" not in panel.status.content
    assert not panel.run_round.visible and not panel.pause_rounds.visible and panel.hide_invented.visible


def test_the_viewer_finds_every_element_under_a_short_name():
    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.datamanager = torch.nn.Module()
            self.rounds = RoundsPanel(training=True)
            self.datamanager.rounds = TrainingRounds(Mock(), self.rounds, Mock())

    whole = Whole()
    found = [path for path, _ in parse_object(whole, ViewerElement, "Custom Elements")]
    names = ["hide_invented", "last_clip", "legend", "pause_rounds", "run_round", "status"]
    assert sorted(found) == [f"Custom Elements/rounds/{name}" for name in names]
    assert len(parse_object(whole, ViewerControl, "")) == 1


def test_it_adds_nothing_to_checkpoints():
    assert RoundsPanel(training=True).state_dict() == {}


def test_the_last_clip_is_a_picture():
    panel = RoundsPanel(training=True)
    panel.show_clip(torch.ones(30, 2000, 3) * 0.5)
    data = panel.last_clip.content.split("base64,")[1].split(")")[0]
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (640, 10) and abs(np.asarray(picture).mean() - 128) < 2
    panel.show_clip(None)
    assert panel.last_clip.content == ""


# -- the door to the viewer ------------------------------------------------------------------------------------------


class FakeClient:
    """What viser's client does on assignment, without a browser."""

    def __init__(self):
        self.camera = SimpleNamespace()

    def atomic(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return False


def fake_viewer(folder):
    control = SimpleNamespace(output_render="rgb", split=False, split_output_render="trust")
    server = SimpleNamespace(opened=[], get_host=lambda: "127.0.0.1", get_port=lambda: 7007)
    server.on_client_connect = server.opened.append
    config = SimpleNamespace(camera_frustum_scale=0.1)
    return SimpleNamespace(
        control_panel=control, viser_server=server, log_filename=folder / "viewer.log", config=config
    )


def test_only_what_is_on_the_screen_is_computed(tmp_path):
    panel, wishes, viewer = RoundsPanel(training=True), ViewerWishes(), fake_viewer(tmp_path)
    assert wishes.wants("trust")
    panel.connect(wishes, [])
    panel.control._setup(viewer)
    assert not wishes.wants("trust")
    viewer.control_panel.split = True
    assert wishes.wants("trust", "coverage") and not wishes.wants("coverage")
    with wishes.set_aside():
        assert not wishes.wants("trust")
    assert wishes.wants("trust")


def test_a_finished_run_shows_its_last_round(tmp_path):
    for number in (0, 1):
        log_round(report(number), sheet(), step=9, run_folder=tmp_path)
    panel = RoundsPanel(training=False)
    panel.control._setup(fake_viewer(tmp_path))
    assert "data:image/jpeg" in panel.last_clip.content
    last_sheet(tmp_path).write_bytes(b"no picture")
    other = RoundsPanel(training=False)
    other.control._setup(fake_viewer(tmp_path))
    assert other.last_clip.content == ""


def test_the_viewer_says_where_it_is_and_who_can_reach_it(tmp_path, capsys):
    RoundsPanel(training=True).control._setup(fake_viewer(tmp_path))
    said = capsys.readouterr().out
    assert "http://localhost:7007, for this machine only" in said and "ssh -L 7007:localhost:7007" in said
    assert "from every machine" in panels.how_to_open("0.0.0.0", 7008)


def test_the_viewer_opens_just_ahead_of_a_captured_view_and_looks_where_it_looks(tmp_path):
    from test_model import make_camera

    camera = make_camera(20, 14)
    panel, viewer, client = RoundsPanel(training=False), fake_viewer(tmp_path), FakeClient()
    panel.connect(ViewerWishes(), [camera])
    panel.control._setup(viewer)
    viewer.viser_server.opened[0](client)
    scale = panels.VISER_NERFSTUDIO_SCALE_RATIO
    eye, target = client.camera.position / scale, client.camera.look_at / scale
    ahead = (target - eye) / np.linalg.norm(target - eye)
    before = (eye - camera.position.numpy()) @ camera.w2c[2, :3].numpy()
    assert 0.01 < before < 0.1 and np.allclose(eye, camera.position + before * camera.w2c[2, :3], atol=1e-5)
    assert np.allclose(ahead, camera.w2c[2, :3], atol=1e-5)
    assert np.tan(client.camera.fov / 2) == pytest.approx(7 / 20)  # half the height over the focal length


# -- the writer and the file -----------------------------------------------------------------------------------------


def test_a_round_is_logged_with_its_picture(tmp_path):
    writer.EVENT_STORAGE.clear()
    log_round(report(0, before={"psnr": 21.5, "novel": 0.25}), sheet(), step=9, run_folder=tmp_path)
    events = {event["name"]: event for event in writer.EVENT_STORAGE}
    writer.EVENT_STORAGE.clear()
    scalars = events["Rounds"]["event"]
    assert scalars["pool size"] == 7 and scalars["coverage"] == 0.625 and scalars["agreement"] == 0.875
    assert scalars["admitted"] == 7 and scalars["before: psnr"] == 21.5 and scalars["before: novel"] == 0.25
    picture = events["Rounds/before, after, confidence"]
    assert picture["step"] == events["Rounds"]["step"] == 9 and torch.equal(picture["event"], sheet())
    saved = np.asarray(Image.open(tmp_path / "rounds" / "round_001.png"))
    assert np.abs(saved / 255.0 - sheet().numpy()).max() <= 0.5 / 255 + 1e-6
    assert [path.name for path in (tmp_path / "rounds").iterdir()] == ["round_001.png"]  # no temporary file is left


def test_a_round_without_clips_has_numbers_only(tmp_path):
    writer.EVENT_STORAGE.clear()
    log_round(report(0, clips=0), None, step=9, run_folder=tmp_path)
    assert [event["name"] for event in writer.EVENT_STORAGE] == ["Rounds"]
    writer.EVENT_STORAGE.clear()
    assert last_sheet(tmp_path) is None


def test_encoding_keeps_the_shape():
    image = Image.open(io.BytesIO(encoded(sheet(40), "PNG", max_width=20)))
    assert image.size == (20, 4)
