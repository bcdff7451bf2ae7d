"""The transformer both sides of the auto-encoder are made of.

Axes: B batch, N tokens, D width; T', H', W' the grid of tubelets whose row-major order the tokens have.

Pre-LN blocks "closely following MAE" with the gated MLP and the rotary positions of Llama (ViTok, arXiv:2501.09755,
section 2.2). Biases, the MLP's width, the final LayerNorm and the initialisation, which the paper does not state, are
those of the v1 code.
"""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vitok.config import Activation, Grid, TransformerConfig
from vitok.model.rope import Rotation


def xavier_linear(in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
    """Linear layer with Xavier-uniform weight (Glorot & Bengio 2010) and zero bias."""
    linear = nn.Linear(in_features, out_features, bias=bias)
    nn.init.xavier_uniform_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


class Attention(nn.Module):
    """Multi-head self-attention of every token to every token; queries and keys carry rotary positions."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = xavier_linear(embed_dim, 3 * embed_dim, bias=False)
        self.proj = xavier_linear(embed_dim, embed_dim)

    def forward(self, tokens: Tensor, rotation: Rotation) -> Tensor:
        """Tokens [B, N, D] to [B, N, D]."""
        query, key, value = rearrange(
            self.qkv(tokens), "b n (three heads d) -> three b heads n d", three=3, heads=self.num_heads
        )
        attended = F.scaled_dot_product_attention(rotation.turn(query), rotation.turn(key), value)
        projected: Tensor = self.proj(rearrange(attended, "b heads n d -> b n (heads d)"))
        return projected


class Mlp(nn.Module):
    """Gated MLP, fc3(activation(fc1 x) * fc2 x): SwiGLU or GEGLU (Shazeer, arXiv:2002.05202), with biases."""

    def __init__(self, embed_dim: int, mlp_dim: int, activation: Activation) -> None:
        super().__init__()
        self.fc1 = xavier_linear(embed_dim, mlp_dim)
        self.fc2 = xavier_linear(embed_dim, mlp_dim)
        self.fc3 = xavier_linear(mlp_dim, embed_dim)
        self.activation = nn.SiLU() if activation == "swiglu" else nn.GELU()

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] to [B, N, D]."""
        mixed: Tensor = self.fc3(self.activation(self.fc1(tokens)) * self.fc2(tokens))
        return mixed


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and around a residual."""

    def __init__(self, config: TransformerConfig, *, activation: Activation, layer_norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=layer_norm_eps)
        self.attn = Attention(config.embed_dim, config.num_heads)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=layer_norm_eps)
        self.mlp = Mlp(config.embed_dim, config.mlp_dim, activation)

    def forward(self, tokens: Tensor, rotation: Rotation) -> Tensor:
        """Tokens [B, N, D] to [B, N, D]."""
        tokens = tokens + self.attn(self.norm1(tokens), rotation)
        output: Tensor = tokens + self.mlp(self.norm2(tokens))
        return output


class Transformer(nn.Module):
    """Blocks over a grid of tubelets, and a last LayerNorm."""

    def __init__(
        self, config: TransformerConfig, *, activation: Activation, rope_theta: float, layer_norm_eps: float
    ) -> None:
        super().__init__()
        self.config = config
        self.rope_theta = rope_theta
        self.blocks = nn.ModuleList(
            Block(config, activation=activation, layer_norm_eps=layer_norm_eps) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=layer_norm_eps)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings [B, T', H', W', D] to the same shape."""
        _, frames, height, width, _ = embeddings.shape
        rotation = Rotation.of_grid(
            Grid(frames=frames, height=height, width=width),
            head_dim=self.config.head_dim,
            theta=self.rope_theta,
            device=embeddings.device,
        )
        tokens = rearrange(embeddings, "b t h w d -> b (t h w) d")
        for block in self.blocks:
            tokens = block(tokens, rotation)
        normed: Tensor = self.norm(tokens)
        return rearrange(normed, "b (t h w) d -> b t h w d", t=frames, h=height, w=width)
