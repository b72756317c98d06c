"""The bundled denoiser: a U-Net of convolutions over space and time, for what no photo shows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from torch import Tensor, nn


class LiteVideoUNet(ModelMixin, ConfigMixin):
    """Predicts v of a clip's latents as `RGBDVideoUNet` does, at a hundredth of its work.

    Each level has residual blocks over space with one convolution over time; the lowest one attends to the photos.

    Args:
        in_channels: channels of `sample`: noisy latent, the frames' latent, and any further conditions.
        out_channels: latent channels.
        block_out_channels: channels of the levels, each at half the size of the one before.
        layers_per_block: residual blocks of a level on the way down; on the way up there is one.
        cross_attention_dim: width of the context tokens.
        attention_head_dim: width of one attention head.
        norm_num_groups: of every group norm; divides every width.
        context_split: None, as all photos' tokens count alike.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 33,
        out_channels: int = 16,
        block_out_channels: tuple[int, ...] = (64, 96, 128),
        layers_per_block: int = 2,
        cross_attention_dim: int = 64,
        attention_head_dim: int = 32,
        norm_num_groups: int = 16,
        context_split: int | None = None,
    ) -> None:
        super().__init__()
        widths, groups = block_out_channels, norm_num_groups
        code = 4 * widths[0]
        self.sinusoid = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(widths[0], code)
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(TimedLevel(width, layers_per_block, code, groups) for width in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.photos = PhotoAttention(widths[-1], cross_attention_dim, attention_head_dim, groups)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.up = nn.ModuleList(TimedLevel(width, 1, code, groups) for width in widths[:-1])
        self.head = nn.Sequential(
            nn.GroupNorm(groups, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], out_channels, 3, padding=1)
        )
        for parameter in self.head[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        fps: Any = None,
        references: int = 1,
        return_dict: bool = True,
    ) -> UNet3DConditionOutput | tuple[Tensor]:
        """Predict v for every frame.

        Args:
            sample: [B, in_channels, T, h, w], any T >= 1; h and w multiples of 2 ** (levels - 1).
            timestep: a number, or [B].
            encoder_hidden_states: [B, L, cross_attention_dim], any L.
            fps, references: taken for the sake of `RGBDVideoUNet`'s interface; they change nothing.

        Returns:
            `.sample` [B, out_channels, T, h, w], or a 1-tuple of it if not `return_dict`.
        """
        batch, _, frames = sample.shape[:3]
        steps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(batch)
        code = self.time(self.sinusoid(steps).to(sample)).repeat_interleave(frames, 0)
        x = self.stem(sample.transpose(1, 2).flatten(0, 1))
        kept = []
        for i, level in enumerate(self.down):
            x = level(x, code, frames)
            if i < len(self.shrink):
                kept.append(x)
                x = self.shrink[i](x)
        x = self.photos(x, encoder_hidden_states, frames)
        for i in reversed(range(len(self.grow))):
            x = kept[i] + F.interpolate(self.grow[i](x), scale_factor=2, mode="nearest")
            x = self.up[i](x, code, frames)
        out = self.head(x).unflatten(0, (batch, frames)).transpose(1, 2)
        return UNet3DConditionOutput(sample=out) if return_dict else (out,)


class TimedLevel(nn.Module):
    """Residual blocks over space, the first followed by a convolution over time that begins at zero."""

    def __init__(self, width: int, blocks: int, code: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TimedBlock(width, code, groups) for _ in range(blocks))
        self.frames = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))
        for parameter in self.frames.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, code: Tensor, frames: int) -> Tensor:
        """[B * T, c, h, w] and timestep codes [B * T, code] -> [B * T, c, h, w]."""
        for i, block in enumerate(self.blocks):
            x = block(x, code)
            if i == 0 and frames > 1:
                clip = F.silu(x).unflatten(0, (-1, frames)).transpose(1, 2)
                x = x + self.frames(clip).transpose(1, 2).flatten(0, 1)
        return x


class TimedBlock(nn.Module):
    """x + two convolutions of it, scaled and shifted between them by the timestep (Dhariwal and Nichol 2021)."""

    def __init__(self, width: int, code: int, groups: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(groups, width) for _ in range(2))
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.code = nn.Linear(code, 2 * width)
        for parameter in self.layers[1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.code(F.silu(code))[..., None, None].chunk(2, 1)
        inner = self.layers[0](F.silu(self.norms[0](x)))
        return x + self.layers[1](F.silu(self.norms[1](inner) * (1 + scale) + shift))


class PhotoAttention(nn.Module):
    """Every position of every frame attends to the photos' tokens."""

    def __init__(self, width: int, tokens: int, head: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)
        self.attention = Attention(width, cross_attention_dim=tokens, heads=width // head, dim_head=head)

    def forward(self, x: Tensor, context: Tensor, frames: int) -> Tensor:
        """[B * T, c, h, w] and tokens [B, L, D] -> [B * T, c, h, w]."""
        height, width = x.shape[-2:]
        places = self.norm(x).flatten(2).transpose(1, 2)
        # the frames of a clip share their context, so their positions can stand in one row
        rows = places.unflatten(0, (-1, frames)).flatten(1, 2)
        attended = self.attention(rows, context.to(x)).unflatten(1, (frames, -1)).flatten(0, 1)
        return x + attended.transpose(1, 2).unflatten(2, (height, width))
