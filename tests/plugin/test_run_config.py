"""config.yml is read, never executed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from genfusion_ns.errors import UserError
from genfusion_ns.plugin.run_config import read_config
from genfusion_ns.plugin.runs import load_run


def test_a_stored_configuration_comes_back(scene, make_config):
    config = make_config(scene, max_num_iterations=7, load_dir=Path("a/b"))
    config.pipeline.datamanager.loop.trajectories = ("orbit", "captured")
    config.save_config()
    file = config.get_base_dir() / "config.yml"
    assert read_config(file) == yaml.load(file.read_text(), Loader=yaml.Loader) == config


def test_settings_that_a_run_is_older_than_get_their_defaults(scene, make_config):
    config = make_config(scene)
    config.save_config()
    file = config.get_base_dir() / "config.yml"
    delattr(config.pipeline.datamanager.loop, "diffusion")
    file.write_text(yaml.dump(config))
    found = read_config(file)
    assert found.pipeline.datamanager.loop.diffusion.weights == "lite"
    assert dataclasses.is_dataclass(found)


def test_classes_that_have_moved_since_are_found(scene, make_config):
    config = make_config(scene)
    config.save_config()
    file = config.get_base_dir() / "config.yml"
    text = file.read_text()
    older = text
    for now, before in (
        ("genfusion_ns.gaussians.densify_sparse.", "genfusion_ns.densify_sparse."),
        ("plugin.datamanager.GenFusionDataManagerConfig", "plugin.data_config.GenFusionDataManagerConfig"),
    ):
        assert now in older
        older = older.replace(now, before)
    file.write_text(older)
    assert read_config(file) == yaml.load(older, Loader=yaml.Loader) == config


HOSTILE = {
    "a call": "!!python/object/apply:os.system ['touch {trace}']",
    "a call inside a setting": "!!python/object:genfusion_ns.plugin.trainer.GenFusionTrainerConfig\n"
    "max_num_iterations: !!python/object/apply:os.system ['touch {trace}']",
    "a new object": "!!python/object/new:subprocess.Popen [['touch', '{trace}']]",
    "a function of ours as the thing to build": "!!python/object:genfusion_ns.plugin.trainer.GenFusionTrainerConfig\n"
    "_target: !!python/name:nerfstudio.utils.scripts.run_command ''",
    "another package's class": "!!python/name:subprocess.Popen ''",
    "a module": "!!python/module:antigravity",
    "a path's method": "!!python/object/apply:pathlib.Path.touch ['{trace}']",
    "a class of torch that is no optimiser": "!!python/name:torch.optim.lr_scheduler.LambdaLR ''",
    "an object that is no configuration": "!!python/object:nerfstudio.cameras.cameras.CameraType {{}}",
    "no YAML": "a: [",
    "a list": "- 1",
    "not text": "\ufffd\x00",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_do_nothing_but_stop(tmp_path, what):
    trace = tmp_path / "trace"
    file = tmp_path / "config.yml"
    file.write_text(HOSTILE[what].format(trace=trace))
    with pytest.raises(UserError) as caught:
        read_config(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert not trace.exists()


def test_the_first_of_them_would_have_run_with_nerfstudios_loader(tmp_path):
    trace = tmp_path / "trace"
    yaml.load(HOSTILE["a call"].format(trace=trace), Loader=yaml.Loader)
    assert trace.exists()


def test_commands_load_runs_that_way(tmp_path):
    trace = tmp_path / "trace"
    (tmp_path / "nerfstudio_models").mkdir()
    (tmp_path / "nerfstudio_models/step-000000001.ckpt").write_bytes(b"")
    (tmp_path / "config.yml").write_text(HOSTILE["a call"].format(trace=trace))
    with pytest.raises(UserError, match="nothing in it was executed"):
        load_run(tmp_path / "config.yml")
    assert not trace.exists()
