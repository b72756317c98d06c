"""What the benchmark claims of its rows: held-out photos and poses reach neither the first points, nor training, nor
the paths of novel views; and evaluation sees full frames."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from public_layouts import write_public_scene

from genfusion_ns.benchmark.metrics import held_out_metrics, held_out_views
from genfusion_ns.benchmark.row import Row, trainer_config
from genfusion_ns.loop import plan
from genfusion_ns.loop.supervision import gate
from genfusion_ns.plugin.datamanager import GenFusionDataManagerConfig
from genfusion_ns.plugin.dataparser import GenFusionDataParserConfig


def row(scene: Path, **changes: Any) -> Row:
    settings = {"split": "3", "method": "genfusion-classical", "max_num_iterations": 8, "width": 24, "seed": 3}
    return Row(str(scene), "room", "nerfstudio", **{**settings, **changes})


def tiny(config: Any) -> Any:
    """Two rounds in eight steps, few splats, and a world that does not depend on how the cameras lie: Nerfstudio turns
    and scales it by all cameras, which every published protocol allows."""
    data, model = config.pipeline.datamanager, config.pipeline.model
    parser = data.dataparser
    parser.orientation_method, parser.center_method, parser.auto_scale_poses = "none", "none", False
    data.reference_iterations = model.reference_iterations = 8
    data.max_seed_points, data.loop.frames, data.loop.clip_length = 150, 4, 2
    data.loop.start, data.loop.every, data.loop.until = 2, 3, 7
    config.logging.local_writer.enable = False
    return config


def spoil_held_out(scene: Path, split: str) -> None:
    """Give every photo that does not train other pixels and another pose."""
    train = json.loads((scene / f"train_test_split_{split}.json").read_text())["train_ids"]
    meta = json.loads((scene / "transforms.json").read_text())
    for i, frame in enumerate(meta["frames"]):
        if i in train:
            continue
        frame["transform_matrix"][0][3] += 5.0 + i
        path = scene / frame["file_path"]
        noise = np.random.default_rng(i).integers(0, 256, np.asarray(Image.open(path)).shape).astype(np.uint8)
        Image.fromarray(noise).save(path)
    (scene / "transforms.json").write_text(json.dumps(meta))
    (scene / "sparse_pc.ply").unlink()
    del meta["ply_file_path"]
    (scene / "transforms.json").write_text(json.dumps(meta))


def trained(config: Any) -> Any:
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return trainer.pipeline


@pytest.mark.slow
def test_held_out_photos_and_poses_change_nothing_but_the_metrics(scene, tmp_path, monkeypatch):
    """First points, paths, generated views and finished splats are the same to the last bit."""
    spoilt = Path(shutil.copytree(scene, tmp_path / "spoilt"))
    spoil_held_out(spoilt, "3")
    paths: list[list[torch.Tensor]] = []
    monkeypatch.setattr(plan, "make_path", _recorded(plan.make_path, paths))
    runs = [trained(tiny(trainer_config(row(folder), tmp_path / folder.name))) for folder in (scene, spoilt)]
    first, second = (run.datamanager.train_dataparser_outputs.metadata["points3D_xyz"] for run in runs)
    assert torch.equal(first, second) and len(first) == 150
    half = len(paths) // 2
    assert half >= 4 and all(torch.equal(a, b) for a, b in zip(paths[:half], paths[half:], strict=True))
    pools = [run.datamanager.loop_state.pool.frames for run in runs]
    assert len(pools[0]) == len(pools[1]) > 0
    assert all(torch.equal(a.rgb, b.rgb) for a, b in zip(*pools, strict=True))
    for name, values in runs[0].model.gauss_params.items():
        assert torch.equal(values, runs[1].model.gauss_params[name])
    good, bad = (held_out_metrics(run)["psnr"] for run in runs)
    assert good != bad


def _recorded(make_path, paths):
    def wrapped(*args, **kwargs):
        made = make_path(*args, **kwargs)
        paths.append(torch.stack([camera.w2c for camera in made]))
        return made

    return wrapped


def spoil_model(scene: Path, train: set[int]) -> None:
    """Move all points, and take away every observation in a held-out image."""
    model = scene / "sparse" / "0"
    lines = []
    for line in (model / "points3D.txt").read_text().splitlines():
        point, x, y, z, *rest = line.split()
        pairs = np.array(rest[4:]).reshape(-1, 2)
        kept = [value for pair in pairs if int(pair[0]) - 1 in train for value in pair]
        lines.append(" ".join([point, str(float(x) + 0.3), y, z, *rest[:4], *kept]))
    (model / "points3D.txt").write_text("\n".join(lines) + "\n")
    rows = (model / "images.txt").read_text().splitlines()
    for i in range(0, len(rows), 2):
        if i // 2 not in train:
            rows[i + 1] = " ".join(f"{value} {v} -1" for value, v, _ in np.array(rows[i + 1].split()).reshape(-1, 3))
    (model / "images.txt").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(("mode", "same"), [("tracks", True), ("random", True), ("official", False), ("all", False)])
def test_only_the_leaky_modes_see_where_held_out_photos_put_the_points(tmp_path, mode, same):
    plain, spoilt = (write_public_scene(tmp_path / name, factors=(1,)) for name in ("plain", "spoilt"))
    spoil_model(spoilt, {1, 5, 9})
    points = []
    for scene in (plain, spoilt):
        lists = {"train_ids": [1, 5, 9], "test_ids": [0, 2]}
        (scene / "train_test_split_3.json").write_text(json.dumps(lists))
        config = GenFusionDataManagerConfig(data=scene, initial_points=mode, max_seed_points=100)
        config.dataparser = GenFusionDataParserConfig(sparse_views=3)
        metadata = config.setup(device="cpu", test_mode="val").train_dataparser_outputs.metadata
        points.append(metadata["points3D_xyz"])
    assert (points[0].shape == points[1].shape and torch.equal(*points)) == same
    assert Row("", "", "", "3", "2dgs", None, None, 0, initial_points=mode).leaks == (not same)


@pytest.mark.slow
def test_masked_rows_train_on_windows_and_are_evaluated_on_full_frames(scene, tmp_path):
    config = tiny(trainer_config(row(scene, split="masked", method="2dgs", width=None), tmp_path))
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    views = trainer.pipeline.datamanager
    assert {tuple(data["image"].shape) for data in views.cached_train} == {(16, 24, 3)}
    seen = [
        (tuple(outputs["rgb"].shape), tuple(batch["image"].shape))
        for outputs, batch in held_out_views(trainer.pipeline)
    ]
    assert set(seen) == {((32, 48, 3), (32, 48, 3))} and len(seen) == 2
    assert held_out_metrics(trainer.pipeline)["views"] == 2
    names = [{path.name for path in part.image_filenames} for part in (views.train_dataset, views.eval_dataset)]
    assert not names[0] & names[1]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["-no-expansion", "-no-densifier", "-neither"])
def test_ablation_rows_train(scene, tmp_path, end, monkeypatch):
    config = tiny(trainer_config(row(scene, method=f"genfusion-identity{end}"), tmp_path))
    densifier = config.pipeline.model.densifier
    densifier.start, densifier.stop, densifier.every, densifier.reset_every = 1, 7, 2, 0
    densifier.grow_grad2d = 1e-7
    monkeypatch.setattr(gate, "TOLERANCE", 100.0)  # nothing is rolled back
    pipeline = trained(config)
    assert len(pipeline.datamanager.loop_state.reports) == 2
    assert pipeline.model.num_points > 150 or end == "-no-expansion"  # whose densifier waits for 50 views
    metrics = held_out_metrics(pipeline)
    assert metrics["views"] == 2 and np.isfinite(metrics["psnr"])
