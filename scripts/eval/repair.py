"""How much nearer to the truth do repairers bring renderings? A table and contact sheets over stored fits.

    genfusion-train-stereo scenes --count 0 --no-fitted --captures data/llff_fern data/fox --output eval/scenes
    genfusion-make-fits --scenes eval/scenes --fits 8 --output eval/fits
    scripts/eval/repair.py --fits eval/fits --methods classical lite --output runs/eval_repair

Only novel views count: a photo that trained whole is none. "input" is always among the methods.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait cripple a busy machine

import numpy as np
import torch
import tyro
from PIL import Image
from repair_scores import Fid, frame_scores
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from diffusion.errors import UserError, exits_cleanly
from diffusion.inputs.source_views import PHOTOS, ClipCameras, warp_sources
from diffusion.models.fusion import TOLERANCE
from diffusion.train.fits import TrainingFit, read_fit
from genfusion_ns.benchmark.metrics import Perceptual
from genfusion_ns.files import write_atomic
from genfusion_ns.gaussians.losses import sharpness


@dataclass(frozen=True)
class Options:
    """Settings of the evaluation."""

    fits: tuple[Path, ...]
    """Folders of fits; each is a group of rows in the table."""
    methods: tuple[str, ...] = ("classical", "lite:fused", "lite")
    """Repairers: classical, or weights (a folder or a bundled name); with :fused behind them without the denoiser."""
    output: Path = Path("runs/eval_repair")
    """Folder of scores.json, table.md and the contact sheets (truth | input | method, side by side)."""
    fid_network: Path | None = None
    """TorchScript InceptionV3 for FID; without it FID is left out."""
    threads: int = 0
    """Of torch; 0 = its own choice. Seconds per clip depend on it."""


@dataclass(frozen=True)
class Clip:
    """The novel views of a fit after some steps."""

    name: str
    kind: str
    rgb: Tensor
    depth: Tensor
    alpha: Tensor
    warped: Tensor
    target: Tensor
    reference: Tensor


Repaired = tuple[Tensor, Tensor | None]
"""rgb [T, H, W, 3] in [0, 1] and certainty [T, H, W, 1], where the method has one."""


def clips_of(fit: TrainingFit, group: str, name: str) -> list[Clip]:
    """One clip for each number of steps."""
    novel = [i for i in range(len(fit.target_rgb)) if i not in fit.provenance["train"]]
    if not novel:
        return []
    cameras = ClipCameras(fit.cameras.w2c[novel], fit.cameras.K[novel])
    kind = "sparse" if str(fit.provenance["variant"]).startswith("sparse") else "masked"
    clips = []
    for s, steps in enumerate(fit.provenance["steps"]):
        depth = fit.render_depth[s][novel].float()
        clips.append(
            Clip(
                name=f"{name}@{steps}",
                kind=f"{group} {kind}",
                rgb=fit.render_rgb[s][novel].float() / 255,
                depth=depth,
                alpha=fit.render_alpha[s][novel].float() / 255,
                warped=warp_sources(cameras, depth, fit.sources[s], PHOTOS),
                target=fit.target_rgb[novel].float() / 255,
                reference=fit.sources[s][0].rgb,
            )
        )
    return clips


def make_method(name: str) -> Callable[[Clip], Repaired]:
    """What turns a clip's rendering into a repaired one."""
    if name == "input":
        return lambda clip: (clip.rgb, None)
    if name == "classical":
        from genfusion_ns.loop.repairers.classical import repair_clip

        return lambda clip: (repair_clip(clip.rgb, clip.depth, clip.alpha)[0], None)
    from diffusion.pipeline import RGBDVideoRepairPipeline

    weights, _, part = name.partition(":")
    given = {"unet": None} if part == "fused" else {}
    pipeline = RGBDVideoRepairPipeline.from_pretrained(weights, torch_dtype=torch.float32, **given)
    pipeline.set_progress_bar_config(disable=True)

    def repair(clip: Clip) -> Repaired:
        generator = torch.Generator().manual_seed(0)
        output = pipeline(clip.rgb, clip.depth, clip.alpha, clip.reference, clip.warped, generator=generator)
        return torch.as_tensor(output.rgb), None if output.certainty is None else torch.as_tensor(output.certainty)

    return repair


def score(method: Callable[[Clip], Repaired], clip: Clip, perceptual: Perceptual, fid: Fid | None) -> dict:
    """Scores of one clip: means over its frames."""
    began = time.perf_counter()
    image, certainty = method(clip)
    seconds = time.perf_counter() - began
    if fid is not None:
        fid.add(clip.target, real=True)
        fid.add(image, real=False)
    sharp = [sharpness(a) / max(sharpness(b), 1e-9) for a, b in zip(image, clip.target, strict=True)]
    row = {"name": clip.name, "kind": clip.kind, **frame_scores(image, clip.target, perceptual)}
    row |= {"sharpness": float(np.mean(sharp)), "seconds": seconds}
    if certainty is not None:
        row["calibration"] = calibration(image, clip.target, certainty)
    return row


def calibration(image: Tensor, target: Tensor, certainty: Tensor) -> list[tuple[float, float, float]]:
    """For pixels of certainty 0 to .2, .2 to .4 and so on: their share, mean certainty, and the share of them whose
    colour is right within the network's tolerance."""
    right = ((image - target).abs().mean(-1, keepdim=True) < TOLERANCE).float()
    bins = (certainty * 5).long().clamp(0, 4)
    rows = []
    for i in range(5):
        mine = bins == i
        count = float(mine.float().sum())
        means = [float((x * mine).sum()) / max(count, 1) for x in (certainty, right)]
        rows.append((count / mine.numel(), *means))
    return rows


def draw_sheet(clip: Clip, image: Tensor, path: Path) -> None:
    """Four frames at native size, a row each: truth | input | repaired."""
    rows = []
    for i in np.linspace(0, len(image) - 1, 4).round().astype(int):
        rows.append(torch.cat([clip.target[i], clip.rgb[i], image[i]], dim=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((torch.cat(rows).clamp(0, 1).numpy() * 255).round().astype(np.uint8)).save(path)


SCORES = ("psnr", "gain", "worst", "ssim", "lpips", "worst_lpips", "sharpness", "seconds")
"""`gain` is the PSNR above the input's; `worst` the smallest gain of a clip, `worst_lpips` the largest ratio to the
input's LPIPS."""


def summary(scores: dict[str, list[dict]]) -> dict[str, dict[str, dict[str, float]]]:
    """Means {kind: {method: {score: value}}}."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method, rows in scores.items():
        for kind in sorted({row["kind"] for row in rows}):
            pairs = [(a, b) for a, b in zip(rows, scores["input"], strict=True) if a["kind"] == kind]
            means = {name: float(np.mean([a[name] for a, _ in pairs])) for name in SCORES if name in pairs[0][0]}
            gains = [a["psnr"] - b["psnr"] for a, b in pairs]
            means |= {"gain": float(np.mean(gains)), "worst": min(gains), "clips": len(pairs)}
            if "lpips" in means:
                means["worst_lpips"] = max(a["lpips"] / max(b["lpips"], 1e-9) for a, b in pairs)
            found.setdefault(kind, {})[method] = means
    return found


def markdown(table: dict[str, dict[str, dict[str, float]]]) -> str:
    """The summary for a document."""
    lines = [f"| kind (clips) | method | {' | '.join(SCORES)} |", "|" + "---|" * (len(SCORES) + 2)]
    for kind, methods in table.items():
        for method, means in methods.items():
            lines.append(f"| {kind} ({int(means['clips'])}) | {method} | {' | '.join(_cells(means))} |")
    return "\n".join(lines) + "\n"


def _cells(means: dict[str, float]) -> list[str]:
    return ["" if name not in means else f"{means[name]:.3f}" for name in SCORES]


def read_clips(folders: Sequence[Path]) -> list[Clip]:
    """The clips of all fits in some folders. Raises UserError if there are none."""
    clips = [
        clip
        for folder in folders
        for path in sorted(folder.glob("*.safetensors"))
        for clip in clips_of(read_fit(path), path.stem.split("_fit")[0], path.stem)
    ]
    if not clips:
        raise UserError(f"{', '.join(map(str, folders))}: no fits; make some with genfusion-make-fits")
    return clips


@exits_cleanly
def main(options: Options) -> None:
    """Evaluate every method on every clip."""
    if options.threads:
        torch.set_num_threads(options.threads)
    console, perceptual = Console(), Perceptual(("alex",))
    clips = read_clips(options.fits)
    scores: dict[str, list[dict]] = {}
    for name in ("input", *options.methods):
        method = make_method(name)
        fid = Fid(options.fid_network) if options.fid_network else None
        scores[name] = [score(method, clip, perceptual, fid) for clip in track(clips, name, console=console)]
        if name != "input":
            for clip in clips:
                sheet = f"{clip.name}_{Path(name).name}.png".replace(":", "-")
                draw_sheet(clip, method(clip)[0], options.output / "sheets" / sheet)
        if fid is not None:
            console.print(f"FID of {name} over {len(clips)} clips: {fid.value():.1f}")
        calibrated = [row["calibration"] for row in scores[name] if "calibration" in row]
        if calibrated:
            console.print(f"certainty of {name} (share of pixels, mean certainty, share right):")
            console.print(np.mean(calibrated, axis=0).round(3).tolist())
    table = summary(scores)
    shown = Table("kind", "method", *SCORES, title="repair of single clips, means")
    for kind, methods in table.items():
        for name, means in methods.items():
            shown.add_row(f"{kind} ({int(means['clips'])})", name, *_cells(means))
    console.print(shown)
    write_atomic(options.output / "scores.json", json.dumps({"clips": scores, "means": table}, indent=1).encode())
    write_atomic(options.output / "table.md", markdown(table).encode())
    console.print(f"scores and contact sheets are in {options.output}")


if __name__ == "__main__":
    main(tyro.cli(Options))
