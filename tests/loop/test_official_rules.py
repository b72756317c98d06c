"""The official loop's rules, restated, against ours: equal where we keep them, and what is gained where we differ."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from loop_scene import aimed

from genfusion_ns import schedule
from genfusion_ns.camera_path import to_nerfstudio_camera_path
from genfusion_ns.data.mask import moving_window
from genfusion_ns.geometry import directions, focus_point, positions
from genfusion_ns.loop import trajectories
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.plan import plan_round


def official_windows(views: int, length: int = 16) -> list[tuple[int, int]]:
    """(first view, overlap with the clip before) of the official loop's views // length + 2 clips."""
    clips = views // length + 2
    overlap = max(1, (clips * length - views) // (clips - 1))
    last_overlap = overlap + (overlap - views) % clips
    starts = [i * (length - overlap) for i in range(clips - 1)]
    starts.append(starts[-1] + length - last_overlap)
    return list(zip(starts, [0] + [overlap] * (clips - 2) + [last_overlap], strict=True))


def test_the_official_clips_of_85_views():
    starts, overlaps = zip(*official_windows(85), strict=True)
    assert starts == (0, 12, 24, 36, 48, 60, 69) and overlaps == (0, 4, 4, 4, 4, 4, 7)


@pytest.mark.parametrize("views", [16, 17, 20, 24, 32, 40, 48, 80, 85, 150, 160, 170])
def test_ours_differs_every_view_is_kept_by_fewer_clips(views):
    official, ours = official_windows(views), trajectories.partition(views, 16)
    assert sum(16 - overlap for _, overlap in official) == views
    assert sorted({view for clip in ours for view in clip}) == list(range(views))
    assert len(ours) == math.ceil(views / 16) < len(official) == views // 16 + 2


def test_lambda_of_the_official_completion_is_cut_off():
    for k, value in ((11_000, 0.685), (17_500, 1.0), (26_000, 0.48)):
        assert schedule.generated_weight(k, 5000, 30_000, 1.0) == pytest.approx(value, abs=0.005)


def test_windows_turn_round_where_the_published_ones_do():
    rows = [moving_window(j, 960, 540) for j in range(90)]
    turns = {"x": [], "y": []}
    for j in range(1, 89):
        for axis in turns:
            before, here, after = (getattr(rows[j + d], axis) for d in (-1, 0, 1))
            if (here - before) * (after - here) < 0:
                turns[axis].append(j)
    assert turns == {"x": [75], "y": [32, 85]}


@pytest.mark.parametrize("cycle", range(6))
def test_ring_of_85_poses_looks_at_the_focus_or_past_it_by_its_pitch(around, cycle):
    """The official pitch of cycle i is 2 i degrees; ours is drawn, with the same meaning."""
    path = trajectories.ring(around, 85, trajectories.template_view(around), pitch=2.0 * cycle, phase=0.1 * cycle)
    R = torch.stack([camera.w2c[:3, :3] for camera in path]).double()
    torch.testing.assert_close(R @ R.mT, torch.eye(3).double().expand(85, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(85).double(), atol=1e-5, rtol=0)
    to_focus = torch.nn.functional.normalize(focus_point(around) - positions(path), dim=-1)
    cosine = (directions(path) * to_focus).sum(-1).clamp(-1, 1)
    assert torch.rad2deg(torch.acos(cosine)).tolist() == pytest.approx([2.0 * cycle] * 85, abs=0.1)


def test_ours_differs_each_round_sees_the_whole_saved_path(tmp_path, around):
    """240 poses become 48; the official code takes a third of them a cycle, ours all three clips of 16."""
    saved = [aimed((3 * math.cos(a / 38), 3 * math.sin(a / 38), 1.0)) for a in range(240)]
    file = tmp_path / "path.json"
    file.write_text(json.dumps(to_nerfstudio_camera_path(saved)))
    config = replace(LoopConfig(), frames=48, trajectories=("path",), camera_path=file, max_side=16)
    chosen = [int(i * 239 / 47) for i in range(48)]
    for cycle in (0, 1):
        clips = plan_round(around, config, 0, cycle)
        assert [len(clip.cameras) for clip in clips] == [16, 16, 16]
        found = torch.stack([camera.position for clip in clips for camera in clip.cameras])
        torch.testing.assert_close(found, positions(saved)[chosen], atol=1e-4, rtol=0)
