"""`gaussians.export`: files that other readers find the same splats in."""

from __future__ import annotations

import numpy as np
import open3d as o3d
import pytest
import torch
from plyfile import PlyData

from genfusion_ns.errors import UserError
from genfusion_ns.gaussians.export import exportable, ply_table, write_ply, write_spz
from genfusion_ns.gaussians.parameters import init_gaussians


@pytest.fixture
def params() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    made = init_gaussians(torch.rand(50, 3, generator=random), torch.rand(50, 3, generator=random), 3)
    made["features_rest"] = 0.1 * torch.randn(made["features_rest"].shape, generator=random)
    made["quats"] = 3 * made["quats"]
    return made


def test_what_cannot_be_seen_is_left_out(params):
    params["opacities"][3] = -9
    params["means"][7, 1] = torch.nan
    kept = exportable(params)
    assert not kept[3] and not kept[7] and int(kept.sum()) == 48


def test_a_ply_has_the_properties_of_3dgs(params, tmp_path):
    provenance = torch.arange(50) % 3
    write_ply(tmp_path / "a.ply", ply_table(params, provenance))
    found = PlyData.read(str(tmp_path / "a.ply"))["vertex"]
    cloud = o3d.io.read_point_cloud(str(tmp_path / "a.ply"))
    np.testing.assert_array_equal(np.asarray(cloud.points), params["means"].numpy())
    np.testing.assert_array_equal(found["provenance"], provenance.numpy())
    np.testing.assert_array_equal(found["opacity"], params["opacities"][:, 0].numpy())
    # 15 coefficients of red, then of green, then of blue
    np.testing.assert_array_equal(found["f_rest_17"], params["features_rest"][:, 2, 1].numpy())
    turns = np.stack([found[f"rot_{i}"] for i in range(4)], 1)
    np.testing.assert_allclose(3 * turns, params["quats"].numpy(), atol=1e-5)


def test_an_spz_comes_back_to_its_precision(params, tmp_path):
    gsply = pytest.importorskip("gsply", reason="needs the extra 'web'")
    write_spz(tmp_path / "a.spz", params)
    found = gsply.read_spz(tmp_path / "a.spz")
    np.testing.assert_allclose(found.means, params["means"].numpy(), atol=2**-12)
    np.testing.assert_allclose(found.scales[:, :2], params["scales"][:, :2].numpy(), atol=0.05)
    turns = np.abs((found.quats * params["quats"].numpy() / 3).sum(1))
    np.testing.assert_allclose(turns, 1, atol=1e-3)
    write_ply(tmp_path / "a.ply", ply_table(params))
    assert (tmp_path / "a.spz").stat().st_size < 0.3 * (tmp_path / "a.ply").stat().st_size


def test_without_gsply_a_line_says_what_to_install(params, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gsply", None)
    with pytest.raises(UserError, match=r"pip install 'genfusion-ns\[web\]'"):
        write_spz(tmp_path / "a.spz", params)
