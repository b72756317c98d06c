"""`loop.view_buffer`: bounded, deterministic, and whole on disk after a kill at any moment."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch

from genfusion_ns.errors import UserError
from genfusion_ns.loop.view_buffer import GeneratedFrame, GeneratedViews, Provenance


def provenance(**changes) -> Provenance:
    values = dict(repairer="identity", fingerprint="", trajectory="orbit", seed=3, round=1, step=2000, clip=0, frame=5)
    return Provenance(**{**values, **changes})


def frame(camera, seed: int = 0, weight: float = 1.0) -> GeneratedFrame:
    gen = torch.Generator().manual_seed(seed)
    maps = (torch.rand(6, 8, c, generator=gen) for c in (3, 1, 1))
    return GeneratedFrame.encode(camera, *maps, provenance(frame=seed), weight)


def assert_equal(a: GeneratedViews, b: GeneratedViews):
    assert (a.capacity, a.next_id, len(a)) == (b.capacity, b.next_id, len(b))
    for x, y in zip(a.frames, b.frames, strict=True):
        assert (x.id, x.weight, x.agreement, x.provenance) == (y.id, y.weight, y.agreement, y.provenance)
        assert (x.camera.width, x.camera.height) == (y.camera.width, y.camera.height)
        for name, values in x.tensors().items():
            assert values.dtype == y.tensors()[name].dtype
            assert torch.equal(values, y.tensors()[name])


def test_encoding_is_close_to_what_went_in(around):
    gen = torch.Generator().manual_seed(0)
    rgb, disparity, confidence = (torch.rand(6, 8, c, generator=gen) for c in (3, 1, 1))
    encoded = GeneratedFrame.encode(around[0], rgb, 700 * disparity, confidence, provenance())
    assert (encoded.image() - rgb).abs().max() <= 0.5 / 255 + 1e-6
    assert (encoded.confidence_map() - confidence).abs().max() <= 0.5 / 255 + 1e-6
    torch.testing.assert_close(encoded.disparity_map(), disparity / disparity.max(), rtol=1e-3, atol=1e-6)
    assert encoded.rgb.dtype == encoded.confidence.dtype == torch.uint8


def test_what_is_not_finite_is_not_believed(around):
    rgb, disparity, confidence = torch.full((4, 4, 3), 0.5), torch.ones(4, 4, 1), torch.ones(4, 4, 1)
    rgb[0, 0, 1], disparity[1, 1], disparity[1, 2], confidence[2, 2] = float("nan"), float("inf"), -3.0, float("nan")
    encoded = GeneratedFrame.encode(around[0], rgb, disparity, confidence, provenance())
    assert encoded.confidence_map()[0, 0] == encoded.confidence_map()[2, 2] == 0
    assert encoded.disparity_map()[1, 1] == encoded.disparity_map()[1, 2] == 0
    assert encoded.confidence_map().sum() == 14
    empty = GeneratedFrame.encode(around[0], rgb, 0 * torch.ones(4, 4, 1), confidence, provenance())
    assert empty.disparity_map().abs().max() == 0


def test_pool_is_bounded_and_the_lightest_then_oldest_leave(around):
    pool = GeneratedViews(capacity=4)
    assert pool.admit(frame(around[i], i) for i in range(3)) == (3, 0, 0, 0)
    assert pool.admit([frame(around[3], 3, weight=0.5), frame(around[4], 4), frame(around[5], 5)]) == (3, 0, 0, 2)
    assert [f.provenance.frame for f in pool.frames] == [1, 2, 4, 5]
    assert [f.id for f in pool.frames] == [1, 2, 4, 5]
    pool.admit([frame(around[6], 6)])
    assert [f.id for f in pool.frames] == [2, 4, 5, 6]


def moved(camera, distance: float, degrees: float = 0.0):
    turn = torch.eye(4)
    angle = torch.tensor(math.radians(degrees))
    turn[0, 0] = turn[2, 2] = angle.cos()
    turn[0, 2], turn[2, 0] = angle.sin(), -angle.sin()
    turn[0, 3] = distance
    return dataclasses.replace(camera, w2c=turn @ camera.w2c)


@pytest.mark.parametrize(
    ("distance", "degrees", "alike"), [(0, 0, True), (0.09, 0, True), (0, 4, True), (0.11, 0, False), (0, 6, False)]
)
def test_of_two_like_views_the_one_that_agrees_better_stays(around, distance, degrees, alike):
    for agreement, newer_wins in ((0.55, False), (0.65, True), (0.9, True)):
        pool = GeneratedViews(capacity=9)
        pool.admit([dataclasses.replace(frame(around[0], 1), agreement=0.7), frame(around[1], 2)])
        new = dataclasses.replace(frame(moved(around[0], distance, degrees), 3), agreement=agreement)
        found = pool.admit([new], unit=2.0)
        assert found == ((1, 0, 0, 0) if not alike else (1, 0, 1, 0) if newer_wins else (0, 1, 0, 0))
        left = [f.provenance.frame for f in pool.frames]
        assert left == ([1, 2, 3] if not alike else [2, 3] if newer_wins else [1, 2])


def test_frames_of_one_round_never_push_each_other_out(around):
    pool = GeneratedViews(capacity=9)
    assert pool.admit([frame(around[0], i) for i in range(3)]) == (3, 0, 0, 0)
    assert pool.admit([frame(around[0], i) for i in range(3, 8)]) == (5, 0, 3, 0)


def test_what_weighs_next_to_nothing_does_not_enter(around):
    pool = GeneratedViews(capacity=9)
    assert pool.admit([frame(around[0], 0, weight=0.01), frame(around[1], 1, weight=0.03)]) == (1, 1, 0, 0)
    assert [f.provenance.frame for f in pool.frames] == [1]


def test_of_a_full_pool_the_lightest_leaves_and_among_equals_the_oldest(around):
    pool = GeneratedViews(capacity=3)
    pool.admit([frame(around[0], 0), frame(around[1], 1, weight=0.5), frame(around[2], 2)])
    assert pool.admit([frame(around[3], 3)]) == (1, 0, 0, 1)
    assert [f.provenance.frame for f in pool.frames] == [0, 2, 3]
    assert pool.admit([frame(around[4], 4)]) == (1, 0, 0, 1)
    assert [f.provenance.frame for f in pool.frames] == [2, 3, 4]


def test_a_rounds_frames_can_lose_weight_or_leave(around):
    pool = GeneratedViews(capacity=9)
    second = dataclasses.replace(frame(around[1], 1), provenance=provenance(round=2))
    pool.admit([frame(around[0], 0), second])
    assert pool.reweigh(round=2, factor=0.5) == 0
    assert [f.weight for f in pool.frames] == [1, 0.5]
    assert pool.reweigh(round=2, factor=0.0) == 1
    assert [f.provenance.round for f in pool.frames] == [1]


def test_pick_follows_from_seed_and_step(around):
    pool = GeneratedViews(capacity=10)
    pool.admit(frame(around[0], i) for i in range(5))
    picked = [pool.pick(seed=1, step=k).id for k in range(100, 110)]
    assert picked == [pool.pick(seed=1, step=k).id for k in range(100, 110)]
    assert Counter(picked) == Counter([*range(5)] * 2)
    assert picked != [pool.pick(seed=2, step=k).id for k in range(100, 110)]
    with pytest.raises(ValueError, match="at least one"):
        GeneratedViews(capacity=1).pick(0, 0)


def test_state_dict_survives_a_checkpoint(around, tmp_path):
    pool = GeneratedViews(capacity=3)
    pool.admit(frame(around[i], i, weight=0.1 * i + 0.1) for i in range(5))
    torch.save(pool.state_dict(), tmp_path / "pool.pt")
    other = GeneratedViews(capacity=1)
    other.load_state_dict(torch.load(tmp_path / "pool.pt", weights_only=True))
    assert_equal(pool, other)


def test_folder_round_trip_and_clean_up(around, tmp_path):
    pool = GeneratedViews(capacity=3)
    pool.admit(frame(around[i], i) for i in range(3))
    pool.save(tmp_path / "views")
    assert_equal(pool, GeneratedViews.load(tmp_path / "views"))
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "views").glob("*.safetensors")}
    pool.admit([frame(around[3], 3)])
    pool.save(tmp_path / "views")
    assert_equal(pool, GeneratedViews.load(tmp_path / "views"))
    files = sorted(path.name for path in (tmp_path / "views").iterdir())
    assert len(files) == 4
    assert sum(times.get(path.name) == path.stat().st_mtime_ns for path in (tmp_path / "views").iterdir()) == 2
    record = json.loads((tmp_path / "views" / "pool.json").read_text())["frames"][0]
    assert record["provenance"] == {
        "repairer": "identity",
        "fingerprint": "",
        "trajectory": "orbit",
        "seed": 3,
        "round": 1,
        "step": 2000,
        "clip": 0,
        "frame": 1,
    }


def test_saving_another_history_over_the_same_numbers(around, tmp_path):
    # a run resumed from an earlier step numbers its frames anew, with other content
    first, second = GeneratedViews(capacity=3), GeneratedViews(capacity=3)
    first.admit([frame(around[0], 1)])
    second.admit([frame(around[0], 2)])
    first.save(tmp_path)
    second.save(tmp_path)
    assert_equal(second, GeneratedViews.load(tmp_path))


@pytest.mark.parametrize("damage", ["no folder", "no index", "bad index", "no frame", "half a frame"])
def test_damage_is_a_message(around, tmp_path, damage):
    folder = tmp_path / "views"
    pool = GeneratedViews(capacity=3)
    pool.admit([frame(around[0])])
    if damage != "no folder":
        pool.save(folder)
    file = next(folder.glob("*.safetensors"), None)
    if damage == "no index":
        (folder / "pool.json").unlink()
    elif damage == "bad index":
        (folder / "pool.json").write_text('{"frames": [{"file": 3}]}')
    elif damage == "no frame":
        file.unlink()
    elif damage == "half a frame":
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="holds no readable pool of generated views"):
        GeneratedViews.load(folder)


def test_index_cannot_point_outside_its_folder(around, tmp_path):
    pool = GeneratedViews(capacity=3)
    pool.admit([frame(around[0])])
    pool.save(tmp_path / "a")
    pool.save(tmp_path / "b")
    index = json.loads((tmp_path / "b" / "pool.json").read_text())
    index["frames"][0]["file"] = "../a/" + index["frames"][0]["file"]
    (tmp_path / "b" / "pool.json").write_text(json.dumps(index))
    next((tmp_path / "b").glob("*.safetensors")).unlink()
    with pytest.raises(UserError):
        GeneratedViews.load(tmp_path / "b")


WRITER = """
import sys, torch
from pathlib import Path
from genfusion_ns.cameras import Camera
from genfusion_ns.loop.view_buffer import GeneratedFrame, GeneratedViews, Provenance
pool, number = GeneratedViews(capacity=5), 0
camera = Camera(torch.eye(4), torch.eye(3), 64, 64)
while True:
    value = torch.full((64, 64, 1), (number % 200) / 255)
    origin = Provenance("identity", "", "orbit", 0, number, number, 0, 0)
    pool.admit([GeneratedFrame.encode(camera, value.expand(64, 64, 3), value + 1, value, origin) for _ in range(3)])
    pool.save(Path(sys.argv[1]))
    number += 1
    if number == 2:
        sys.stdout.write("ready")
        sys.stdout.flush()
"""


@pytest.mark.slow
def test_killed_while_writing(tmp_path):
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)
        assert process.stdout.read(5) == b"ready"
        time.sleep(0.003 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        pool = GeneratedViews.load(folder)
        assert len(pool) == 3  # all show one view: each round replaces the one before
        for each in pool.frames:
            assert (each.rgb == each.provenance.step % 200).all()
