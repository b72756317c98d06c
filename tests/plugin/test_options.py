"""Every number that ns-train and the commands take has bounds, and all of them are looked at before anything starts."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from nerfstudio.utils.eval_utils import eval_setup

from genfusion_ns.commands.camera_path import CameraPathArguments
from genfusion_ns.commands.make_fits import MakeFits
from genfusion_ns.commands.make_scene import MakeScene
from genfusion_ns.commands.mesh import MeshArguments
from genfusion_ns.data.prepare import PrepareConfig
from genfusion_ns.errors import UserError
from genfusion_ns.plugin.config import cpu_config
from genfusion_ns.plugin.dataparser import GenFusionDataParserConfig

FREE = {"pipeline.model.camera_optimizer.trans_l2_penalty", "pipeline.model.camera_optimizer.rot_l2_penalty"}
"""Unused: poses are not optimised."""


def numbers(config, where="", bounds=()) -> Iterator[tuple[str, bool]]:
    """Each numeric field below `config`, and whether a table bounds it."""
    bounds = [*bounds, *(where + name for name in getattr(config, "BOUNDS", {}))]
    for entry in dataclasses.fields(config):
        value, name = getattr(config, entry.name), where + entry.name
        is_numeric = re.search(r"\b(int|float)\b", str(entry.type))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from numbers(value, f"{name}.", bounds)
        elif isinstance(value, dict):
            groups = {group: parts for group, parts in value.items() if isinstance(parts, dict)}
            for group, parts in groups.items():
                for part, inner in parts.items():
                    if inner is not None:
                        yield from numbers(inner, f"{name}.{group}.{part}.", bounds)
        elif is_numeric and not isinstance(value, bool):
            yield name, name in bounds


@pytest.mark.parametrize(
    "config",
    [
        cpu_config("genfusion-cpu"),
        PrepareConfig(Path("a"), Path("b")),
        CameraPathArguments(Path("c")),
        MeshArguments(Path("c")),
        MakeFits(Path("o")),
        MakeScene(Path("o")),
    ],
    ids=lambda config: type(config).__name__,
)
def test_every_number_has_bounds(config):
    found = dict(numbers(config))
    assert len(found) > 3
    assert [name for name, bounded in found.items() if not bounded and name not in FREE] == []


def changed(config, path: str, value):
    """Set `a.b.c` below a configuration."""
    *way, last = path.split(".")
    holder = config
    for part in way:
        holder = holder[part] if isinstance(holder, dict) else getattr(holder, part)
    setattr(holder, last, value)
    return config


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("pipeline.datamanager.max_image_side", -1),
        ("pipeline.datamanager.dataparser.sparse_views", -3),
        ("pipeline.datamanager.dataparser.train_every", -1),
        ("pipeline.datamanager.dataparser.downscale_factor", 0),
        ("pipeline.datamanager.loop.weight", math.nan),
        ("pipeline.datamanager.loop.clip_length", 0),
        ("pipeline.model.densifier.max_gaussians", 0),
        ("optimizers.means.optimizer.lr", math.nan),
        ("max_num_iterations", 0),
        ("max_num_iterations", -5),
        ("steps_per_save", -1),
    ],
)
def test_ns_train_stops_before_it_writes_anything(scene, make_config, path, value):
    """`save_config` is what ns-train calls first."""
    config = changed(make_config(scene), path, value)
    with pytest.raises(UserError, match=f"{path.split('.')[-1].replace('_', '-')} is {value}; expected"):
        config.save_config()
    assert not config.output_dir.exists()


def test_a_loop_that_cannot_work_stops_there_too(scene, make_config):
    config = make_config(scene)
    config.pipeline.datamanager.loop.repairer = "magic"
    with pytest.raises(UserError, match="loop.repairer is 'magic'"):
        config.save_config()
    assert not config.output_dir.exists()


def test_commands_that_load_a_run_look_too(scene, make_config):
    """A negative size used to give pictures of 1 x 1 pixel, and ns-eval's 49.7 dB."""
    config = make_config(scene)
    config.save_config()
    path = config.get_base_dir() / "config.yml"
    config.pipeline.datamanager.max_image_side = -1
    path.write_text(yaml.dump(config))
    with pytest.raises(UserError, match="max-image-side is -1; expected at least 16"):
        eval_setup(path)


def test_the_dataparser_looks_whoever_uses_it(scene):
    parser = GenFusionDataParserConfig(data=scene, sparse_views=-3).setup()
    with pytest.raises(UserError, match="--sparse-views is -3; expected at least 0"):
        parser.get_dataparser_outputs("train")
