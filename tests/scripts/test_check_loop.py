"""`scripts/checks/loop.py`: its bars, and the pictures that it passes off as truth and as lies."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genfusion_ns.cameras import invert_rigid
from genfusion_ns.synthetic.demo import demo_path, demo_scene
from genfusion_ns.synthetic.render import Studio

pytest.importorskip("nerfstudio")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "checks"))
from loop import ROWS, pictures_of


@pytest.mark.parametrize(
    ("row", "gains", "passes"),
    [
        ("identity", [0.1, -0.1], True),
        ("identity", [0.1, -0.3], False),
        ("identity", [0.3, 0.0], False),
        ("oracle", [9.0, 2.9], False),
        ("oracle", [9.0, 3.1], True),
        ("half", [5.0, -0.31], False),
        ("all", [-0.2, -0.29], True),
        ("classical", [1.0, -0.19], True),
    ],
)
def test_every_seed_has_to_pass(row, gains, passes):
    assert ROWS[row].passes(gains, [0.9, 0.6]) == passes
    assert not ROWS[row].passes(gains, [0.9, 0.59])  # fog


def test_pictures_are_the_scenes_own_in_the_runs_coordinates():
    """A run's world is the scene's after a rigid motion and a scale."""
    camera = demo_path(4, 24, 16, 0)[1]
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turn[:3, 3] = torch.tensor([0.3, -2.0, 1.0])
    c2w = turn @ invert_rigid(camera.w2c.double())
    c2w[:3, 3] *= 0.25
    moved = replace(camera, w2c=invert_rigid(c2w).float())
    outputs = SimpleNamespace(dataparser_transform=turn[:3].float(), dataparser_scale=0.25)
    expected = Studio(demo_scene(0)).photo(camera, 3)
    shown = pictures_of(0, outputs)(moved)
    assert np.abs(255 * shown.color.numpy() - expected.rgb).mean() < 1.0
    np.testing.assert_allclose(shown.depth[..., 0].numpy(), 0.25 * expected.depth, atol=0.02)
    lie = pictures_of(0, outputs, upside_down=True)(moved)
    torch.testing.assert_close(lie.color, 1 - shown.color.flip(0, 1))
    torch.testing.assert_close(lie.depth, shown.depth.flip(0, 1))
