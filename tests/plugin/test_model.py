"""The 2DGS model as Nerfstudio's commands use it."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from nerfstudio.models.splatfacto import SplatfactoModel
from plugin_cameras import nerfstudio_camera

from genfusion_ns.cameras import Camera, invert_rigid, look_at, project
from genfusion_ns.gaussians import provenance
from genfusion_ns.gaussians.losses import photometric
from genfusion_ns.plugin.model import GenFusionModel, GenFusionModelConfig


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
    channels = {"rgb": 3, "depth": 1, "accumulation": 1, "normal": 3, "background": 3, "coverage": 1, "trust": 3}
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


def test_terms_come_in_at_their_scaled_steps():
    model = make_model(
        distortion_lambda=1e-2, distortion_start=1400, normal_start=2100, opacity_start=2800, reference_iterations=7000
    ).train()
    model.set_run_length(70)
    terms = {}
    for step in (13, 14, 20, 21, 27, 28):
        model.step = step
        terms[step] = set(model.get_loss_dict(model.render_outputs(make_camera()), {"image": photo()}))
    assert terms[13] == {"photo"} and terms[14] == terms[20] == {"photo", "distortion"}
    assert terms[21] == terms[27] == {"photo", "distortion", "normal"}
    assert terms[28] == {"photo", "distortion", "normal", "opacity"}


def test_each_splat_has_to_be_worth_its_opacity():
    """A splat that no photo sees: nothing but the term pulls at it, once for all photos."""
    slopes = []
    for weight in (0.0, 0.5):
        model, camera = make_model(opacity_lambda=weight, opacity_start=0).train(), make_camera()
        with torch.no_grad():
            model.gauss_params["means"][0] = camera.position - 3 * camera.c2w[:3, 2]
        outputs = model.render_outputs(camera)
        torch.stack(list(model.get_loss_dict(outputs, {"image": photo()}).values())).sum().backward()
        slopes.append(float(model.gauss_params["opacities"].grad[0, 0]))
    opacity, photos = float(model.gauss_params["opacities"].detach()[0, 0].sigmoid()), 3
    assert slopes == pytest.approx([0.0, 0.5 * opacity * (1 - opacity) / model.num_points / photos])


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


# -- what a picture rests on -----------------------------------------------------------------------------------------


def two_splats(rasterizer: str = "torch") -> tuple[GenFusionModel, Camera]:
    """An opaque disc at the left and one at the right of the view, large enough to fill a few pixels each."""
    model = make_model(n=2)
    model.config.rasterizer = rasterizer
    with torch.no_grad():
        model.means.copy_(torch.tensor([[-0.4, 0.0, 0.0], [0.4, 0.0, 0.0]]))
        model.quats.copy_(torch.tensor([0.70710678, 0.70710678, 0.0, 0.0]).expand(2, 4))  # facing the camera
        model.scales.fill_(-1.8)
        model.opacities.fill_(6.0)
    return model, make_camera()


def pixel(camera: Camera, model: GenFusionModel, splat: int) -> tuple[int, int]:
    column, row = project(model.means[splat].detach(), camera)[0].long().tolist()
    return row, column


@torch.no_grad()
@pytest.mark.parametrize("rasterizer", ["torch", "numba"])
def test_a_seen_splat_is_drawn_as_observed_and_an_added_one_as_invented(rasterizer):
    model, camera = two_splats(rasterizer)
    only_left = camera.window(0, 0, 10, 14)  # the left half of the picture is a captured view; twice: with parallax
    model.count_observers([only_left, only_left])
    assert model.densifier_state["seen_by"].tolist() == [2, 0]
    model.densifier_state["captured"][0] = 100
    model.densifier_state["from_start"][1] = 0
    outputs = model.eval().render_outputs(camera)
    left, right = pixel(camera, model, 0), pixel(camera, model, 1)
    alpha = outputs["accumulation"]
    assert alpha[left] > 0.8 and alpha[right] > 0.8
    assert torch.allclose(outputs["trust"][left], torch.tensor(provenance.LEGEND[0]) * alpha[left], atol=2e-3)
    assert torch.allclose(outputs["trust"][right], torch.tensor(provenance.LEGEND[2]) * alpha[right], atol=2e-3)
    assert torch.allclose(outputs["coverage"][left], alpha[left], atol=2e-3) and outputs["coverage"][right] < 2e-3
    assert torch.allclose(provenance.shares(outputs["trust"]).sum(-1, keepdim=True), alpha, atol=2e-3)
    assert (outputs["trust"][0, 0] == 0).all()  # nothing is drawn in the corner


@torch.no_grad()
def test_hiding_the_invented_reaches_the_viewer_only():
    model, camera = two_splats()
    model.densifier_state["from_start"][1] = 0
    right, left = pixel(camera, model, 1), pixel(camera, model, 0)
    before = model.eval().render_outputs(camera)
    model.wishes.least_trust = 0.5
    hidden = model.render_outputs(camera)
    assert hidden["accumulation"][right] < 0.01 < 0.8 < hidden["accumulation"][left]
    assert torch.equal(hidden["trust"][right], torch.zeros(3))
    with model.wishes.set_aside():  # evaluation beside a viewer
        assert torch.equal(model.render_outputs(camera)["rgb"], before["rgb"])
    model.train()
    model.step = 0
    trained = model.render_outputs(camera)["accumulation"]
    assert torch.equal(trained, before["accumulation"])
    assert torch.equal(model.render(camera).alpha, before["accumulation"])  # rounds


@torch.no_grad()
def test_hiding_and_cropping_add_up():
    model, camera = two_splats()
    model.eval().densifier_state["from_start"][1] = 0
    model.wishes.least_trust = 0.5
    box = OrientedBox(R=torch.eye(3), T=torch.tensor([0.5, 0.0, 0.0]), S=torch.ones(3))  # holds the right one only
    assert model.get_outputs_for_camera(nerfstudio_camera(camera), box)["accumulation"].max() == 0
    model.wishes.least_trust = 0.0
    assert model.get_outputs_for_camera(nerfstudio_camera(camera), box)["accumulation"].max() > 0.8


@torch.no_grad()
def test_nothing_is_spent_on_outputs_that_nobody_looks_at(monkeypatch):
    model, camera = two_splats()
    model.eval()
    renders = []
    inner = model.rasterizer
    model._rasterizer = lambda *args, **settings: renders.append(settings["sh_degree"]) or inner(*args, **settings)
    model.wishes.shown = lambda: {"rgb"}
    outputs = model.render_outputs(camera)
    assert renders == [3] and outputs["trust"].shape == (14, 20, 3) and outputs["coverage"].shape == (14, 20, 1)
    model.wishes.shown = lambda: {"trust"}
    model.render_outputs(camera)
    assert renders == [3, 3, None]


def test_bookkeeping_moves_with_the_model_and_through_checkpoints():
    model, _ = two_splats()
    model.densifier_state["from_start"][1] = 0
    model.densifier_state["seen_by"][0] = 4
    other = make_model(n=5)
    other.load_state_dict(model.state_dict())
    assert other.densifier_state["from_start"].tolist() == [1, 0] and other.densifier_state["seen_by"].tolist() == [
        4,
        0,
    ]
    assert {values.device.type for values in other.to("meta").densifier_state.values()} == {"meta"}


def test_checkpoints_from_before_the_bookkeeping_load():
    model, camera = two_splats()
    old = model.state_dict()
    for name in ("seen_by", "from_start"):
        del old["_extra_state"]["densifier"][name]
    other = make_model(n=5)
    other.load_state_dict(old)
    assert other.densifier_state["from_start"].tolist() == [1, 1]
    with torch.no_grad():
        assert other.eval().render_outputs(camera)["trust"].max() > 0
