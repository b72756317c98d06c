"""LPIPS on generated views: the network's values, its gradient, what its absence costs and says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from loop_scene import ball

from genfusion_ns.errors import UserError
from genfusion_ns.gaussians.losses import photometric, ssi_disparity
from genfusion_ns.loop import perceptual
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.perceptual import NETWORK_FILES, PerceptualLoss, load_network, perceptual_loss
from genfusion_ns.loop.supervision.view_loss import generated_view_loss
from genfusion_ns.loop.view_buffer import GeneratedFrame, Provenance

ALEX = NETWORK_FILES["alex"]


@pytest.fixture(scope="module")
def lpips(shared) -> PerceptualLoss:
    """With AlexNet's real weights."""
    found = perceptual_loss(0.3, shared / "weights" / ALEX)
    assert found is not None
    return found


def noisy(frame_size: tuple[int, int] = (40, 48), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A smooth image, another, and confidence."""
    random = torch.Generator().manual_seed(seed)
    image, other = (torch.rand(*frame_size, 3, generator=random) for _ in range(2))
    return image, other, torch.ones(*frame_size, 1)


def generated(camera) -> GeneratedFrame:
    render = ball(camera)
    confidence = torch.ones_like(render.alpha)
    confidence[:, :10] = 0
    provenance = Provenance("none", "", "none", 0, 0, 0, 0, 0)
    return GeneratedFrame.encode(camera, render.color, render.alpha, confidence, provenance, weight=0.25)


# -- the network -----------------------------------------------------------------------------------------------------


def test_values_are_those_of_torchmetrics(shared, lpips, tmp_path, monkeypatch):
    """Its own function reads torch hub's folder and averages the layers before they are brought to one size."""
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / ALEX).symlink_to(shared / "weights" / ALEX)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    image, other, ones = noisy((64, 80))
    batch = [x.permute(2, 0, 1)[None] for x in (image, other)]
    expected = learned_perceptual_image_patch_similarity(*batch, net_type="alex", normalize=True)
    network = load_network(perceptual.find_weights(None))
    vars(network)["spatial"] = False
    torch.testing.assert_close(network(2 * batch[0] - 1, 2 * batch[1] - 1).squeeze(), expected)
    assert float(lpips(image, other, ones)) == pytest.approx(float(expected), rel=0.1)


def test_equal_images_cost_nothing_and_large_ones_are_reduced(lpips, monkeypatch):
    image, other, ones = noisy()
    assert float(lpips(image, image, ones)) == 0 < float(lpips(image, other, ones))
    sizes = []
    spied = replace(lpips, network=lambda a, b: sizes.append(tuple(a.shape)) or torch.zeros(1, 1, *a.shape[2:]))
    for size in ((40, 48), (300, 512), (20, 30), (40, 1000)):
        spied(*noisy(size))
    assert sizes == [(1, 3, 40, 48), (1, 3, 150, 256), (1, 3, 32, 48), (1, 3, 32, 800)]


def test_gradient_reaches_believed_pixels_only(lpips):
    image, other, confidence = noisy()
    image.requires_grad_()
    confidence[:, :20] = 0
    lpips(image, other, confidence).backward()
    assert image.grad is not None and image.grad.isfinite().all()
    assert not image.grad[:, :20].any() and image.grad[:, 20:].abs().sum() > 0
    assert not any(p.requires_grad or p.grad is not None for p in lpips.network.parameters())
    torch.testing.assert_close(lpips(image, other * (confidence > 0), confidence), lpips(image, other, confidence))


def test_following_the_gradient_brings_images_together(lpips):
    image, other, ones = noisy()
    before = float(lpips(image, other, ones))
    moved = image.clone().requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=0.02)
    for _ in range(8):
        optimizer.zero_grad()
        lpips(moved, other, ones).backward()
        optimizer.step()
    assert float(lpips(moved.detach(), other, ones)) < 0.8 * before


def test_black_images_have_a_gradient(lpips):
    image = torch.zeros(40, 48, 3, requires_grad=True)
    lpips(image, noisy()[1], torch.ones(40, 48, 1)).backward()
    assert image.grad is not None and image.grad.isfinite().all()


def test_building_the_network_leaves_the_random_state_alone(shared):
    before = torch.get_rng_state()
    load_network(shared / "weights" / ALEX)
    assert torch.equal(before, torch.get_rng_state())


# -- as a term of the loss -------------------------------------------------------------------------------------------


def test_weight_0_changes_no_bit(around):
    """Against the sum of the terms that there were before this one."""
    assert perceptual_loss(0.0, None) is None and LoopConfig().perceptual_weight == 0
    frame = generated(around[0])
    render = ball(frame.camera)
    render = replace(render, color=(0.8 * render.color + 0.1).requires_grad_())
    confidence = frame.confidence_map()
    color = photometric(render.color, frame.image(), 0.3, confidence)
    depth = ssi_disparity(render.depth, frame.disparity_map(), confidence * render.alpha)
    expected = 0.5 * frame.weight * (color + 2.0 * depth)
    assert torch.equal(generated_view_loss(render, frame, 0.5, 0.3, 2.0, perceptual_loss(0.0, None)), expected)


def test_term_is_weighted_like_the_others(around, lpips):
    frame = generated(around[0])
    render = ball(frame.camera)
    render = replace(render, color=(1 - render.color).requires_grad_())
    without = generated_view_loss(render, frame, 0.5)
    term = lpips(render.color, frame.image(), frame.confidence_map())
    assert term > 0.01
    with_it = generated_view_loss(render, frame, 0.5, perceptual=lpips)
    torch.testing.assert_close(with_it, without + 0.5 * 0.25 * 0.3 * term)


# -- mistakes --------------------------------------------------------------------------------------------------------


def test_missing_file_is_told_with_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("torch.hub.urlopen", lambda *_a, **_k: pytest.fail("nothing may be downloaded"))
    with pytest.raises(UserError) as caught:
        perceptual_loss(0.1, None)
    assert str(tmp_path / "home" / "hub" / "checkpoints" / ALEX) in str(caught.value)
    assert "loop.perceptual-weights" in str(caught.value)
    with pytest.raises(UserError, match="no file .*elsewhere.pth"):
        perceptual_loss(0.1, tmp_path / "elsewhere.pth")
    with pytest.raises(UserError, match="perceptual-weight is -1"):
        LoopConfig(perceptual_weight=-1).check()


class Trap:
    """What a pickle must not be able to do."""

    def __reduce__(self):
        return pytest.fail, ("code from a pickle ran",)


def test_other_files_are_told(shared, tmp_path):
    whole = torch.load(shared / "weights" / ALEX, weights_only=True)
    several = {
        "garbage": b"no pickle",
        "truncated": (shared / "weights" / ALEX).read_bytes()[:1000],
        "trap": Trap(),
        "list": [1, 2],
        "other network": {"features.0.weight": torch.zeros(64, 3, 7, 7)},
        "without a layer": {key: value for key, value in whole.items() if key != "features.6.weight"},
        "another shape": whole | {"features.6.weight": torch.zeros(3)},
    }
    for name, content in several.items():
        file = tmp_path / f"{name}.pth"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        with pytest.raises(UserError, match=f"{name}.pth .*expected torchvision's {ALEX}"):
            load_network(file)
