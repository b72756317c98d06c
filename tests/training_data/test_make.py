"""One unit from scene to shard."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from pair_units import TINY, tiny_unit

from diffusion.train.shards import read_shard
from genfusion_ns.training_data.footage import procedural_footage
from genfusion_ns.training_data.make import VERSION, make_pairs, make_unit
from genfusion_ns.training_data.variants import Variant


def test_a_unit_becomes_a_shard_of_clips(tmp_path):
    unit = tiny_unit()
    assert make_unit(unit, TINY, tmp_path) == ("points-0000001-corner", True)
    pairs = read_shard(tmp_path / "points-0000001-corner.safetensors")
    # two snapshots of two clips each
    assert [(pair.provenance["step"], pair.provenance["first"]) for pair in pairs] == [(2, 0), (2, 2), (5, 0), (5, 2)]
    footage = procedural_footage("points", 1, 4, 32, 32)
    mask = unit.variant.masks(4, 32, 32)[0]
    for pair in pairs:
        part = slice(pair.provenance["first"], pair.provenance["first"] + 2)
        np.testing.assert_array_equal(pair.target_rgb.numpy(), footage.rgb[part])
        np.testing.assert_allclose(pair.target_depth[..., 0].float().numpy(), footage.depth[part], rtol=1e-3)
        assert (pair.reference[0][~torch.from_numpy(mask)] == 0).all() and (pair.reference[0] > 0).any()
        assert any(np.array_equal(pair.reference[0].numpy()[mask], photo[mask]) for photo in footage.rgb)
        assert (pair.render_rgb[(pair.render_alpha == 0).expand_as(pair.render_rgb)] <= 1).all()
        assert ((pair.render_depth > 0) | (pair.render_alpha <= 1)).all()
        wanted = {"scene": "points-0000001", "family": "points", "seed": 1, "variant": "corner", "split": "train"}
        assert {**pair.provenance, **wanted, "source": "procedural", "version": VERSION} == pair.provenance
    # the two snapshots are not the same
    assert not torch.equal(pairs[0].render_rgb, pairs[2].render_rgb)


def test_a_unit_follows_from_its_names_and_seeds():
    unit, footage = tiny_unit(), procedural_footage("points", 1, 4, 32, 32)
    first, again, other = (make_pairs(unit, replace(TINY, seed=seed), footage) for seed in (0, 0, 1))
    assert all(torch.equal(a.render_rgb, b.render_rgb) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].render_rgb, other[0].render_rgb)


def test_what_is_hidden_leaves_no_trace_in_the_renders():
    unit, footage = tiny_unit("polygon"), procedural_footage("points", 1, 4, 32, 32)
    masks = unit.variant.masks(4, 32, 32)
    spoiled = replace(
        footage,
        rgb=np.where(masks[..., None], footage.rgb, 255 - footage.rgb),
        depth=np.where(masks, footage.depth, 0.3),
    )
    for one, other in zip(make_pairs(unit, TINY, footage), make_pairs(unit, TINY, spoiled), strict=True):
        for name in ("render_rgb", "render_depth", "render_alpha", "reference"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert not torch.equal(one.target_rgb, other.target_rgb)


def test_sparse_units_know_their_photos_and_no_others():
    variant = Variant("sparse2", "sparse", 0, views=2, first=0.0, last=1.0)
    unit, footage = replace(tiny_unit(), variant=variant, steps=(3,)), procedural_footage("points", 1, 4, 32, 32)
    spoiled = replace(footage, rgb=footage.rgb.copy(), depth=footage.depth.copy())
    spoiled.rgb[1:3], spoiled.depth[1:3] = 0, 1.0
    first, other = (make_pairs(unit, TINY, some) for some in (footage, spoiled))
    assert torch.equal(first[0].render_rgb, other[0].render_rgb)
    np.testing.assert_array_equal(first[0].reference[0].numpy(), footage.rgb[0])
    np.testing.assert_array_equal(first[1].reference[0].numpy(), footage.rgb[3])
    assert first[0].provenance["train_views"] == 2


def test_a_whole_shard_is_kept_and_a_damaged_one_made_anew(tmp_path, caplog):
    unit = tiny_unit("sparse")
    name, _ = make_unit(unit, TINY, tmp_path)
    path = tmp_path / f"{name}.safetensors"
    content, stamp = path.read_bytes(), path.stat().st_mtime_ns
    assert make_unit(unit, TINY, tmp_path) == (name, False)
    assert path.stat().st_mtime_ns == stamp
    path.write_bytes(content[:-10])
    with caplog.at_level(logging.WARNING):
        assert make_unit(unit, TINY, tmp_path) == (name, True)
    assert path.name in caplog.text and path.read_bytes() == content


def test_photos_are_taken_once_for_all_variants_of_a_scene(tmp_path, monkeypatch):
    make_unit(tiny_unit("sparse"), TINY, tmp_path)
    monkeypatch.setattr("genfusion_ns.training_data.make.procedural_footage", pytest.fail)
    make_unit(tiny_unit("corner"), TINY, tmp_path)
    kept = next((tmp_path / "footage").iterdir())
    kept.write_bytes(kept.read_bytes()[:100])
    monkeypatch.undo()
    assert make_unit(tiny_unit("moving"), TINY, tmp_path)[1]


@pytest.mark.slow
def test_units_of_a_capture_have_no_target_depth(shared, tmp_path):
    unit = replace(tiny_unit("sparse"), family="capture", capture=str(shared / "data" / "plush"))
    name, _ = make_unit(unit, TINY, tmp_path)
    pairs = read_shard(tmp_path / f"{name}.safetensors")
    assert name == "plush-0000001-sparse" and {pair.provenance["source"] for pair in pairs} == {"plush"}
    assert all((pair.target_depth == 0).all() and (pair.render_depth > 0).any() for pair in pairs)
