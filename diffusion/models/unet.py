"""The denoiser: diffusers' text-to-video UNet with an fps embedding and a split spatial cross-attention."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401 (diffusers looks it up here to load a pipeline)
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel, UNet3DConditionOutput
from torch import Tensor

from diffusion.models.attention import SplitCrossAttention, add_image_projections


class TimeAndFpsEmbedding(TimestepEmbedding):
    """Time embedding plus a second embedding, of the frame rate: both map a sinusoid [B, C] to [B, 4C].

    diffusers' UNet hands its `timestep_cond` argument to the time embedding as `condition`, which is how the
    frame rate's sinusoid gets here without a copy of the UNet's forward pass.
    """

    def __init__(self, in_channels: int, time_embed_dim: int) -> None:
        super().__init__(in_channels, time_embed_dim)
        self.fps_embedding = TimestepEmbedding(in_channels, time_embed_dim)

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        out = super().forward(sample)
        return out if condition is None else out + self.fps_embedding(condition)


class RGBDVideoUNet(UNet3DConditionModel):
    """Denoises a clip's latents, given the latents of its renderings (on channels) and image tokens (attention).

    The defaults are the official GenFusion network's: 1 438 854 980 parameters, in 1516 tensors.

    Args:
        in_channels: channels of `sample`: noisy latent, the renderings' latent, and any further conditions.
        out_channels: latent channels.
        down_block_types, up_block_types, block_out_channels, layers_per_block, norm_num_groups: as in
            `UNet3DConditionModel`.
        cross_attention_dim: width of the context tokens.
        attention_head_dim: width of one attention head, everywhere.
        context_split: number of leading context tokens that pass through `to_k`/`to_v`, the others passing
            through `to_k_ip`/`to_v_ip`; None = one pair of projections for all of them.
        tokens_per_frame: the second part of the context is dealt out frame by frame, this many tokens each,
            when its length is exactly this times the number of frames (original DynamiCrafter); None = never.
        default_fps: the frame rate that is assumed when none is given.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 8,
        out_channels: int = 4,
        down_block_types: tuple[str, ...] = ("CrossAttnDownBlock3D",) * 3 + ("DownBlock3D",),
        up_block_types: tuple[str, ...] = ("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 3,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        cross_attention_dim: int = 1024,
        attention_head_dim: int = 64,
        context_split: int | None = 77,
        tokens_per_frame: int | None = 16,
        default_fps: int = 30,
    ) -> None:
        # Unwrapped, because the parent's decorator would add arguments to the configuration that this class lacks.
        inspect.unwrap(UNet3DConditionModel.__init__)(
            self,
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            cross_attention_dim=cross_attention_dim,
            attention_head_dim=attention_head_dim,
        )
        self.time_embedding = TimeAndFpsEmbedding(block_out_channels[0], 4 * block_out_channels[0])
        self._cross_attention = SplitCrossAttention(context_split, tokens_per_frame)
        # The temporal transformers attend to their own frames in both places, so these are the spatial ones.
        for module in list(self.modules()):
            if isinstance(module, Attention) and module.is_cross_attention:
                if context_split is not None:
                    add_image_projections(module)
                module.set_processor(self._cross_attention)  # pyright: ignore[reportArgumentType]

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        fps: Tensor | float | int | None = None,
        references: int = 1,
        return_dict: bool = True,
    ) -> UNet3DConditionOutput | tuple[Any, ...]:
        """Predict v for every frame.

        Args:
            sample: [B, in_channels, T, h, w], any T >= 1; noisy latents first, then the conditions.
            timestep: a number, or [B].
            encoder_hidden_states: [B, L, cross_attention_dim], the context of each clip.
            fps: a number, or [B]; None = `default_fps`.
            references: number of photos that the context describes, the first `context_split` tokens of each coming
                before the others of all; so the context is cut at this times `context_split`.

        Returns:
            `.sample` [B, out_channels, T, h, w], or a 1-tuple of it if not `return_dict`.
        """
        split = self.config.context_split  # pyright: ignore[reportAttributeAccessIssue]
        self._cross_attention.split = None if split is None else split * references
        self._cross_attention.num_frames = sample.shape[2]
        fps = self.config.default_fps if fps is None else fps  # pyright: ignore[reportAttributeAccessIssue]
        fps = torch.as_tensor(fps, device=sample.device).reshape(-1).expand(sample.shape[0])
        sinusoid = self.time_proj(fps).to(self.dtype)
        return super().forward(sample, timestep, encoder_hidden_states, timestep_cond=sinusoid, return_dict=return_dict)
