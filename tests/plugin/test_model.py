"""The 2DGS model as Nerfstudio's commands use it."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from nerfstudio.models.splatfacto import SplatfactoModel

from genfusion_ns.cameras import Camera, invert_rigid, look_at
from genfusion_ns.losses import photometric
from genfusion_ns.plugin.model import GenFusionModel, GenFusionModelConfig
from genfusion_ns.plugin.views import nerfstudio_camera


def make_model(n: int = 200, seed_points: bool = True, **settings) -> GenFusionModel:
    random = torch.Generator().manual_seed(1)
    points = torch.rand(n, 3, generator=random) - 0.5, torch.randint(0, 255, (n, 3), generator=random)
    config = GenFusionModelConfig(rasterizer="torch", num_random=n, **settings)
    box = SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    model = config.setup(scene_box=box, num_train_data=3, seed_points=points if seed_points else None)
    model.set_run_length(7000)
    return model


def make_camera(width: int = 20, height: int = 14) -> Camera:
    c2w = look_at(torch.tensor([0.0, -2.0, 0.3]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    K = torch.tensor([[20.0, 0.0, 9.0], [0.0, 20.0, 8.0], [0.0, 0.0, 1.0]])
    return Camera(invert_rigid(c2w), K, width, height)


def photo(seed: int = 0, channels: int = 3) -> torch.Tensor:
    return torch.rand(14, 20, channels, generator=torch.Generator().manual_seed(seed))


def test_is_what_export_and_viewer_ask_for():
    model = make_model()
    assert isinstance(model, SplatfactoModel)
    assert set(model.get_param_groups()) == {"means", "scales", "quats", "features_dc", "features_rest", "opacities"}
    assert not [name for name in model.state_dict() if "lpips" in name]


def test_eval_outputs_are_images():
    model = make_model().eval()
    outputs = model.get_outputs_for_camera(nerfstudio_camera(make_camera()))
    channels = {"rgb": 3, "depth": 1, "accumulation": 1, "normal": 3, "background": 3}
    assert {name: value.shape for name, value in outputs.items()} == {n: (14, 20, c) for n, c in channels.items()}
    for name in ("rgb", "accumulation", "normal"):
        assert outputs[name].min() >= 0 and outputs[name].max() <= 1
    assert (outputs["depth"] > 0).all()


def test_crop_box_hides_what_is_outside():
    model = make_model().eval()
    camera = nerfstudio_camera(make_camera())
    far_away = OrientedBox(R=torch.eye(3), T=torch.full((3,), 9.0), S=torch.ones(3))
    assert model.get_outputs_for_camera(camera)["accumulation"].max() > 0
    assert model.get_outputs_for_camera(camera, far_away)["accumulation"].max() == 0


def test_without_points_it_starts_at_random():
    model = make_model(n=64, seed_points=False)
    assert model.num_points == 64 and model.means.abs().max() <= 1


def test_background_follows_from_seed_and_step():
    model = make_model().train()
    colours = []
    for step in (5, 6, 5):
        model.step = step
        colours.append(model._get_background_color())
    assert torch.equal(colours[0], colours[2]) and not torch.equal(colours[0], colours[1])


def test_transparent_photos_are_blended_with_the_background():
    model = make_model().train()
    outputs = model.render_outputs(make_camera())
    rgba = photo(channels=4)
    loss = model.get_loss_dict(outputs, {"image": rgba})["photo"]
    target = rgba[..., 3:] * rgba[..., :3] + (1 - rgba[..., 3:]) * outputs["background"]
    assert torch.allclose(loss, photometric(outputs["rgb"], target, 0.2))


def test_surface_terms_come_in_at_their_scaled_steps():
    model = make_model(
        distortion_lambda=1e-2, distortion_start=1400, normal_start=2100, reference_iterations=7000
    ).train()
    model.set_run_length(70)
    terms = {}
    for step in (13, 14, 20, 21):
        model.step = step
        terms[step] = set(model.get_loss_dict(model.render_outputs(make_camera()), {"image": photo()}))
    assert terms[13] == {"photo"} and terms[14] == terms[20] == {"photo", "distortion"}
    assert terms[21] == {"photo", "distortion", "normal"}


def test_generated_views_reach_the_densifier():
    """In the official code they never do (its fault B1): here each observed render adds to the statistics."""
    model = make_model().train()
    model.optimizers = {}
    captured, generated = make_camera().window(10, 0, 20, 14), make_camera().window(-12, 0, 20, 14)
    loss = model.render_outputs(captured)["rgb"].mean() + model.observed_render(generated).color.mean()
    loss.backward()
    only_generated = (model._observed[1].radii > 0) & (model._observed[0].radii == 0)
    model.densifier.start = 10**9
    model.step_post_backward(step=0)
    assert only_generated.any()
    assert (model.densifier_state["count"][only_generated] == 1).all()
    assert not model._observed


def test_masked_pixels_do_not_count():
    model = make_model().train()
    outputs = model.render_outputs(make_camera())
    mask = torch.zeros(14, 20, 1, dtype=torch.bool)
    mask[:7] = True
    spoiled = photo()
    spoiled[7:] = 0.123
    losses = [model.get_loss_dict(outputs, {"image": image, "mask": mask})["photo"] for image in (photo(), spoiled)]
    assert torch.equal(losses[0], losses[1])


@torch.no_grad()
@pytest.mark.parametrize("size", [(7, 5), (33, 17)])
def test_any_image_size(size):
    outputs = make_model().eval().render_outputs(make_camera(*size))
    assert outputs["rgb"].shape == (size[1], size[0], 3)


@torch.no_grad()
def test_metrics_of_a_perfect_render(monkeypatch):
    model = make_model().eval()
    monkeypatch.setattr(model, "lpips", lambda *images: None)
    outputs = model.render_outputs(make_camera())
    metrics, images = model.get_image_metrics_and_images(outputs, {"image": outputs["rgb"].clone()})
    assert metrics["psnr"] > 80 and metrics["ssim"] == pytest.approx(1.0, abs=1e-5) and "lpips" not in metrics
    assert images["img"].shape == (14, 40, 3)
