"""Finding and checking weights: every failure is one line that names the file and the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors as hub_errors
from safetensors.torch import load_file, save_file
from tiny_networks import LITE, OFFICIAL, clip, repaired, tiny_pipeline

from diffusion import loading
from diffusion.errors import UserError
from diffusion.pipeline import RGBDVideoRepairPipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_pipeline(OFFICIAL).save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def refusal(name: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        RGBDVideoRepairPipeline.from_pretrained(name)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_missing_weight_file_is_named_with_its_size(folder):
    file = folder / "unet" / WEIGHTS
    size = sum(t.numel() for t in load_file(file).values()) * 2 / 2**20
    file.unlink()
    text = refusal(folder)
    assert str(file) in text and f"{size:.1f} MiB in float16" in text and "genfusion-convert" in text


def test_a_missing_tower_file_is_named(folder):
    (folder / "image_encoder" / "model.safetensors").unlink()
    assert str(folder / "image_encoder" / "model.safetensors") in refusal(folder)


def test_a_truncated_file_is_named(folder):
    file = folder / "vae" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    text = refusal(folder)
    assert str(file) in text and "truncated" in text and f"{file.stat().st_size:,} bytes" in text


def test_a_file_of_something_else_is_named(folder):
    (folder / "vae" / WEIGHTS).write_bytes(b"PK\x03\x04 no tensors here")
    assert "no safetensors file" in refusal(folder)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["drop", "add", "reshape"])
def test_foreign_tensors_are_refused_instead_of_loaded_at_random(folder, change):
    file = folder / "resampler" / WEIGHTS
    tensors = load_file(file)
    if change == "drop":
        del tensors["latents"]
    elif change == "add":
        tensors["other"] = torch.zeros(3)
    else:
        tensors["latents"] = tensors["latents"][:, :2].clone()
    save_file(tensors, file)
    text = refusal(folder)
    assert "resampler" in text and "do not fit its config.json" in text
    assert ("e.g. other" if change == "add" else "e.g. latents") in text


def test_a_folder_that_is_no_pipeline(tmp_path, folder):
    assert "model_index.json is missing" in refusal(tmp_path)
    index = folder / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    assert "holds a StableDiffusionPipeline; expected a RGBDVideoRepairPipeline" in refusal(folder)
    index.write_text("{")
    assert "no readable JSON" in refusal(folder)
    index.write_text("[1]")
    assert "holds a list; expected a JSON object" in refusal(folder)


def test_a_configuration_that_makes_no_network(folder):
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "norm_num_groups": 7}))
    assert str(file) in refusal(folder)


def test_a_missing_component_folder(folder):
    (folder / "vae" / "config.json").unlink()
    assert str(folder / "vae" / "config.json") in refusal(folder)


def test_a_checkpoint_file_is_sent_to_the_converter(tmp_path):
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"x")
    assert "genfusion-convert" in refusal(file)


def test_the_official_weights_are_not_bundled_and_the_text_says_how_to_get_them():
    text = refusal("official")
    assert "genfusion-convert" in text and "10.4 GB" in text


def test_an_unknown_name_is_answered_with_what_there_is():
    text = refusal("no-such-weights")
    assert "'no-such-weights'" in text and "hub id" in text


@pytest.mark.slow
def test_bundled_weights_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BUNDLED", tmp_path)
    pipe = tiny_pipeline(LITE)
    pipe.save_pretrained(tmp_path / "mine")
    assert loading.bundled_names() == ["mine"]
    loaded = RGBDVideoRepairPipeline.from_pretrained("mine")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(repaired(loaded, **clip()).rgb, repaired(pipe, **clip()).rgb)


def test_offline_a_hub_id_ends_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError) as caught:
        RGBDVideoRepairPipeline.from_pretrained("someone/weights", local_files_only=True, cache_dir=tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    for part in ("'someone/weights'", "another machine"):
        assert part in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [hub_errors.LocalEntryNotFoundError("no net\nstack"), OSError("no route to host"), ValueError("bad id")]
)
def test_whatever_the_hub_raises_is_one_line(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(loading, "snapshot_download", fail)
    text = refusal("someone/weights")
    assert str(error).splitlines()[0] in text and "stack" not in text


def test_a_hub_id_is_loaded_from_its_snapshot(monkeypatch, folder):
    asked = {}

    def download(name, **kwargs):
        asked.update(name=name, **kwargs)
        return str(folder)

    monkeypatch.setattr(loading, "snapshot_download", download)
    RGBDVideoRepairPipeline.from_pretrained("someone/weights", revision="abc")
    assert asked["name"] == "someone/weights" and asked["revision"] == "abc"
    assert not any("bin" in pattern or "ckpt" in pattern for pattern in asked["allow_patterns"])


def test_components_given_by_the_caller_are_not_looked_for(folder):
    (folder / "vae" / WEIGHTS).unlink()
    vae = tiny_pipeline(OFFICIAL).vae
    assert RGBDVideoRepairPipeline.from_pretrained(folder, vae=vae).vae is vae
