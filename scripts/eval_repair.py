"""How much nearer to the truth do repairers bring renderings? Tables, plots and contact sheets over stored pairs.

    scripts/eval_repair.py --pairs val_pairs test_pairs --methods classical lite-small --output runs/eval_repair

Pairs come from genfusion-make-pairs; see the README for the two commands. "input" is always among the methods.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait cripple a busy machine

import numpy as np
import torch
import tyro
from held_out import Perceptual
from PIL import Image
from repair_scores import Fid, depth_error, flicker, frame_scores
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from diffusion.errors import exits_cleanly
from diffusion.train.shards import ClipRef, Pair, load_pair
from diffusion.train.trainer import find_pairs
from diffusion.train.validate import spread
from genfusion_ns.files import write_atomic

Repaired = tuple[Tensor, Tensor]
"""rgb [T, H, W, 3] in [0, 1] and disparity [T, H, W, 1], 0 = unknown."""


@dataclass(frozen=True)
class Options:
    """Settings of the evaluation."""

    pairs: tuple[Path, ...]
    """Folders of pairs; each is a group of rows in the table."""
    methods: tuple[str, ...] = ("classical", "lite-small")
    """Repairers: classical, or weights (a folder or a bundled name), with @N for N steps of the sampler and ~S for a
    start from the noised rendering of strength S, as in lite-small@4~0.8."""
    output: Path = Path("runs/eval_repair")
    """Folder of scores.json, table.md, gains.png and the contact sheets."""
    clips: int = 0
    """Clips per folder, evenly spread; 0 = all."""
    lpips: bool = True
    """Measure LPIPS, where its networks are at hand (TORCH_HOME)."""
    fid_network: Path | None = None
    """TorchScript InceptionV3 for FID; without it FID is left out."""
    threads: int = 0
    """Of torch; 0 = its own choice. Seconds per clip depend on it."""


def make_method(name: str) -> Callable[[Pair], Repaired]:
    """What turns a pair's rendering into a repaired clip."""
    if name == "input":
        return lambda pair: (pair.render_rgb.float() / 255, _disparity(pair.render_depth.float()))
    if name == "classical":
        return _classical
    from diffusion.pipeline import RGBDVideoRepairPipeline
    from diffusion.train.validate import repair_output

    weights, _, strength = name.partition("~")
    weights, _, steps = weights.partition("@")
    pipeline = RGBDVideoRepairPipeline.from_pretrained(weights, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    options = {"steps": int(steps) if steps else None, "strength": float(strength) if strength else 1.0}
    return lambda pair: repair_output(pipeline, pair, **options)


def _classical(pair: Pair) -> Repaired:
    from genfusion_ns.loop.classical import repair_clip

    return repair_clip(pair.render_rgb.float() / 255, pair.render_depth, pair.render_alpha.float() / 255)[:2]


def _disparity(depth: Tensor) -> Tensor:
    return torch.where(depth > 0, 1 / depth.clamp_min(1e-6), 0.0)


def kind_of(ref: ClipRef) -> str:
    """Scene's source and kind of variant: the table's row."""
    facts = ref.provenance
    variant = str(facts.get("variant", "?"))
    kind = "sparse" if variant.startswith("sparse") else "masked"
    return f"{facts.get('source', '?')} {kind}"


@exits_cleanly
def main(options: Options) -> None:
    """Evaluate every method on every clip."""
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console()
    perceptual = Perceptual() if options.lpips else None
    refs = [ref for folder in options.pairs for ref in chosen_clips(folder, options.clips)]
    scores: dict[str, list[dict]] = {}
    for name in ("input", *options.methods):
        method = make_method(name)
        fid = Fid(options.fid_network) if options.fid_network else None
        rows = []
        for index, ref in enumerate(track(refs, description=name, console=console)):
            rows.append(
                score_clip(method, ref, perceptual, fid, options.output / "sheets" / f"{index:04d}_{_file(name)}.png")
            )
        scores[name] = rows
        if fid is not None:
            console.print(f"FID of {name} over {len(refs)} clips: {fid.value():.1f}")
    table = summary(scores)
    console.print(table_of(table))
    found = json.dumps({"clips": scores, "means": table}, indent=1)
    write_atomic(options.output / "scores.json", found.encode())
    write_atomic(options.output / "table.md", markdown(table).encode())
    _plot(scores, options.output / "gains.png")
    console.print(f"scores, plot and contact sheets are in {options.output}")


def novel_frames(ref: ClipRef) -> list[int]:
    """Numbers of a clip's frames that are novel views: a photo that trained whole is none."""
    return [i for i in range(ref.frames) if i not in ref.provenance.get("captured", ())]


def chosen_clips(folder: Path, count: int) -> list[ClipRef]:
    """`count` clips with a novel view of a folder of pairs, evenly spread; 0 = all."""
    refs = [ref for ref in find_pairs(folder) if novel_frames(ref)]
    return spread(refs, count) if count else refs


def score_clip(
    method: Callable[[Pair], Repaired],
    ref: ClipRef,
    perceptual: Perceptual | None = None,
    fid: Fid | None = None,
    sheet: Path | None = None,
) -> dict:
    """Scores of one clip's novel views, and, at `sheet`, what they look like."""
    pair = load_pair(ref)
    target = pair.target_rgb.float() / 255
    began = time.perf_counter()
    image, disparity = method(pair)
    seconds = time.perf_counter() - began
    novel = novel_frames(ref)
    if fid is not None:
        fid.add(target[novel], real=True)
        fid.add(image[novel], real=False)
    if sheet is not None:
        _draw_sheet([pair.render_rgb.float() / 255, image, target], sheet)
    return {
        "kind": kind_of(ref),
        "scene": str(ref.provenance.get("scene")),
        "variant": str(ref.provenance.get("variant")),
        **frame_scores(image[novel], target[novel], perceptual),
        "depth_error": depth_error(disparity[novel], pair.target_depth[novel].float()),
        "flicker": flicker(image, target),
        "seconds": seconds,
    }


def _draw_sheet(clips: list[Tensor], path: Path) -> None:
    """Four frames of some clips [T, H, W, 3] in [0, 1], a clip in each row."""
    chosen = np.linspace(0, len(clips[0]) - 1, 4).round().astype(int)
    rows = [torch.cat(list(clip[chosen]), dim=1) for clip in clips]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((torch.cat(rows).clamp(0, 1).numpy() * 255).round().astype(np.uint8)).save(path)


SCORES = ("psnr", "gain", "worst_scene", "ssim", "lpips", "lpips_vgg", "depth_error", "flicker", "seconds")


def summary(scores: dict[str, list[dict]]) -> dict[str, dict[str, dict[str, float]]]:
    """Means {kind: {method: {score: value}}}; `gain` is the PSNR above the input's, `worst_scene` the smallest gain of
    a scene."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for method, rows in scores.items():
        for kind in sorted({row["kind"] for row in rows}):
            chosen = [i for i, row in enumerate(rows) if row["kind"] == kind]
            gains = defaultdict(list)
            for i in chosen:
                gains[rows[i]["scene"]].append(rows[i]["psnr"] - scores["input"][i]["psnr"])
            means = {s: _mean([rows[i][s] for i in chosen]) for s in SCORES if s in rows[chosen[0]]}
            means["gain"] = _mean([g for scene in gains.values() for g in scene])
            means["worst_scene"] = min(_mean(scene) for scene in gains.values())
            found[kind][method] = means | {"clips": len(chosen), "scenes": len(gains)}
    return dict(found)


def _mean(values: list[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else float("nan")


def _cells(means: dict[str, float]) -> list[str]:
    return ["" if name not in means else f"{means[name]:.3f}" for name in SCORES]


def table_of(table: dict[str, dict[str, dict[str, float]]]) -> Table:
    """The summary for a terminal."""
    shown = Table(title="repair of single clips, means")
    for name in ("kind", "method", *SCORES):
        shown.add_column(name)
    for kind, methods in table.items():
        for method, means in methods.items():
            shown.add_row(f"{kind} ({int(means['clips'])})", method, *_cells(means))
    return shown


def markdown(table: dict[str, dict[str, dict[str, float]]]) -> str:
    """The summary for a document."""
    lines = [f"| kind (clips) | method | {' | '.join(SCORES)} |", "|" + "---|" * (len(SCORES) + 2)]
    for kind, methods in table.items():
        for method, means in methods.items():
            lines.append(f"| {kind} ({int(means['clips'])}) | {method} | {' | '.join(_cells(means))} |")
    return "\n".join(lines) + "\n"


def _plot(scores: dict[str, list[dict]], path: Path) -> None:
    """PSNR of every clip after against before."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    before = [row["psnr"] for row in scores["input"]]
    figure, axes = plt.subplots(figsize=(5, 5))
    for method, rows in scores.items():
        if method != "input":
            axes.scatter(before, [row["psnr"] for row in rows], s=10, label=method)
    axes.plot(axes.get_xlim(), axes.get_xlim(), "k--", linewidth=0.8)
    axes.set(xlabel="PSNR of the rendering, dB", ylabel="PSNR after repair, dB")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _file(name: str) -> str:
    return Path(name.replace("@", "-").replace("~", "-")).name


if __name__ == "__main__":
    main(tyro.cli(Options))
