"""Cameras in the usual arrangements."""

import math

import pytest
from loop_scene import aimed

from genfusion_ns.cameras import Camera


@pytest.fixture
def around() -> list[Camera]:
    """Seven views around the origin, at distance 3 and height 1."""
    return [aimed((3 * math.cos(a), 3 * math.sin(a), 1.0)) for a in (0.0, 0.8, 1.9, 2.8, 3.9, 4.7, 5.6)]


@pytest.fixture
def facing() -> list[Camera]:
    """Five views from one side, looking along y."""
    return [
        aimed((x, 0.0, z), (0.5 * x, 4.0, 0.0)) for x, z in ((-0.5, 0), (-0.2, 0.2), (0, -0.1), (0.3, 0.1), (0.5, 0))
    ]
