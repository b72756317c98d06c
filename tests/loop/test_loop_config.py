"""The loop's configuration: scaled with the run, and checked before training."""

import json
import math
from dataclasses import replace

import pytest
from loop_scene import aimed

from genfusion_ns.camera_path import to_nerfstudio_camera_path
from genfusion_ns.errors import UserError
from genfusion_ns.loop.config import DiffusionConfig, LoopConfig


def test_config_scales_with_the_run():
    config = LoopConfig().scaled_to(700)
    assert (config.start, config.every, config.until) == (400, 100, 650)
    assert [k for k in range(701) if config.is_round_due(k, 700)] == [400, 500, 600]
    assert config.generated_weight(400) == config.generated_weight(650) == config.generated_weight(680) == 0
    assert config.generated_weight(525) == config.weight


def test_loop_can_be_switched_off():
    config = LoopConfig(every=0).scaled_to(700)
    assert not any(config.is_round_due(k, 700) for k in range(701))
    assert config.generated_weight(525) == 0


def test_files_of_the_rounds_are_looked_at_before_training(tmp_path):
    """A run without rounds needs none of them."""
    config = LoopConfig(repairer="identity", trajectories=("path",), camera_path=tmp_path / "path.json")
    with pytest.raises(UserError, match="path.json cannot be read as a camera path"):
        config.check_files(7000)
    config.check_files(500)
    replace(config, every=0).check_files(7000)
    (tmp_path / "path.json").write_text(json.dumps(to_nerfstudio_camera_path([aimed((3.0, 0.0, 1.0))])))
    config.check_files(7000)
    other = replace(config, repairer="diffusion", diffusion=DiffusionConfig(weights="nonsense"))
    with pytest.raises(UserError, match="there are no weights 'nonsense'"):
        other.check_files(7000)
    other.check_files(500)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "loop.frames is 0; expected at least 1"),
        ({"clip_length": 0}, "loop.clip-length is 0; expected at least 1"),
        ({"pool": 0}, "loop.pool is 0"),
        ({"max_side": 4}, "loop.max-side is 4; expected at least 16"),
        ({"weight": -1.0}, "loop.weight is -1.0"),
        ({"weight": math.nan}, "loop.weight is nan; expected at least 0"),
        ({"weight": math.inf}, "loop.weight is inf"),
        ({"diffusion": DiffusionConfig(steps=-1)}, "loop.diffusion.steps is -1"),
        ({"depth_weight": -0.1}, "loop.depth-weight is -0.1"),
        ({"trajectories": ("path",)}, "loop.camera-path is not set"),
        ({"repairer": "magic"}, "loop.repairer is 'magic'; expected one of: classical, diffusion, identity"),
    ],
)
def test_settings_that_cannot_work_are_named(change, message):
    LoopConfig().check()
    with pytest.raises(UserError, match=message):
        replace(LoopConfig(), **change).check()
