"""Training: exact resume, bad steps and files, and that it learns; all with a network of a few thousand weights."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from tiny_networks import LITE, OFFICIAL, ONE_STEP, PATCHES, tiny_pipeline

from diffusion.configurations import CONFIGURATIONS
from diffusion.errors import UserError
from diffusion.evidence import no_evidence
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.train import checkpoint
from diffusion.train.batches import (
    RepairBatch,
    augment,
    forget_evidence,
    generator_of,
    joined,
    network_pair,
    window,
)
from diffusion.train.command import train_chooser, train_denoiser, train_vae
from diffusion.train.config import ChooserConfig, RepairConfig, Stage, VaeConfig, stage_at, total_steps
from diffusion.train.repair_task import RepairTask
from diffusion.train.shards import Pair, load_pair, write_shard
from diffusion.train.trainer import StepBatches, find_pairs, train
from diffusion.train.validate import repair_output

STAGE = Stage(6, frames=2, height=16, width=16)


def make_pair(seed: int) -> Pair:
    """A smooth picture whose left half was not rendered."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 3, 4, generator=generator)
    image = torch.nn.functional.interpolate(coarse, size=(24, 32), mode="bilinear")[0].permute(1, 2, 0)
    target = (image * 255).round().to(torch.uint8).expand(4, -1, -1, -1).contiguous()
    depth = (1 + image[..., :1]).half().expand(4, -1, -1, -1).contiguous()
    seen = torch.ones(4, 24, 32, 1)
    seen[:, :, :12] = 0
    shown, nothing = (255 * seen).to(torch.uint8), torch.zeros(4, 24, 32, 1, dtype=torch.uint8)
    return Pair(
        render_rgb=(target * seen).to(torch.uint8),
        render_depth=depth * seen.half(),
        render_alpha=shown,
        target_rgb=target,
        target_depth=depth,
        reference=target[:1].clone(),
        warped=torch.cat([target, nothing, shown, nothing, target, nothing], dim=-1),
        provenance={"scene": str(seed), "variant": "half"},
    )


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two shards; the tiny networks are known as "tiny" and "tiny-patches"."""
    monkeypatch.setitem(CONFIGURATIONS, "tiny", LITE)
    monkeypatch.setitem(CONFIGURATIONS, "tiny-patches", PATCHES)
    monkeypatch.setitem(CONFIGURATIONS, "tiny-one-step", ONE_STEP)
    folder = tmp_path / "pairs"
    folder.mkdir()
    for shard in range(2):
        write_shard(folder / f"{shard}.safetensors", [make_pair(2 * shard + i) for i in range(2)])
    return folder


def repair_config(pairs: Path, output: Path, **changes: object) -> RepairConfig:
    return replace(
        RepairConfig(pairs=pairs, output=output, start="tiny", stages=(STAGE,), warmup=2, save_every=1), **changes
    )


def run(config: RepairConfig, stop_after: int | None = None) -> checkpoint.TrainState:
    task = RepairTask.fresh(config)
    batches = StepBatches(find_pairs(config.pairs), config.stages, (16, 16), True, config.seed)
    return train(task, config, batches, stop_after=stop_after)


def test_a_resumed_run_ends_with_the_same_bits(pairs: Path, tmp_path: Path) -> None:
    whole = run(repair_config(pairs, tmp_path / "whole"))
    parts = repair_config(pairs, tmp_path / "parts")
    run(parts, stop_after=2)
    run(parts, stop_after=5)
    # the newest checkpoint is torn, as by a full disk: the run goes back to the one before
    newest = checkpoint.checkpoints(parts.output / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = run(parts)
    assert resumed.step == whole.step == 6
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
        assert torch.equal(whole.average[name], resumed.average[name]), name


def test_the_batch_of_a_step_follows_from_the_seed_and_the_step(pairs: Path) -> None:
    first = StepBatches(find_pairs(pairs), (STAGE,), (16, 16), True, seed=3)
    again = StepBatches(find_pairs(pairs), (STAGE,), (16, 16), True, seed=3)
    other = StepBatches(find_pairs(pairs), (STAGE,), (16, 16), True, seed=4)
    assert torch.equal(first[4].rendered, again[4].rendered)
    assert not torch.equal(first[4].rendered, first[5].rendered)
    assert not torch.equal(first[4].rendered, other[4].rendered)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = repair_config(pairs, tmp_path / "run")
    run(config, stop_after=3)
    before = run(config, stop_after=3)
    loss = RepairTask.loss

    def poisoned(self, model, batch, generator):
        value, logs = loss(self, model, batch, generator)
        return value * float("nan"), logs

    monkeypatch.setattr(RepairTask, "loss", poisoned)
    with caplog.at_level(logging.WARNING):
        after = run(config, stop_after=4)
    assert (after.step, after.skipped) == (4, 1)
    assert "step 3 was skipped" in caplog.text
    for name, value in before.model.state_dict().items():
        assert torch.equal(value, after.model.state_dict()[name]), name


def test_a_broken_shard_is_named_and_passed_over(pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    refs = find_pairs(pairs)
    broken = pairs / "0.safetensors"
    content = bytearray(broken.read_bytes())
    content[-2000:-1000] = bytes(1000)
    broken.write_bytes(content)
    batches = StepBatches(refs, (STAGE,), (16, 16), False, 0)
    with caplog.at_level(logging.WARNING):
        for step in range(len(batches)):
            assert batches[step].rendered.isfinite().all()
    assert "0.safetensors" in caplog.text


def test_a_full_disk_loses_no_checkpoint(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = repair_config(pairs, tmp_path / "run")
    run(config, stop_after=2)
    folder = config.output / "checkpoints"
    before = {path.name: path.read_bytes() for path in checkpoint.checkpoints(folder)}

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        run(config, stop_after=3)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_denoiser_learns_what_is_behind_a_hole(pairs: Path, tmp_path: Path) -> None:
    stages = (Stage(40, frames=2, height=24, width=32),)
    shared = {"pairs": pairs, "learning_rate": 3e-3, "warmup": 5, "save_every": 100}
    vae = train_vae(VaeConfig(output=tmp_path / "vae", configuration="tiny-patches", stages=stages, **shared))
    config = RepairConfig(
        output=tmp_path / "run", start="tiny-patches", vae=vae, stages=stages, augment=False, ema=0.9, **shared
    )
    repaired = RGBDVideoRepairPipeline.from_pretrained(train_denoiser(config), torch_dtype=torch.float32)
    start = RepairTask.fresh(replace(config, output=tmp_path / "fresh")).pipeline
    gains = []
    for ref in find_pairs(pairs):
        pair = load_pair(ref)
        target = pair.target_rgb.float() / 255
        errors = [float((repair_output(pipe, pair, steps=1)[0] - target).square().mean()) for pipe in (start, repaired)]
        gains.append(10 * math.log10(errors[0] / errors[1]))
    assert sum(gains) / len(gains) > 0.5, gains


def test_the_convolutional_autoencoder_learns(pairs: Path, tmp_path: Path) -> None:
    config = VaeConfig(
        pairs=pairs, configuration="tiny", learning_rate=3e-3, warmup=2, save_every=100, output=tmp_path / "a"
    )
    errors = []
    for steps in (1, 40):
        config = replace(config, output=tmp_path / str(steps), stages=(Stage(steps, 1, 16, 16, batch=2),))
        vae = AutoencoderKL.from_pretrained(train_vae(config))
        frames = torch.cat([network_pair(load_pair(ref), (16, 16)).target[:, :, 0] for ref in find_pairs(pairs)])
        with torch.no_grad():
            mean = vae.encode(frames).latent_dist.mean
            errors.append(float((vae.decode(mean).sample - frames).abs().mean()))
        assert float(mean.std()) * vae.config["scaling_factor"] == pytest.approx(1.0, abs=0.5)
    assert errors[1] < 0.9 * errors[0], errors


def test_an_untrained_residual_network_only_fills_holes(pairs: Path, tmp_path: Path) -> None:
    pipeline = RepairTask.fresh(repair_config(pairs, tmp_path)).pipeline
    pair = load_pair(find_pairs(pairs)[0])
    repaired, _ = repair_output(pipeline, pair, steps=1)
    seen = (pair.render_alpha == 255)[..., 0]
    # noise of the start enters by way of the last step only: a velocity of 0 says "no change"
    assert torch.allclose(repaired[seen], pair.render_rgb[seen].float() / 255, atol=1e-5)
    assert float(repaired[~seen].mean()) > 0.1


@pytest.mark.parametrize("configuration", [LITE, OFFICIAL], ids=["lite", "official"])
def test_any_saved_pipeline_can_be_tuned(pairs: Path, tmp_path: Path, configuration) -> None:
    tiny_pipeline(configuration).save_pretrained(tmp_path / "start")
    config = repair_config(pairs, tmp_path / "run", start=str(tmp_path / "start"), stages=(replace(STAGE, steps=2),))
    config = replace(config, train_decoder=False)
    before = RGBDVideoRepairPipeline.from_pretrained(tmp_path / "start").unet.state_dict()
    after = RGBDVideoRepairPipeline.from_pretrained(train_denoiser(config), torch_dtype=torch.float32)
    changed = [name for name, value in after.unet.state_dict().items() if not torch.allclose(value, before[name])]
    assert changed
    assert not any(str(tmp_path) in path.read_text() for path in (config.output / "pipeline").rglob("*.json"))
    frozen = RGBDVideoRepairPipeline.from_pretrained(tmp_path / "start").vae.state_dict()
    assert all(torch.allclose(v, frozen[n], atol=1e-2, rtol=1e-3) for n, v in after.vae.state_dict().items())


def test_a_pair_in_network_space_keeps_both_disparities_in_one_range() -> None:
    pair = make_pair(0)
    batch = network_pair(pair, (16, 16))
    known = batch.opacity > 0.5
    assert torch.allclose(batch.rendered[:, 3:][known], batch.target[:, 3:][known], atol=1e-3)
    assert (batch.rendered[:, :, :, :, :12] == -1).all()
    unknown = network_pair(replace(pair, target_depth=torch.zeros_like(pair.target_depth)), (16, 16))
    assert unknown.depth_known.sum() == 0
    assert torch.equal(unknown.target[:, 3:], unknown.rendered[:, 3:])


def test_augmentation_treats_all_maps_alike() -> None:
    pair = make_pair(1)
    for seed in range(8):
        changed = augment(pair, generator_of(seed))
        hole = changed.render_alpha == 0
        assert (changed.render_rgb[hole[..., 0]] == 0).all() and (changed.render_depth[hole] == 0).all()
        seen = ~hole[..., 0]
        assert torch.equal(changed.render_rgb[seen], changed.target_rgb[seen])
        assert torch.equal(changed.warped[..., :3], changed.target_rgb)
        assert torch.equal(changed.warped[..., 4:5], changed.render_alpha)
        assert torch.equal(changed.warped[..., 6:9], changed.target_rgb)


def test_evidence_is_forgotten_by_the_clip() -> None:
    batch = joined([network_pair(make_pair(seed), (16, 16)) for seed in range(40)])
    assert forget_evidence(batch, 0.0, generator_of(0)).evidence.equal(batch.evidence)
    found = forget_evidence(batch, 0.5, generator_of(0)).evidence
    nothing = no_evidence(batch.rendered)
    forgotten = [bool(torch.equal(found[i], nothing[i])) for i in range(40)]
    kept = [bool(torch.equal(found[i], batch.evidence[i])) for i in range(40)]
    assert 8 < sum(forgotten) < 32 and sum(forgotten) + sum(kept) == 40


def test_the_chooser_learns_to_believe_what_photos_show(pairs: Path, tmp_path: Path) -> None:
    """The left half was not rendered, and some other photo shows it."""
    folder = tmp_path / "shown"
    folder.mkdir()
    for seed in range(2):
        pair = make_pair(seed)
        yes = torch.full_like(pair.render_alpha, 255)  # seen and near, but not sure: such frames teach
        warped = torch.cat([pair.target_rgb, 0 * yes, yes, yes, pair.target_rgb, yes], dim=-1)
        write_shard(folder / f"{seed}.safetensors", [replace(pair, warped=warped)])
    stages = (Stage(60, frames=2, height=24, width=32),)
    config = ChooserConfig(pairs=folder, output=tmp_path / "run", start="tiny-one-step", stages=stages)
    config = replace(config, learning_rate=1e-2, warmup=2, ema=0.9, save_every=100, augment=False)
    repaired = RGBDVideoRepairPipeline.from_pretrained(train_chooser(config), torch_dtype=torch.float32)
    pair = load_pair(find_pairs(folder)[0])
    target, blank = pair.target_rgb.float() / 255, torch.zeros_like(pair.warped)
    blank[..., :3], blank[..., 4], blank[..., 6:9] = pair.render_rgb, 255, pair.render_rgb
    told, untold = (
        float((repair_output(repaired, replace(pair, warped=warped), steps=1)[0] - target).square().mean())
        for warped in (pair.warped, blank)
    )
    assert told < 0.2 * untold, (told, untold)
    with pytest.raises(UserError, match="tiny has no chooser"):
        train_chooser(replace(config, start="tiny"))


def test_windows_are_of_the_size_asked_for_and_say_when_they_cannot_be() -> None:
    cut = window(make_pair(0), 2, 16, 8, generator_of(0))
    assert cut.render_rgb.shape == (2, 16, 8, 3) and cut.target_depth.shape == (2, 16, 8, 1)
    with pytest.raises(UserError, match="smaller stages"):
        window(make_pair(0), 2, 48, 8, generator_of(0))


def test_stages_follow_each_other() -> None:
    stages = (Stage(2, height=32), Stage(3, height=64))
    assert [stage_at(stages, step).height for step in range(6)] == [32, 32, 64, 64, 64, 64]
    assert total_steps(stages) == 5


def test_mistakes_are_told(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pairs"):
        train_vae(VaeConfig(pairs=tmp_path / "nowhere", configuration="tiny", output=tmp_path / "o"))
    with pytest.raises(UserError, match="multiples of 8"):
        train_denoiser(repair_config(pairs, tmp_path / "o", stages=(Stage(1, 2, 20, 16),)))
    with pytest.raises(UserError, match="no autoencoder"):
        train_denoiser(repair_config(pairs, tmp_path / "o", vae=tmp_path / "nothing"))


def test_batches_can_be_joined_and_moved(pairs: Path) -> None:
    batch = StepBatches(find_pairs(pairs), (replace(STAGE, batch=3),), (16, 16), True, 0)[0]
    assert isinstance(batch.to(torch.device("cpu")), RepairBatch)
    assert batch.rendered.shape == (3, 4, 2, 16, 16) and batch.photos.shape == (3, 3, 16, 16)
