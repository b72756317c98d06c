"""model_index.json names classes by one public path; folders that name modules of before still load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_networks import BOTH, OFFICIAL, tiny_pipeline

from diffusion import components
from diffusion.loading import BUNDLED
from diffusion.pipeline import RGBDVideoRepairPipeline


def classes(folder: Path) -> dict[str, list[str]]:
    index = json.loads((folder / "model_index.json").read_text())
    return {name: entry for name, entry in index.items() if isinstance(entry, list) and isinstance(entry[0], str)}


@pytest.mark.slow
@pytest.mark.parametrize("configuration", [BOTH, OFFICIAL], ids=lambda c: c.name)
def test_saved_folders_name_the_public_path(configuration, tmp_path):
    pipe = tiny_pipeline(configuration)
    pipe.save_pretrained(tmp_path)
    found = classes(tmp_path)
    assert {entry[0] for entry in found.values()} <= {components.PATH, "diffusers", "transformers"}
    assert found["unet"] == ["diffusion.components", configuration.unet_class]
    again = RGBDVideoRepairPipeline.from_pretrained(tmp_path)
    for name, value in pipe.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[name], value)


def test_folders_with_modules_that_are_gone_still_load(tmp_path):
    tiny_pipeline(BOTH).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    for name, entry in classes(tmp_path).items():
        index[name] = ["diffusion.models.of_before", entry[1]]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert RGBDVideoRepairPipeline.from_pretrained(tmp_path).fusion is not None


def test_the_bundled_folders_name_the_public_path():
    for index in BUNDLED.glob("*/model_index.json"):
        ours = [entry for entry in classes(index.parent).values() if entry[0].startswith("diffusion.")]
        assert ours and {entry[0] for entry in ours} == {components.PATH}


def test_other_entries_are_left_alone():
    index = {"_class_name": "X", "vae": ["diffusers", "AutoencoderKL"], "size": [192, 320], "none": [None, None]}
    assert components.public_paths(index) == index
