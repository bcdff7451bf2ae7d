"""The transformer both sides of the auto-encoder are made of.

Axes: B batch, N tokens, D width; T', H', W' the grid of tubelets whose row-major order the tokens have.

Pre-LN blocks "closely following MAE" with the gated MLP and the rotary positions of Llama (ViTok, arXiv:2501.09755,
section 2.2); other positions are options. Biases, the MLP's width, the final LayerNorm and the initialisation, which
the paper does not state, are those of the v1 code.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitok.config import Activation, Grid, Positions, TransformerConfig
from vitok.model.padding import Padding
from vitok.model.positions import sincos3d
from vitok.model.rope import Rotation


def xavier_linear(in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
    """Linear layer with Xavier-uniform weight (Glorot & Bengio 2010) and zero bias."""
    linear = nn.Linear(in_features, out_features, bias=bias)
    nn.init.xavier_uniform_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


class Attention(nn.Module):
    """Multi-head self-attention of every token to every real token."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = xavier_linear(embed_dim, 3 * embed_dim, bias=False)
        self.proj = xavier_linear(embed_dim, embed_dim)

    def forward(self, tokens: Tensor, rotation: Rotation | None, key_mask: Tensor | None) -> Tensor:
        """Tokens [B, N, D] to [B, N, D].

        Args:
            tokens: What attends and is attended to.
            rotation: Rotary positions of queries and keys; None: they carry none.
            key_mask: Bool [B, 1, 1, N], False for keys that nothing attends to, at least one True a clip. None: all
                are attended to, which leaves the choice of the kernel free.
        """
        query, key, value = rearrange(
            self.qkv(tokens), "b n (three heads d) -> three b heads n d", three=3, heads=self.num_heads
        )
        if rotation is not None:
            query, key = rotation.turn(query), rotation.turn(key)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask)
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

    def forward(self, tokens: Tensor, rotation: Rotation | None, key_mask: Tensor | None) -> Tensor:
        """Tokens [B, N, D] to [B, N, D] (see `Attention.forward`)."""
        tokens = tokens + self.attn(self.norm1(tokens), rotation, key_mask)
        output: Tensor = tokens + self.mlp(self.norm2(tokens))
        return output


class Transformer(nn.Module):
    """Blocks over a grid of tubelets, and a last LayerNorm."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        activation: Activation,
        positions: Positions,
        rope_theta: float,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        self.config = config
        self.positions = positions
        self.rope_theta = rope_theta
        self.activation_checkpointing = False
        """Whether the backward pass computes the inside of each block again instead of having kept it: the same
        gradients for less memory and about a third more arithmetic."""
        self.blocks = nn.ModuleList(
            Block(config, activation=activation, layer_norm_eps=layer_norm_eps) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=layer_norm_eps)

    def forward(self, embeddings: Tensor, padding: Padding | None = None) -> Tensor:
        """Embeddings [B, T', H', W', D] to the same shape.

        Args:
            embeddings: Finite, also where they are padding.
            padding: What of them is real; the rest is attended to by nothing, and what comes out there means nothing.
        """
        _, frames, height, width, _ = embeddings.shape
        grid = Grid(frames=frames, height=height, width=width)
        tokens = rearrange(embeddings, "b t h w d -> b (t h w) d")
        if self.positions == "sincos3d":
            added = sincos3d(grid, embed_dim=self.config.embed_dim, device=tokens.device)
            tokens = tokens + added.to(tokens.dtype)
        rotation = self._rotation(grid, padding, tokens.device)
        key_mask = None if padding is None else padding.key_mask()
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                # Blocks draw no random numbers, so there is no state of a generator to bring back.
                tokens = checkpoint(block, tokens, rotation, key_mask, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens, rotation, key_mask)
        normed: Tensor = self.norm(tokens)
        return rearrange(normed, "b (t h w) d -> b t h w d", t=frames, h=height, w=width)

    def _rotation(self, grid: Grid, padding: Padding | None, device: torch.device) -> Rotation | None:
        head_dim, theta = self.config.head_dim, self.rope_theta
        if self.positions == "rope3d":
            return Rotation.of_grid(grid, head_dim=head_dim, theta=theta, device=device)
        if self.positions == "rope1d":
            indices = torch.arange(grid.num_tokens, device=device) if padding is None else padding.indices
            return Rotation.of_indices(indices, head_dim=head_dim, theta=theta)
        return None
