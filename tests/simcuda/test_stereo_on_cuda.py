"""Depth of photos on the make-believe device: estimators, the training of the network, a run that starts from depth."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from simulated_cuda import SimTensor
from simulated_runs import small, started, take_steps

from genfusion_ns.cameras import Camera, invert_rigid, look_at
from genfusion_ns.plugin.config import gpu_config
from genfusion_ns.stereo import estimator as estimators
from genfusion_ns.stereo.estimator import StereoEstimator
from genfusion_ns.stereo.network import StereoNetwork
from genfusion_ns.stereo.posed_photos import PosedPhoto
from genfusion_ns.stereo.pretrained import FittedEstimator, posed_disparities, transformers_network
from genfusion_ns.stereo.train.run import StereoTrainConfig, train


def camera_at(y: float, width: int, height: int) -> Camera:
    """A camera that looks at the origin from 3 units away."""
    c2w = look_at(torch.tensor([3.0, y, 0.4]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    K = torch.tensor([[float(width), 0, width / 2], [0, float(width), height / 2], [0, 0, 1]])
    return Camera(invert_rigid(c2w), K, width, height)


def photos() -> list[PosedPhoto]:
    """Four of noise, of several sizes, the first with tracks."""
    random = torch.Generator().manual_seed(0)
    sizes = ((-0.5, 50, 33), (0.0, 33, 48), (0.3, 48, 32), (0.6, 48, 32))
    found = [
        PosedPhoto(camera_at(y, w, h), torch.rand(h, w, 3, generator=random), torch.zeros(0, 2), torch.zeros(0), (1, 9))
        for y, w, h in sizes
    ]
    places = torch.rand(40, 2, generator=random) * torch.tensor([50, 33])
    return [replace(found[0], track_pixels=places, track_depths=2 + places[:, 0] / 50), *found[1:]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_file(StereoNetwork().state_dict(), path)
    return path


def on_device(network: torch.nn.Module) -> bool:
    return all(isinstance(p, SimTensor) for p in network.parameters())


def test_the_bundled_estimator_finds_on_a_gpu_what_it_finds_on_a_cpu(cuda, weights):
    given, there = photos(), StereoEstimator(weights, device="cuda")
    assert on_device(there.network)
    for a, b in zip(there.estimate(given), StereoEstimator(weights).estimate(given), strict=True):
        for x, y in zip(a.maps(), b.maps(), strict=True):
            assert type(x) is torch.Tensor  # kept on the host, where splats are made of it
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
    (alone,) = there.estimate(given[:1])  # without sources
    assert bool(alone.depth.isfinite().all())


def test_pretrained_estimators(cuda, weights, tmp_path):
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    stages = {"out_features": ["stage1", "stage2"], "reshape_hidden_states": False}
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    neck = {"neck_hidden_sizes": [8, 8], "reassemble_hidden_size": 16, "reassemble_factors": [1, 0.5]}
    head = {"fusion_hidden_size": 8, "head_hidden_size": 4, "patch_size": 14}
    config = DepthAnythingConfig(backbone_config=Dinov2Config(**size, **stages), **neck, **head)
    DepthAnythingForDepthEstimation(config).save_pretrained(tmp_path)
    DPTImageProcessor(size={"height": 28, "width": 28}, ensure_multiple_of=14).save_pretrained(tmp_path)
    given, base = photos(), StereoEstimator(weights, device="cuda")

    class Model:  # Depth Anything 3's interface, as far as it is used
        def inference(self, images, extrinsics, intrinsics):
            depth = [torch.full((8, 8), 2.0) + torch.rand(8, 8) for _ in images]
            return type("Prediction", (), {"depth": depth})

    mono = FittedEstimator("mono", transformers_network(str(tmp_path), "cuda"), base)
    for estimator in (mono, FittedEstimator("da3", partial(posed_disparities, Model()), base)):
        found = estimator.estimate(given)
        assert [depth.depth.shape[:2] for depth in found] == [photo.rgb.shape[:2] for photo in given]
        assert all(type(x) is torch.Tensor and bool(x.isfinite().all()) for depth in found for x in depth.maps())


def test_the_network_trains_validates_and_goes_on(cuda, tmp_path):
    random = torch.Generator().manual_seed(0)
    cameras = [camera_at(0.15 * i - 0.5, 96, 72) for i in range(6)]
    tensors = {
        "rgb": torch.randint(256, (6, 72, 96, 3), generator=random, dtype=torch.uint8),
        "depth": torch.full((6, 72, 96), 3.0).half(),
        "w2c": torch.stack([camera.w2c for camera in cameras]).double(),
        "K": torch.stack([camera.K for camera in cameras]).double(),
    }
    save_file(tensors, tmp_path / "scene_00000.safetensors")
    config = StereoTrainConfig(scenes=tmp_path, output=tmp_path / "run", steps=2, batch=1, small_steps=2, save_every=1)
    train(replace(config, stop_after=1))
    network = train(config)
    assert on_device(network)
    assert estimators.load_network(tmp_path / "run" / "stereo.safetensors") is not None


def test_a_run_starts_from_the_photos_depth(gpu, scene, tmp_path, weights, monkeypatch):
    monkeypatch.setattr(estimators, "BUNDLED", weights)
    made: list[StereoEstimator] = []
    init = StereoEstimator.__init__

    def noted(self, *args, **kwargs):
        init(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(StereoEstimator, "__init__", noted)
    config = small(gpu_config("genfusion"), scene, tmp_path, loop={"every": 0})
    config.pipeline.datamanager.initial_points = "depth"
    trainer = started(config)
    assert len(made) == 1 and on_device(made[0].network)
    take_steps(trainer, 0, 2)
    assert all(isinstance(p, SimTensor) and bool(p.isfinite().all()) for p in trainer.pipeline.model.parameters())
