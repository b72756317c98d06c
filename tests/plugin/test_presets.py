"""The paper's recipes: their values, their length, their names on the command line, and that they can be overridden."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tyro

from genfusion_ns import schedule
from genfusion_ns.plugin import config as plugin_config
from genfusion_ns.plugin.presets import PRESETS

# From the published scripts: steps, first round, interval, last step of generated views, lambda, SSIM's share,
# densification from, until, every, opacity reset.
PUBLISHED = {
    "sparse": (7000, 1000, 1000, 7000, 1.0, 0.5, 100, 5000, 500, 3100),
    "masked": (7000, 3000, 1000, 7000, 0.5, 0.8, 1000, 15000, 100, 9000),
    "completion": (26000, 5000, 4000, 26000, 1.0, 0.2, 500, 12000, 100, 15000),
}
ROUNDS = {
    "sparse": [1000, 2000, 3000, 4000, 5000, 6000],
    "masked": [3000, 4000, 5000, 6000],
    "completion": [5000, 9000, 13000, 17000, 21000, 25000],
}


def made(preset: str, base=plugin_config.gpu_config):
    return PRESETS[preset](base(f"genfusion-{preset}"))


@pytest.mark.parametrize("preset", PUBLISHED)
def test_values_of_the_paper(preset):
    config = made(preset)
    steps, start, every, until, weight, ssim, first, last, interval, reset = PUBLISHED[preset]
    loop, model = config.pipeline.datamanager.loop, config.pipeline.model
    assert config.max_num_iterations == steps
    assert config.pipeline.datamanager.reference_iterations == model.reference_iterations == steps
    assert (loop.start, loop.every, loop.until, loop.weight) == (start, every, until, weight)
    assert model.ssim_lambda == ssim
    assert loop.depth_weight == 1.0 and loop.clip_length == 16 and loop.max_side == 960
    densifier = model.densifier
    assert (densifier.start, densifier.stop, densifier.every, densifier.reset_every) == (first, last, interval, reset)
    assert (densifier.visible_base, densifier.visible_every, densifier.visible_cap) == (50, 100, 100)
    assert schedule.round_steps(loop.start, loop.every, loop.until, steps) == ROUNDS[preset]
    loop.check()


def test_what_sets_the_three_apart():
    sparse, masked, completion = (made(preset).pipeline for preset in PUBLISHED)
    assert masked.datamanager.mask == "moving"
    assert sparse.datamanager.mask == completion.datamanager.mask == "none"
    assert masked.datamanager.loop.trajectories == ("captured",)
    assert sparse.datamanager.loop.trajectories == ("interpolate", "orbit")
    assert completion.datamanager.loop.diffusion.guidance == 2.2
    assert sparse.datamanager.loop.diffusion.guidance is None  # what the weights advise: 3.2
    assert completion.datamanager.loop.expand > 0
    assert sparse.model.distortion_lambda > 0 and sparse.model.distortion_start == 5000
    assert masked.model.distortion_lambda == completion.model.distortion_lambda == 0
    # the official sparse run ends before its normal term would begin, the two others have none
    assert {p.model.normal_lambda for p in (sparse, masked, completion)} == {0.0}
    assert {p.model.opacity_lambda for p in (sparse, masked, completion)} == {0.0}


def test_lambda_of_the_masked_preset():
    loop = made("masked").pipeline.datamanager.loop
    published = {3500: 0.19, 4000: 0.35, 5000: 0.5, 6000: 0.35, 6500: 0.19, 7000: 0.0}
    assert {k: loop.generated_weight(k) for k in published} == pytest.approx(published, abs=0.005)


def test_ours_differs_completion_ends_with_lambda_at_zero():
    """The official one is cut off at 0.48."""
    loop = made("completion").pipeline.datamanager.loop
    assert loop.generated_weight(15_500) == pytest.approx(1.0)
    assert loop.generated_weight(25_999) < 1e-3 and loop.generated_weight(26_000) == 0


@pytest.mark.parametrize("preset", PUBLISHED)
def test_the_small_machine_gets_the_same_recipe_in_fewer_steps(preset):
    full, small = made(preset), made(preset, plugin_config.cpu_config)
    share = small.max_num_iterations / full.max_num_iterations
    assert share == pytest.approx(2000 / 7000, rel=1e-3)
    loop, scaled = (
        full.pipeline.datamanager.loop,
        small.pipeline.datamanager.loop.scaled_to(
            small.max_num_iterations, small.pipeline.datamanager.reference_iterations
        ),
    )
    assert scaled.start == pytest.approx(loop.start * share, abs=1)
    assert scaled.until == pytest.approx(loop.until * share, abs=1)
    assert small.pipeline.datamanager.max_image_side == 320 and scaled.max_side == 320
    rounds = schedule.round_steps(scaled.start, scaled.every, scaled.until, small.max_num_iterations)
    assert len(rounds) == len(ROUNDS[preset])


def test_presets_share_nothing_that_one_could_change_for_the_other():
    sparse, again = made("sparse"), made("sparse")
    sparse.pipeline.datamanager.loop.start = 1
    sparse.pipeline.model.densifier.start = 1
    assert again.pipeline.datamanager.loop.start == 1000 and again.pipeline.model.densifier.start == 100
    assert plugin_config.genfusion.config.pipeline.datamanager.mask == "none"


def test_every_preset_is_a_method_of_ns_train():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    entries = dict(re.findall(r'^(genfusion[\w-]*) = "genfusion_ns\.plugin\.config:(\w+)"$', text, re.MULTILINE))
    assert {f"genfusion-{preset}" for preset in PRESETS} < set(entries)
    for name, attribute in entries.items():
        assert getattr(plugin_config, attribute).config.method_name == name


def test_values_can_be_overridden_on_the_command_line():
    config = tyro.cli(
        type(plugin_config.genfusion_masked.config),
        default=plugin_config.genfusion_masked.config,
        args=["--pipeline.datamanager.loop.weight", "0.25", "--max-num-iterations", "700"],
    )
    assert config.pipeline.datamanager.loop.weight == 0.25
    assert config.pipeline.model.ssim_lambda == 0.8
    scaled = config.pipeline.datamanager.loop.scaled_to(700, config.pipeline.datamanager.reference_iterations)
    assert (scaled.start, scaled.every, scaled.until) == (300, 100, 700)
