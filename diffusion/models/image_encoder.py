"""The image encoder: transformers' CLIP vision tower, of which all tokens are used."""

from __future__ import annotations

from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel


def open_clip_vision_config(
    width: int = 1280,
    layers: int = 32,
    heads: int = 16,
    patch_size: int = 14,
    image_size: int = 224,
    mlp_width: int = 5120,
) -> CLIPVisionConfig:
    """Configuration of an OpenCLIP vision tower (exact GELU); the defaults are ViT-H/14, the official encoder.

    Args:
        width: channels of the tokens.
        layers: number of transformer blocks.
        heads: attention heads per block; `width` must be divisible by it.
        patch_size: side of a patch, in pixels.
        image_size: side of the square input, in pixels.
        mlp_width: channels inside the feed-forward layers.
    """
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=mlp_width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        patch_size=patch_size,
        image_size=image_size,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
    )


def image_tokens(encoder: CLIPVisionModel, pixels: Tensor) -> Tensor:
    """CLIP-normalised images [B, 3, S, S] -> all tokens after the last block, [B, 1 + (S / patch)^2, width].

    transformers takes `last_hidden_state` before the final layer norm (which it applies to the pooled token
    alone), and that is where the official code takes its tokens.
    """
    return encoder(pixel_values=pixels).last_hidden_state
