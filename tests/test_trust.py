"""Which splats the photos show: bookkeeping, classes, and the maps that are drawn of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Parameter

from genfusion_ns import trust
from genfusion_ns.cameras import Camera, invert_rigid, look_at
from genfusion_ns.densify_sparse import SparsityAwareDensifier
from genfusion_ns.gaussians import activate, init_gaussians
from genfusion_ns.raster.torch_reference import TorchRasterizer
from genfusion_ns.splat_edits import append_splats, prune_splats, split_in_plane

UP = torch.tensor([0.0, 0.0, 1.0])


def camera_at(*position: float, target=(0.0, 0.0, 0.0)) -> Camera:
    c2w = look_at(torch.tensor(position), torch.tensor(target), UP)
    K = torch.tensor([[24.0, 0.0, 16.0], [0.0, 24.0, 12.0], [0.0, 0.0, 1.0]])
    return Camera(invert_rigid(c2w), K, 32, 24)


def state_of(captured, seen_by, from_start):
    rows = {"captured": captured, "seen_by": seen_by, "from_start": from_start}
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in rows.items()}


def wall_and_hidden():
    """An opaque wall of discs in the plane y = 0, a point behind it, one before it, and one out of sight."""
    grid = torch.linspace(-1.5, 1.5, 11)
    wall = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 2)
    wall = torch.stack([wall[:, 0], torch.zeros(len(wall)), wall[:, 1]], -1)
    means = torch.cat([wall, torch.tensor([[0.0, 1.0, 0.0], [0.3, -1.0, 0.0], [0.0, -9.0, 0.0]])])
    n = len(means)
    facing = torch.tensor([0.70710678, 0.70710678, 0.0, 0.0]).expand(n, 4)  # discs upright, normal along y
    scales = torch.full((n, 3), 0.25)
    opacities = torch.cat([torch.full((n - 3,), 0.99), torch.full((3,), 0.3)])

    def render(camera: Camera):
        return TorchRasterizer()(means, facing, scales, opacities, torch.ones(n, 1), camera, sh_degree=None)

    return means, render


def test_a_splat_is_seen_unless_it_is_hidden_or_out_of_the_frame():
    means, render = wall_and_hidden()
    front, side, back = camera_at(0.0, -4.0, 0.0), camera_at(1.0, -4.0, 0.5), camera_at(0.0, 4.0, 0.0)
    assert trust.count_observers(means, [front], render)[-3:].tolist() == [0, 1, 0]
    assert trust.count_observers(means, [back], render)[-3:].tolist() == [1, 0, 0]
    count = trust.count_observers(means, [front, side, back], render)
    assert count[-3:].tolist() == [1, 2, 0]
    # the wall itself is seen from everywhere, its rim too
    assert (count[:-3] == 3).all()


def test_empty_space_hides_nothing():
    means, render = wall_and_hidden()
    camera = camera_at(0.0, -4.0, 0.0)
    shown = render(camera)
    assert not trust.sees(means, camera, shown)[-3]
    shown.alpha = shown.alpha * 0.4
    assert trust.sees(means, camera, shown)[-3]


def test_many_views_are_counted_on_a_bounded_choice(monkeypatch):
    monkeypatch.setattr(trust, "MOST_VIEWS", 4)
    means, render = wall_and_hidden()
    asked = []

    def recorded(camera):
        asked.append(camera)
        return render(camera)

    cameras = [camera_at(0.1 * i, -4.0, 0.0) for i in range(10)]
    assert trust.count_observers(means, cameras, recorded).max() == 4
    centres = torch.stack([camera.position for camera in asked])[:, 0]
    assert torch.allclose(centres, torch.tensor([0.0, 0.2, 0.5, 0.7]), atol=1e-5)


def test_classes():
    state = state_of(
        captured=[50, 50, 3, 0, 50, 0, 50],
        seen_by=[2, 1, 1, 0, 0, 0, 0],
        from_start=[1, 0, 1, 1, 1, 0, 0],
    )
    # seen and trained, wherever it came from; barely trained; never seen, but there from the start; added and never
    # seen, even where some gradient leaked through what hides it
    expected = ["observed", "observed", "repaired", "repaired", "repaired", "invented", "invented"]
    assert [trust.CLASSES[i] for i in trust.classify(state)] == expected
    assert trust.levels(state).tolist() == [1, 1, 0.5, 0.5, 0.5, 0, 0]
    assert trust.features(state)[:, 3].tolist() == [1, 0.5, 0.5, 0, 0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_colours_can_be_read_back_as_shares(seed):
    share = torch.rand(4, 3, generator=torch.Generator().manual_seed(seed))
    share = share / share.sum(-1, keepdim=True).clamp_min(1.0)
    painted = trust.paint(share)
    assert painted.min() >= 0 and painted.max() <= 1
    assert torch.allclose(trust.shares(painted), share, atol=1e-5)


def test_maps_of_whole_pixels():
    blended = torch.zeros(1, 3, 4)
    blended[0, 0] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    blended[0, 1] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    found = trust.maps(blended)
    assert found["trust"][0].tolist() == [pytest.approx(trust.LEGEND[0]), pytest.approx(trust.LEGEND[2]), [0, 0, 0]]
    assert found["coverage"][0, :, 0].tolist() == [1, 0, 0]


def test_bookkeeping_follows_the_splats():
    """Split splats take after their parents, added ones come from no start, pruned ones take theirs along."""
    xyz = torch.tensor([[float(i), 0.0, 0.0] for i in range(4)])
    params = {name: Parameter(v) for name, v in init_gaussians(xyz, torch.rand(4, 3), sh_degree=0).items()}
    optimizers = {name: torch.optim.Adam([p]) for name, p in params.items()}
    state = {**SparsityAwareDensifier().initialize_state(4), **trust.fresh_origins(4)}
    state["captured"] += 20
    state["seen_by"] = torch.tensor([0.0, 1.0, 2.0, 3.0])
    new = init_gaussians(torch.tensor([[9.0, 0.0, 0.0]]), torch.rand(1, 3), sh_degree=0)
    append_splats(params, optimizers, state, new)
    assert [trust.CLASSES[i] for i in trust.classify(state)] == ["repaired", *["observed"] * 3, "invented"]

    chosen = torch.tensor([False, True, False, False, True])
    split_in_plane(params, optimizers, state, chosen, 1.6, torch.Generator().manual_seed(0))
    assert state["seen_by"].tolist() == [0, 1, 2, 3, 0, 1, 0] and state["from_start"].tolist() == [1, 1, 1, 1, 0, 1, 0]
    gone = torch.tensor([True, False, False, False, True, False, False])
    prune_splats(params, optimizers, state, gone, torch.zeros(7, dtype=torch.bool))
    assert state["seen_by"].tolist() == [1, 2, 3, 1, 0] and state["from_start"].tolist() == [1, 1, 1, 1, 0]
    assert len(activate(params).means) == 5
