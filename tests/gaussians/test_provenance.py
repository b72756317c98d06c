"""Which splats the photos show: bookkeeping, classes, and the maps that are drawn of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Parameter

from genfusion_ns.cameras import Camera, invert_rigid, look_at
from genfusion_ns.gaussians import provenance
from genfusion_ns.gaussians.densify_sparse import SparsityAwareDensifier
from genfusion_ns.gaussians.edit import append_splats, prune_splats, split_in_plane
from genfusion_ns.gaussians.parameters import Splats, activate, init_gaussians
from genfusion_ns.raster.torch_reference import TorchRasterizer

UP = torch.tensor([0.0, 0.0, 1.0])


def camera_at(*position: float, target=(0.0, 0.0, 0.0)) -> Camera:
    c2w = look_at(torch.tensor(position), torch.tensor(target), UP)
    K = torch.tensor([[24.0, 0.0, 16.0], [0.0, 24.0, 12.0], [0.0, 0.0, 1.0]])
    return Camera(invert_rigid(c2w), K, 32, 24)


def state_of(captured, seen_by, from_start):
    rows = {"captured": captured, "seen_by": seen_by, "from_start": from_start}
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in rows.items()}


def wall_and_hidden() -> Splats:
    """An opaque wall of discs in the plane y = 0, a disc behind it, a faint one before it, and one out of sight."""
    grid = torch.linspace(-1.5, 1.5, 11)
    wall = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 2)
    wall = torch.stack([wall[:, 0], torch.zeros(len(wall)), wall[:, 1]], -1)
    means = torch.cat([wall, torch.tensor([[0.0, 1.0, 0.0], [0.3, -1.0, 0.0], [0.0, -9.0, 0.0]])])
    n = len(means)
    facing = torch.tensor([0.70710678, 0.70710678, 0.0, 0.0]).expand(n, 4)  # discs upright, normal along y
    scales = torch.full((n, 3), 0.25)
    opacities = torch.cat([torch.full((n - 3,), 0.99), torch.full((3,), 0.3)])
    return Splats(means, facing, scales, opacities, torch.zeros(n, 1, 3))


def count(splats: Splats, cameras) -> torch.Tensor:
    return provenance.count_observers(splats, cameras, TorchRasterizer(), near=0.01)


def test_a_splat_is_seen_unless_it_is_hidden_or_out_of_the_frame():
    splats = wall_and_hidden()
    front, side, back = camera_at(0.0, -4.0, 0.0), camera_at(1.0, -4.0, 0.5), camera_at(0.0, 4.0, 0.0)
    assert count(splats, [front])[-3:].tolist() == [0, 1, 0]
    assert count(splats, [back])[-3:].tolist() == [1, 0, 0]
    found = count(splats, [front, side, back])
    assert found[-3:].tolist() == [1, 2, 0]
    assert found[:-3].mean() > 2.5  # of the wall's discs, which overlap, some cover others


def test_what_shines_through_is_seen():
    splats = wall_and_hidden()
    faint = splats._replace(opacities=torch.cat([torch.full((len(splats.means) - 3,), 0.3), splats.opacities[-3:]]))
    camera = camera_at(0.0, -4.0, 0.0)
    assert count(splats, [camera])[-3] == 0 and count(faint, [camera])[-3] == 1


def one_disc(scale, opacity: float = 0.8, turn: float = 0.0) -> Splats:
    """A disc at the origin that faces the camera at (0, -d, 0), turned by `turn` about the upright axis."""
    facing = torch.tensor([[0.70710678, 0.70710678, 0.0, 0.0]])
    half = torch.tensor(0.5 * turn)
    about_z = torch.tensor([torch.cos(half), 0.0, 0.0, torch.sin(half)])
    w, x, y, z = facing[0]
    quats = torch.stack(  # about_z after facing
        [
            about_z[0] * w - about_z[3] * z,
            about_z[0] * x - about_z[3] * y,
            about_z[0] * y + about_z[3] * x,
            about_z[0] * z + about_z[3] * w,
        ]
    )
    scales = torch.tensor([[*scale, 1e-6]])
    return Splats(torch.zeros(1, 3), quats[None], scales, torch.tensor([opacity]), torch.zeros(1, 1, 3))


@pytest.mark.parametrize(
    ("scale", "turn"), [((0.3, 0.3), 0.0), ((0.5, 0.2), 0.0), ((0.3, 0.3), 0.9), ((1e-3, 1e-3), 0.0)]
)
def test_all_light_of_a_lone_splat_arrives(scale, turn):
    """The rasteriser is the oracle of the footprint: round, long, slanted, and smaller than a pixel."""
    share = provenance.reach(one_disc(scale, turn=turn), camera_at(0.0, -4.0, 0.0), TorchRasterizer(), near=0.01)
    assert share.item() == pytest.approx(1.0, abs=0.12)


def test_half_of_the_light_of_a_splat_on_the_frame_s_rim_arrives():
    camera = camera_at(0.0, -4.0, 0.0).window(16, 0, 16, 24)
    share = provenance.reach(one_disc((0.3, 0.3)), camera, TorchRasterizer(), near=0.01)
    assert share.item() == pytest.approx(0.5, abs=0.08)


def test_a_splat_that_fills_the_frame_is_seen():
    share = provenance.reach(one_disc((50.0, 50.0)), camera_at(0.0, -1.0, 0.0), TorchRasterizer(), near=0.01)
    assert share.item() == pytest.approx(1.0, abs=0.01)


def test_many_views_are_counted_on_a_bounded_choice(monkeypatch):
    monkeypatch.setattr(provenance, "MOST_VIEWS", 4)
    asked = []

    def recorded(splats, camera, rasterizer, near):
        asked.append(camera.position[0].item())
        return torch.ones(len(splats.means))

    monkeypatch.setattr(provenance, "reach", recorded)
    assert count(wall_and_hidden(), [camera_at(0.1 * i, -4.0, 0.0) for i in range(10)]).max() == 4
    assert asked == pytest.approx([0.0, 0.2, 0.5, 0.7], abs=1e-5)


def test_classes():
    state = state_of(
        captured=[50, 50, 3, 0, 50, 0, 50],
        seen_by=[2, 1, 1, 0, 0, 0, 0],
        from_start=[1, 0, 1, 1, 1, 0, 0],
    )
    # seen and trained, wherever it came from; barely trained; never seen, but there from the start; added and never
    # seen, even where some gradient leaked through what hides it
    expected = ["observed", "observed", "repaired", "repaired", "repaired", "invented", "invented"]
    assert [provenance.CLASSES[i] for i in provenance.classify(state)] == expected
    assert provenance.levels(state).tolist() == [1, 1, 0.5, 0.5, 0.5, 0, 0]
    assert provenance.features(state)[:, 3].tolist() == [1, 0.5, 0.5, 0, 0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_colours_can_be_read_back_as_shares(seed):
    share = torch.rand(4, 3, generator=torch.Generator().manual_seed(seed))
    share = share / share.sum(-1, keepdim=True).clamp_min(1.0)
    painted = provenance.paint(share)
    assert painted.min() >= 0 and painted.max() <= 1
    assert torch.allclose(provenance.shares(painted), share, atol=1e-5)


def test_maps_of_whole_pixels():
    blended = torch.zeros(1, 3, 4)
    blended[0, 0] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    blended[0, 1] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    found = provenance.maps(blended)
    blue, _, red = (pytest.approx(colour) for colour in provenance.LEGEND)
    assert found["trust"][0].tolist() == [blue, red, [0, 0, 0]]
    assert found["coverage"][0, :, 0].tolist() == [1, 0, 0]


def test_bookkeeping_follows_the_splats():
    """Split splats take after their parents, added ones come from no start, pruned ones take theirs along."""
    xyz = torch.tensor([[float(i), 0.0, 0.0] for i in range(4)])
    params = {name: Parameter(v) for name, v in init_gaussians(xyz, torch.rand(4, 3), sh_degree=0).items()}
    optimizers = {name: torch.optim.Adam([p]) for name, p in params.items()}
    state = {**SparsityAwareDensifier().initialize_state(4), **provenance.fresh_origins(4)}
    state["captured"] += 20
    state["seen_by"] = torch.tensor([0.0, 1.0, 2.0, 3.0])
    new = init_gaussians(torch.tensor([[9.0, 0.0, 0.0]]), torch.rand(1, 3), sh_degree=0)
    append_splats(params, optimizers, state, new)
    assert [provenance.CLASSES[i] for i in provenance.classify(state)] == ["repaired", *["observed"] * 3, "invented"]

    chosen = torch.tensor([False, True, False, False, True])
    split_in_plane(params, optimizers, state, chosen, 1.6, torch.Generator().manual_seed(0))
    assert state["seen_by"].tolist() == [0, 1, 2, 3, 0, 1, 0] and state["from_start"].tolist() == [1, 1, 1, 1, 0, 1, 0]
    gone = torch.tensor([True, False, False, False, True, False, False])
    prune_splats(params, optimizers, state, gone, torch.zeros(7, dtype=torch.bool))
    assert state["seen_by"].tolist() == [1, 2, 3, 1, 0] and state["from_start"].tolist() == [1, 1, 1, 1, 0]
    assert len(activate(params).means) == 5
