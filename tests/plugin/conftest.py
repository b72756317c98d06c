"""A small procedural scene and a small configuration, shared by the plugin's tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("COLUMNS", "200")  # rich would wrap paths in captured logs


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos of 48 x 32 pixels, with poses and points."""
    from genfusion_ns.synthetic.demo import demo_path, demo_scene
    from genfusion_ns.synthetic.write import write_scene

    out = tmp_path_factory.mktemp("scenes") / "room"
    write_scene(out, demo_scene(), demo_path(12, 48, 32), {"views": 12}, points=400, supersample=1)
    return out


@pytest.fixture
def make_config(tmp_path: Path):
    """A factory of tiny CPU training configurations: `make_config(scene, max_num_iterations=20)`."""
    from genfusion_ns.plugin.config import cpu_config

    def make(scene: Path, **overrides):
        config = cpu_config("genfusion-cpu")
        config.data = config.pipeline.datamanager.data = scene
        config.output_dir = tmp_path / "outputs"
        config.vis = "tensorboard"
        config.logging.local_writer.enable = False
        config.steps_per_eval_image = 0
        config.pipeline.datamanager.max_seed_points = 400
        config.pipeline.datamanager.initial_points = "all"
        for name, value in overrides.items():
            setattr(config, name, value)
        config.set_timestamp()
        return config

    return make


@pytest.fixture
def train():
    """Set up a trainer, run it, and give it back."""

    def run(config):
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        trainer.train()
        return trainer

    return run


@pytest.fixture(autouse=True)
def _restore_excepthook():
    """Importing the plugin installs a hook; tests must not inherit each other's."""
    before = sys.excepthook
    yield
    sys.excepthook = before
