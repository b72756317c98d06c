"""The resampler: turns image tokens of any number into a fixed number of context tokens."""

from __future__ import annotations

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from diffusers.models.modeling_utils import ModelMixin


class Resampler(IPAdapterPlusImageProjection, ModelMixin, ConfigMixin):
    """diffusers' perceiver resampler, with `save_pretrained` and `from_pretrained`.

    Maps tokens [B, N, embed_dims] of any number N to [B, num_queries, output_dims].

    The defaults are the official GenFusion network's (48 787 456 parameters). `heads * dim_head` need not
    equal `hidden_dims`.

    Args:
        embed_dims: width of the image tokens.
        output_dims: width of the context tokens.
        hidden_dims: width of the learned queries and of the layers.
        depth: number of layers.
        dim_head: width of one attention head.
        heads: number of attention heads.
        num_queries: number of context tokens for one image.
        ffn_ratio: width of the feed-forward layers, as a multiple of `hidden_dims`.
    """

    @register_to_config
    def __init__(
        self,
        embed_dims: int = 1280,
        output_dims: int = 1024,
        hidden_dims: int = 1024,
        depth: int = 4,
        dim_head: int = 64,
        heads: int = 12,
        num_queries: int = 256,
        ffn_ratio: float = 4,
    ) -> None:
        super().__init__(embed_dims, output_dims, hidden_dims, depth, dim_head, heads, num_queries, ffn_ratio)
