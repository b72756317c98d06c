"""`repairers.base`: the socket's shapes and names, and the repairer that changes nothing."""

import sys

import pytest
import torch

from genfusion_ns.errors import UserError
from genfusion_ns.loop.repairers import base


def clip(around, frames: int = 3) -> base.RGBDClip:
    gen = torch.Generator().manual_seed(0)
    rgb = torch.rand(frames, 4, 5, 3, generator=gen)
    depth = torch.rand(frames, 4, 5, 1, generator=gen) + 0.5
    depth[0, 0, 0], depth[0, 0, 1] = 0.0, float("nan")
    return base.RGBDClip(rgb, depth, torch.rand(frames, 4, 5, 1, generator=gen), around[:frames])


def test_identity_gives_the_render_back(around):
    given = clip(around)
    repaired = base.create_repairer("identity").repair(given, torch.rand(7, 7, 3))
    assert torch.equal(repaired.rgb, given.rgb)
    assert torch.equal(repaired.confidence, given.alpha)
    assert repaired.disparity[0, 0, :2].abs().max() == 0
    seen = repaired.disparity > 0
    torch.testing.assert_close(repaired.disparity[seen] * given.depth[seen], torch.ones(int(seen.sum())))
    assert int(seen.sum()) == given.depth.numel() - 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: (c.rgb[..., :2], c.depth, c.alpha, c.cameras), "rgb \\[T, H, W, 3\\]"),
        (lambda c: (c.rgb, c.depth[:, :2], c.alpha, c.cameras), "got \\[3, 4, 5, 3\\], \\[3, 2, 5, 1\\]"),
        (lambda c: (c.rgb, c.depth, c.alpha, c.cameras[:2]), "got 2 for 3 frames"),
    ],
)
def test_clip_shapes_are_checked(around, change, message):
    with pytest.raises(ValueError, match=message):
        base.RGBDClip(*change(clip(around)))


def test_unknown_name():
    with pytest.raises(UserError, match="unknown repairer 'magic'; expected one of: .*identity"):
        base.create_repairer("magic")


def test_registered_repairer_is_imported_only_when_asked_for(tmp_path, monkeypatch):
    (tmp_path / "lazy_repairer_for_test.py").write_text(
        "class Inverter:\n"
        "    name, fingerprint = 'inverter', 'abc'\n"
        "    def __init__(self, strength):\n"
        "        self.strength = strength\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(base, "_FACTORIES", dict(base._FACTORIES))
    base.register_repairer("inverter", "lazy_repairer_for_test:Inverter")
    assert "lazy_repairer_for_test" not in sys.modules
    assert "inverter" in base.repairer_names()
    assert base.create_repairer("inverter", strength=2).strength == 2  # type: ignore[attr-defined]
    sys.modules.pop("lazy_repairer_for_test")


def test_missing_package_is_a_message(monkeypatch):
    monkeypatch.setattr(base, "_FACTORIES", {"heavy": "no_such_package_for_test.sub:Thing"})
    with pytest.raises(UserError, match="'heavy' cannot be loaded: No module named 'no_such_package_for_test'"):
        base.create_repairer("heavy")
