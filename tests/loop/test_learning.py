"""The loop end to end on splats that train: the truth helps, lies do no harm. Seconds on the fast CPU rasteriser."""

import pytest
import torch
from loop_scene import aimed, points_in_view, textured
from oracle import OracleRepairer
from torch.nn import Parameter, ParameterDict

from genfusion_ns.gaussians.densify_sparse import SparsityAwareDensifier
from genfusion_ns.gaussians.keeper import TrainedSplats
from genfusion_ns.gaussians.losses import photometric, psnr
from genfusion_ns.gaussians.parameters import activate, init_gaussians
from genfusion_ns.geometry import scene_extent
from genfusion_ns.loop.captured import CapturedViews
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.repairers.base import IdentityRepairer
from genfusion_ns.loop.round import Loop
from genfusion_ns.loop.state import LoopState
from genfusion_ns.loop.supervision.view_loss import generated_view_loss
from genfusion_ns.loop.view_buffer import GeneratedViews
from genfusion_ns.raster.choose import choose_rasterizer
from genfusion_ns.seeding import order_index

pytestmark = pytest.mark.slow

STEPS = 210
CAPTURED = [aimed((2.6 * x, 2.6 * y, 1.0)).resized(48, 36) for x, y in ((1, -0.5), (1, 0), (1, 0.5))]
UNSEEN = [aimed((2.5, y, z)).resized(48, 36) for y, z in ((-2.0, 0.6), (-0.7, 1.4), (0.6, 0.3), (1.9, 0.8))]
LOOP = LoopConfig(depth_weight=0.1, start=60, every=50, until=180, frames=12, clip_length=6, expand=500)
LEARNING_RATES = {"means": 1e-3, "scales": 5e-3, "quats": 1e-3, "features_dc": 1e-2, "features_rest": 5e-4}


def other_scene(camera):
    """Another surface in other colours."""
    return textured(camera, offset=2.0, radius=1.8)


class Training:
    """The smallest training loop that has everything: captured and generated views, densifier, rounds."""

    def __init__(self, repairer=None, loop: LoopConfig = LOOP) -> None:
        self.repairer, self.loop = repairer, loop
        xyz, rgb = points_in_view(CAPTURED, 700)
        self.params = ParameterDict({n: Parameter(v) for n, v in init_gaussians(xyz, rgb, 0).items()})
        self.optimizers = {
            name: torch.optim.Adam([p], lr=LEARNING_RATES.get(name, 5e-2), eps=1e-15) for name, p in self.params.items()
        }
        self.densifier = SparsityAwareDensifier(
            start=40, stop=170, every=40, reset_every=0, visible_base=10, visible_cap=20, max_gaussians=3000
        )
        self.statistics = self.densifier.initialize_state(len(xyz))
        self.state = LoopState(GeneratedViews(loop.pool))
        arguments = self.params, self.optimizers, lambda: self.statistics, 0, 3000, {}
        self.splats = TrainedSplats(*arguments)
        self.rasterizer = choose_rasterizer("numba", "cpu")
        self.photos = CapturedViews(CAPTURED, lambda i: textured(CAPTURED[i]).color)

    def render(self, camera):
        return self.rasterizer(*activate(dict(self.params.items())), camera, sh_degree=0)

    def step(self, step: int) -> None:
        i = order_index(len(CAPTURED), 0, step, "captured")
        views = [(self.render(CAPTURED[i]), 1.0)]
        loss = photometric(views[0][0].color, self.photos.image(i), 0.2)
        weight = self.loop.generated_weight(step)
        if weight > 0 and len(self.state.pool):
            frame = self.state.pool.pick(0, step)
            views.append((self.render(frame.camera), weight))
            loss = loss + generated_view_loss(views[1][0], frame, weight, self.loop.depth_weight)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        for number, (view, share) in enumerate(views):
            self.densifier.observe(self.statistics, view.densify_signal.grad, view.radii, 48, 36, share, number > 0)
        self.densifier.step(self.params, self.optimizers, self.statistics, step + 1, scene_extent(CAPTURED), 0)

    def train(self) -> float:
        """Mean PSNR at the unseen views after all steps."""
        for k in range(1, STEPS + 1):
            self.step(k - 1)
            if self.repairer is not None and self.loop.is_round_due(k, STEPS):
                Loop(self.loop, self.repairer, 0, self.state).round(k, self.render, self.photos, splats=self.splats)
        with torch.no_grad():
            found = [psnr(self.render(camera).color.clamp(0, 1), textured(camera).color) for camera in UNSEEN]
        return float(torch.stack(found).mean())


@pytest.fixture(scope="module")
def without_loop() -> float:
    return Training().train()


def test_the_truth_helps(without_loop):
    training = Training(OracleRepairer(textured, 0.02))
    assert training.train() > without_loop + 2.0
    # the last round is judged where a run ends its loop
    assert [report.outcome for report in training.state.reports] == ["accepted", "accepted", "open"]
    assert all(report.clips_refused == 0 for report in training.state.reports)
    assert sum(report.added for report in training.state.reports) > 0
    assert len(training.params["means"]) <= 3000


def test_identity_does_bounded_harm(without_loop):
    """It teaches what the splats showed a round ago, as far as they cover a view, which holds them back."""
    training = Training(IdentityRepairer())
    assert training.train() > without_loop - 1.5


def test_of_half_lies_the_other_half_helps(without_loop):
    training = Training(OracleRepairer(textured, 0.02, wrong=other_scene))
    assert training.train() > without_loop + 1.0
    assert all(report.clips_refused == report.clips // 2 > 0 for report in training.state.reports)


def test_lies_alone_change_nothing(without_loop):
    training = Training(OracleRepairer(textured, 0.02, wrong=other_scene, wrong_every=1))
    assert training.train() == without_loop
    assert [report.outcome for report in training.state.reports] == ["refused"] * 3
    assert len(training.state.pool) == 0


def test_a_resumed_run_ends_with_the_same_splats():
    whole, parts = Training(OracleRepairer(textured, 0.02)), Training(OracleRepairer(textured, 0.02))
    for training in (whole, parts):
        for k in range(1, 120):
            training.step(k - 1)
            if training.loop.is_round_due(k, STEPS):
                Loop(LOOP, training.repairer, 0, training.state).round(
                    k, training.render, training.photos, splats=training.splats
                )
            if training is parts and k == 90:
                saved = training.state.state_dict()
                training.state = LoopState(GeneratedViews(1))
                training.state.load_state_dict(saved)
                training.repairer = OracleRepairer(textured, 0.02)
    for name, p in whole.params.items():
        assert torch.equal(p, parts.params[name])
