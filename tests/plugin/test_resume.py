"""--load-dir and --load-checkpoint: what is found, and one message for everything that can't be loaded."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from genfusion_ns.errors import UserError
from genfusion_ns.plugin.resume import check_finite, checkpoints, find_checkpoint, read_checkpoint
from genfusion_ns.plugin.runs import load_run


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory) -> Path:
    """The folder of a run of 3 steps with a checkpoint of each."""
    from genfusion_ns.plugin.config import cpu_config

    config = cpu_config("genfusion-cpu")
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir = tmp_path_factory.mktemp("outputs")
    config.vis, config.logging.local_writer.enable = "tensorboard", False
    config.max_num_iterations, config.steps_per_save, config.save_only_latest_checkpoint = 3, 1, False
    config.steps_per_eval_image = 0
    config.pipeline.datamanager.max_seed_points = 50
    config.pipeline.datamanager.initial_points = "all"
    config.pipeline.datamanager.loop.every = 0
    config.set_timestamp()
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return trainer.base_dir


@pytest.fixture
def models(run, tmp_path) -> Path:
    """A copy of its checkpoints of steps 1 and 2, free to be broken."""
    folder = Path(shutil.copytree(run / "nerfstudio_models", tmp_path / "copy" / "nerfstudio_models"))
    (folder / "step-000000000.ckpt").unlink(missing_ok=True)
    return folder


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def newest(folder: Path) -> Path:
    return folder / "step-000000002.ckpt"


def load(scene, make_config, **settings):
    config = make_config(scene, max_num_iterations=4, **settings)
    config.pipeline.datamanager.max_seed_points = 50
    config.pipeline.datamanager.loop.every = 0
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def test_the_newest_checkpoint_of_a_folder_or_of_a_run_is_found(run, models):
    assert list(checkpoints(models)) == [1, 2]
    (models / "notes.txt").write_text("other files are passed over")
    (models / "step-9.ckpt.part").write_text("so are unfinished ones")
    assert find_checkpoint(models) == newest(models)
    assert find_checkpoint(models, 1).name == "step-000000001.ckpt"
    assert find_checkpoint(run).parent == run / "nerfstudio_models"


def test_folders_without_checkpoints(models, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, words in {
        tmp_path / "empty": "holds no checkpoint; expected step-",
        tmp_path / "absent": "does not exist; expected step-",
        newest(models): "a file; expected a folder. For one file take --load-checkpoint",
    }.items():
        with pytest.raises(UserError, match=words):
            find_checkpoint(folder)
    with pytest.raises(UserError, match="no checkpoint of step 7; it has those of 1, 2"):
        find_checkpoint(models, 7)


def spoil_by(what: str, path: Path, trace: Path) -> None:
    data = path.read_bytes()
    if what == "cut off":
        path.write_bytes(data[: len(data) // 2])
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "text":
        path.write_text("hello")
    elif what == "malicious":
        state = torch.load(path, weights_only=True)
        torch.save({**state, "step": Evil(trace)}, path)
    elif what == "malicious pickle":
        path.write_bytes(pickle.dumps(Evil(trace)))
    elif what == "a tensor":
        torch.save(torch.zeros(3), path)
    elif what == "weights alone":
        torch.save({"state_dict": {}}, path)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("cut off", "is cut off or damaged"),
        ("empty", "is cut off or damaged"),
        ("text", "is cut off or damaged"),
        ("malicious", "objects besides numbers and tensors, which are not run"),
        ("malicious pickle", "objects besides numbers and tensors, which are not run"),
        ("a tensor", "it lacks step, pipeline, optimizers, scalers"),
        ("weights alone", "it lacks step, pipeline"),
    ],
)
def test_files_that_cannot_be_read_name_an_older_one(models, tmp_path, what, words):
    trace = tmp_path / "trace"
    spoil_by(what, newest(models), trace)
    with pytest.raises(UserError) as caught:
        read_checkpoint(newest(models))
    said = str(caught.value)
    assert words in said and said.startswith(str(newest(models))) and "\n" not in said
    assert f"--load-dir {models} --load-step 1." in said
    assert not trace.exists()
    (models / "step-000000001.ckpt").unlink()
    with pytest.raises(UserError, match="There is no older checkpoint"):
        read_checkpoint(newest(models))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda state: {name: value * torch.nan for name, value in state.items() if "gauss" in name},
            "50 splats are NaN",
        ),
        (lambda state: {name: value[..., :2] for name, value in state.items() if "scales" in name}, "does not fit"),
        (lambda state: {"foreign": torch.zeros(1)}, "not of this method and version"),
    ],
)
def test_checkpoints_of_other_networks_and_of_nan(scene, make_config, models, change, words):
    state = torch.load(newest(models), weights_only=True)
    state["pipeline"].update(change(state["pipeline"]))
    torch.save(state, newest(models))
    with pytest.raises(UserError) as caught:
        load(scene, make_config, load_dir=models)
    assert words in str(caught.value) and f"--load-dir {models} --load-step 1." in str(caught.value)


def test_commands_load_the_newest_checkpoint_of_a_run(run):
    found = load_run(run / "config.yml")
    assert len(found.training_cameras) == 10 and not found.pipeline.training
    truth = torch.load(run / "nerfstudio_models/step-000000002.ckpt", weights_only=True)["pipeline"]
    assert torch.equal(found.pipeline.model.gauss_params["means"], truth["_model.gauss_params.means"])


def test_a_few_broken_splats_are_the_densifiers_to_remove():
    values = torch.zeros(200, 3)
    values[0] = torch.nan
    check_finite({"means": values})
    values[:3] = torch.inf
    with pytest.raises(UserError, match="3 of its 200 splats"):
        check_finite({"means": values})


def test_a_run_folder_is_as_good_as_its_checkpoints(scene, make_config, run):
    assert load(scene, make_config, load_dir=run)._start_step == 3
    assert load(scene, make_config, load_checkpoint=run / "nerfstudio_models/step-000000001.ckpt")._start_step == 2


def test_a_start_that_fails_leaves_no_folder(scene, make_config, tmp_path):
    """ns-train writes config.yml before it looks at anything."""
    with pytest.raises(UserError, match="does not exist"):
        load(scene, make_config, load_dir=tmp_path / "absent")
    assert not (tmp_path / "outputs").exists()
    (tmp_path / "outputs" / "other").mkdir(parents=True)
    with pytest.raises(UserError, match="is no file"):
        load(scene, make_config, load_checkpoint=tmp_path / "absent")
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["other"]


def test_weights_that_are_missing_stop_a_run_before_photos_are_read(scene, make_config, monkeypatch):
    config = make_config(scene, max_num_iterations=2000)
    config.pipeline.datamanager.loop.diffusion.weights = "nonsense"
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    monkeypatch.setattr(type(config.pipeline), "setup", lambda *args, **kwargs: pytest.fail("photos were read"))
    with pytest.raises(UserError, match="there are no weights 'nonsense'"):
        trainer.setup()
    assert not config.output_dir.exists()


def test_a_full_disk_in_a_round_is_told(scene, make_config, monkeypatch):
    config = make_config(scene, max_num_iterations=4)
    views = config.pipeline.datamanager
    views.max_seed_points, views.reference_iterations = 50, 4
    views.loop.repairer, views.loop.start, views.loop.every, views.loop.until = "classical", 1, 2, 4
    views.loop.frames = views.loop.clip_length = 2
    views.loop.max_side = 24
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"failed \(No space left on device\). Make room, and go on from the last"):
        trainer.train()
    assert not [path for path in trainer.base_dir.rglob("*") if path.suffix in (".tmp", ".safetensors")]


def test_a_full_disk_at_a_checkpoint_is_told_and_leaves_nothing_behind(scene, make_config, monkeypatch):
    trainer = load(scene, make_config)
    trainer.save_checkpoint(0)
    saved = torch.save

    def full(state, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"step 1 could not be written.*step-000000000.ckpt stays. Make room"):
        trainer.save_checkpoint(1)
    monkeypatch.setattr(torch, "save", saved)
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000000.ckpt"]
    assert not [path for path in trainer.base_dir.iterdir() if path.name.startswith(".step-")]
