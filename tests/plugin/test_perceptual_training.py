"""LPIPS in a training run: it teaches, leaves no trace in checkpoints, and its file is missed at the start."""

from __future__ import annotations

import pytest
import torch

from genfusion_ns.errors import UserError
from genfusion_ns.loop.perceptual import NETWORK_FILES


def config_with(make_config, scene, **loop_settings):
    made = make_config(scene, max_num_iterations=12)
    views, model = made.pipeline.datamanager, made.pipeline.model
    views.reference_iterations = model.reference_iterations = 12
    loop = views.loop
    loop.start, loop.every, loop.until, loop.frames, loop.clip_length, loop.max_side = 3, 3, 11, 4, 4, 24
    for name, value in loop_settings.items():
        setattr(loop, name, value)
    return made


def test_network_teaches_and_stays_out_of_checkpoints(shared, scene, make_config, train):
    file = shared / "weights" / NETWORK_FILES["alex"]
    plain = train(config_with(make_config, scene))
    taught = train(config_with(make_config, scene, perceptual_weight=0.5, perceptual_weights=file))
    assert taught.pipeline.perceptual is not None and plain.pipeline.perceptual is None
    assert taught.pipeline.state_dict().keys() == plain.pipeline.state_dict().keys()
    assert taught.optimizers.parameters.keys() == plain.optimizers.parameters.keys()
    ids = {id(p) for group in taught.optimizers.parameters.values() for p in group}
    assert not ids & {id(p) for p in taught.pipeline.perceptual.network.parameters()}
    assert not any(p.requires_grad for p in taught.pipeline.perceptual.network.parameters())
    means = [trainer.pipeline.model.means.detach() for trainer in (plain, taught)]
    assert means[0].shape != means[1].shape or not torch.equal(*means)


def test_missing_file_is_told_before_training_and_not_missed_elsewhere(scene, make_config, tmp_path):
    absent = {"perceptual_weight": 0.5, "perceptual_weights": tmp_path / "absent.pth"}
    config = config_with(make_config, scene, **absent).pipeline
    with pytest.raises(UserError, match="no file .*absent.pth"):
        config.setup(device="cpu", test_mode="val")
    assert config.setup(device="cpu", test_mode="test").perceptual is None
    without_loop = config_with(make_config, scene, every=0, **absent).pipeline
    assert without_loop.setup(device="cpu", test_mode="val").perceptual is None
