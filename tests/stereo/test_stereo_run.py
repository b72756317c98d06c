"""The training loop: it learns, resumes to the bit, and skips what is not finite."""

import json

import pytest
import torch
from test_stereo_batches import scene  # noqa: F401 (a fixture)

from genfusion_ns.errors import UserError
from genfusion_ns.stereo.estimator import load_network
from genfusion_ns.stereo.network import StereoNetwork
from genfusion_ns.stereo.train import run
from genfusion_ns.stereo.train.batches import SMALL_SIZES, make_batch
from genfusion_ns.stereo.train.depth_loss import relative_error, stereo_loss
from genfusion_ns.stereo.train.run import StereoTrainConfig, train


def config(scene, output, **changes):  # noqa: F811
    settings = {"scenes": scene.parent, "output": output, "steps": 6, "batch": 1, "save_every": 3, "small_steps": 6}
    return StereoTrainConfig(**{**settings, **changes})


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(scene, tmp_path):  # noqa: F811
    whole = train(config(scene, tmp_path / "a"))
    train(config(scene, tmp_path / "b", stop_after=3))
    resumed = train(config(scene, tmp_path / "b"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert (tmp_path / "b" / "stereo.safetensors").is_file()
    load_network(tmp_path / "b" / "stereo.safetensors")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["steps"] == 6


@pytest.mark.slow
def test_a_run_may_begin_with_weights_of_another(scene, tmp_path):  # noqa: F811
    train(config(scene, tmp_path / "first", steps=1))
    start = tmp_path / "first" / "stereo.safetensors"
    network = train(config(scene, tmp_path / "next", start=start, stop_after=0))
    for name, value in load_network(start).state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


@pytest.mark.slow
def test_steps_lower_the_loss_on_their_own_batch(scene):  # noqa: F811
    torch.manual_seed(0)
    network, batch = StereoNetwork(), make_batch([scene], 0, 0, 2, SMALL_SIZES[:1])
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        loss, logs = stereo_loss(network(*batch[:5]), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert 0 <= logs["within5"] <= logs["within10"] <= 1


@pytest.mark.slow
def test_a_loss_that_is_not_finite_changes_nothing(scene, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(run, "stereo_loss", lambda output, batch: (output.fine.sum() * torch.nan, {}))
    trained = train(config(scene, tmp_path, steps=2))
    torch.manual_seed(0)
    fresh = StereoNetwork()
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in trained.state_dict().items())


def test_the_perfect_depth_has_the_smallest_loss(scene):  # noqa: F811
    torch.manual_seed(0)
    batch = make_batch([scene], 0, 1, 1, SMALL_SIZES[:1])
    with torch.no_grad():
        output = StereoNetwork()(*batch[:5])
    half = batch.inverse_depth[..., 1::2, 1::2]
    perfect = output._replace(inverse_depth=batch.inverse_depth, fine=half)
    off = output._replace(inverse_depth=1.1 * batch.inverse_depth, fine=1.1 * half)
    assert float(stereo_loss(perfect, batch)[0]) < float(stereo_loss(off, batch)[0])
    assert stereo_loss(perfect, batch)[1]["within5"] == 1.0
    error = relative_error(torch.tensor(0.0), torch.zeros(1, 1, 1, 1), torch.tensor([1.0]), 65)
    assert (
        float(error) == 0
        and float(relative_error(torch.tensor(1 / 64), torch.zeros(1, 1, 1, 1), torch.tensor([1.0]), 65)) == 1
    )


def test_no_scenes_is_said(tmp_path):
    with pytest.raises(UserError, match="holds no scenes"):
        train(StereoTrainConfig(scenes=tmp_path, output=tmp_path / "run"))
