"""Deciding, from names and shapes alone, what becomes of every tensor of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from diffusion.convert import clip, resampler, unet, vae
from diffusion.convert.pieces import NetworkPlan, Shape, Shapes

# Leftovers that sampling never uses: what they are -> names. The first pattern that matches counts.
LEFTOVERS = {
    "noise schedule (recomputed in float32)": (
        r"(betas|alphas_cumprod|alphas_cumprod_prev|sqrt_alphas_cumprod|sqrt_one_minus_alphas_cumprod"
        r"|log_one_minus_alphas_cumprod|sqrt_recip_alphas_cumprod|sqrt_recipm1_alphas_cumprod"
        r"|posterior_variance|posterior_log_variance_clipped|posterior_mean_coef[12]|scale_arr"
        r"|lvlb_weights|logvar|ddim_sigmas|ddim_alphas|ddim_alphas_prev|ddim_sqrt_one_minus_alphas)"
    ),
    "moving average of the weights": r"model_ema\..*",
    "text encoder (GenFusion has no prompt)": r"cond_stage_model\..*",
    "text half of the image encoder": (
        r"embedder\.model\.(positional_embedding|text_projection|logit_scale|attn_mask"
        r"|token_embedding\.\w+|ln_final\.\w+|transformer\..*)"
    ),
    "image encoder's projection to the joint space": r"embedder\.model\.visual\.proj",
    "image normalisation constants": r"embedder\.(mean|std)",
    "attention masks": r".*\.attn_mask",
    "autoencoder's training loss": r"first_stage_model\.loss\..*",
    "relative positions": r".*\.relative_position_index",
}

LISTED = 10


@dataclass(frozen=True)
class Hints:
    """What the tensors do not tell; None = as in the official networks."""

    clip_heads: int | None = None
    resampler_head_width: int | None = None
    ignore: tuple[str, ...] = ()
    """Patterns (`fnmatch`) of names that are left out where nothing uses them."""


@dataclass
class Problems:
    """Why a checkpoint does not fit, by the checkpoint's names (missing: by the converted name)."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def report(self) -> str:
        """All names, one per line."""
        lines = []
        for title, names in vars(self).items():
            lines += [f"{title} ({len(names)}):", *(f"  {name}" for name in names), ""]
        return "\n".join(lines)

    def summary(self) -> str:
        """The first names of each kind, and the likely cause; one paragraph."""
        parts = []
        for title, names in vars(self).items():
            if names:
                more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
                parts.append(f"{len(names)} {title}: {', '.join(names[:LISTED])}{more}")
        return "; ".join(parts) + f". {self._cause()}"

    def _cause(self) -> str:
        if self.misshapen or (self.missing and self.unexpected):
            cause = "another family or version of model; expected GenFusion's or DynamiCrafter's file"
        elif self.missing:
            cause = "an incomplete file, or one that holds only the trained part; expected all of it"
        else:
            cause = "a derived model with parts of its own; convert the original file, or --ignore their names"
        return f"Likely cause: {cause}."


@dataclass
class Plan:
    """What becomes of every tensor of a checkpoint."""

    networks: list[NetworkPlan]
    ignored: dict[str, list[str]]
    """Kind of leftover -> names."""


def make_plan(shapes: Mapping[str, Shape], hints: Hints) -> Plan:
    """Plan the conversion of a checkpoint.

    Args:
        shapes: name -> shape of every tensor of the checkpoint.
        hints: see there.

    Raises:
        UserError: for a checkpoint that lacks a network, or whose sizes make none.
    """
    networks = [
        unet.plan_unet(Shapes(shapes, unet.PREFIX, "UNet")),
        resampler.plan_resampler(Shapes(shapes, resampler.PREFIX, "resampler"), head_width=hints.resampler_head_width),
        clip.plan_image_encoder(Shapes(shapes, clip.PREFIX, "image encoder"), heads=hints.clip_heads),
        vae.plan_vae(Shapes(_without_leftovers(shapes), vae.PREFIX, "autoencoder")),
    ]
    used = set().union(*(network.sources() for network in networks))
    ignored: dict[str, list[str]] = {}
    for name in shapes:
        kind = leftover_kind(name)
        if kind is None and any(fnmatchcase(name, pattern) for pattern in hints.ignore):
            kind = "ignored as asked"
        if kind is not None and name not in used:
            ignored.setdefault(kind, []).append(name)
    return Plan(networks, ignored)


def find_problems(plan: Plan, shapes: Mapping[str, Shape]) -> Problems:
    """Compare what the networks expect with the shapes that the checkpoint holds."""
    problems = Problems()
    accounted = {name for names in plan.ignored.values() for name in names}
    for network in plan.networks:
        expected = {name: tuple(tensor.shape) for name, tensor in network.model.state_dict().items()}
        problems.missing += [f"{network.folder}/{name}" for name in expected if name not in network.pieces]
        own = Shapes(shapes, network.prefix, network.folder)
        for target, piece in network.pieces.items():
            if target not in expected:
                problems.unexpected.append(network.prefix + piece.source)
                continue
            found = piece.shape(own)
            if found != expected[target]:
                name = network.prefix + piece.source
                problems.misshapen.append(f"{name} {list(found)} (expected {list(expected[target])})")
        accounted |= network.sources()
    problems.unexpected = sorted(set(shapes) - accounted | set(problems.unexpected))
    return problems


def leftover_kind(name: str) -> str | None:
    """What kind of known leftover a tensor is; None if it is none."""
    return next((kind for kind, pattern in LEFTOVERS.items() if re.fullmatch(pattern, name)), None)


def _without_leftovers(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {name: shape for name, shape in shapes.items() if leftover_kind(name) is None}
