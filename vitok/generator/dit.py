"""A diffusion transformer over latents: what it makes of noisy ones, a time and a class.

Axes: B batch, T' x H' x W' the grid of tubelets, N = T' H' W' tokens in row-major (t, h, w) order, K latent channels,
D width.

DiT with adaLN-zero (Peebles & Xie, arXiv:2212.09748, section 3.2) on tokens that are latent vectors themselves, with
the attention, the gated MLP and the rotary positions of ViTok's auto-encoder (arXiv:2501.09755, appendix: "the same
Llama changes").
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitok.config import Activation, Grid, TransformerConfig
from vitok.generator.config import DitConfig
from vitok.model.block import Attention, Mlp, xavier_linear
from vitok.model.positions import index_angles
from vitok.model.rope import Rotation

TIME_SCALE = 1000.0
"""Of the times that the network is told: 0 are clean latents, 1000 noise alone."""
_TIME_CHANNELS = 256
_TIME_THETA = 10000.0
_INIT_STD = 0.02


class TimeEmbed(nn.Module):
    """Cosines and sines of a time at 128 frequencies, then two layers (arXiv:2212.09748, as in ADM)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.fc1 = xavier_linear(_TIME_CHANNELS, embed_dim)
        self.fc2 = xavier_linear(embed_dim, embed_dim)
        for layer in (self.fc1, self.fc2):
            nn.init.normal_(layer.weight, std=_INIT_STD)

    def forward(self, times: Tensor) -> Tensor:
        """Times [B] in [0, 1000] to [B, D]."""
        angles = index_angles(times, num_channels=_TIME_CHANNELS, theta=_TIME_THETA)
        embedded: Tensor = self.fc2(F.silu(self.fc1(torch.cat([angles.cos(), angles.sin()], dim=-1))))
        return embedded


class DitBlock(nn.Module):
    """Attention and MLP whose inputs are scaled and shifted, and whose outputs are weighted, by time and class.

    All of the modulation is 0 at first, so an untrained block hands on what it gets (adaLN-zero). The LayerNorms have
    weights of their own beside it: the v1 module's number of parameters comes out so.
    """

    def __init__(self, config: TransformerConfig, *, activation: Activation, layer_norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=layer_norm_eps)
        self.attn = Attention(config.embed_dim, config.num_heads)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=layer_norm_eps)
        self.mlp = Mlp(config.embed_dim, config.mlp_dim, activation)
        self.modulation = _zero_linear(config.embed_dim, 6 * config.embed_dim)

    def forward(self, tokens: Tensor, condition: Tensor, rotation: Rotation) -> Tensor:
        """Tokens [B, N, D] to [B, N, D], under a condition [B, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = rearrange(
            self.modulation(F.silu(condition)), "b (six d) -> six b 1 d", six=6
        )
        tokens = tokens + gate1 * self.attn(self.norm1(tokens) * (1 + scale1) + shift1, rotation, None)
        output: Tensor = tokens + gate2 * self.mlp(self.norm2(tokens) * (1 + scale2) + shift2)
        return output


class DitHead(nn.Module):
    """Tokens to outputs, modulated like a block; 0 at first."""

    def __init__(self, config: TransformerConfig, out_channels: int, *, layer_norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.embed_dim, eps=layer_norm_eps)
        self.modulation = _zero_linear(config.embed_dim, 2 * config.embed_dim)
        self.proj = _zero_linear(config.embed_dim, out_channels)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Tokens [B, N, D] to [B, N, out_channels], under a condition [B, D]."""
        shift, scale = rearrange(self.modulation(F.silu(condition)), "b (two d) -> two b 1 d", two=2)
        output: Tensor = self.proj(self.norm(tokens) * (1 + scale) + shift)
        return output


class Dit(nn.Module):
    """The network: noisy latents, times and classes in; noise or velocity out, and a variance where one is learned."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        """Whether the backward pass computes the inside of each block again instead of having kept it."""
        width = config.transformer.embed_dim
        self.embed = xavier_linear(config.latent_channels, width)
        if config.grid is not None:
            self.positions = nn.Parameter(torch.randn(config.grid.num_tokens, width) * _INIT_STD)
        self.time_embed = TimeEmbed(width)
        self.class_embed = nn.Embedding(config.num_classes + 1, width)
        nn.init.normal_(self.class_embed.weight, std=_INIT_STD)
        self.blocks = nn.ModuleList(
            DitBlock(config.transformer, activation=config.activation, layer_norm_eps=config.layer_norm_eps)
            for _ in range(config.transformer.depth)
        )
        self.head = DitHead(config.transformer, config.out_channels, layer_norm_eps=config.layer_norm_eps)

    def forward(self, latents: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        """What the network makes of noisy latents.

        >>> dit = Dit(DitConfig.from_name("N", latent_channels=4, num_classes=10))
        >>> dit(torch.zeros(2, 1, 8, 8, 4), torch.tensor([0.0, 999.0]), torch.tensor([3, 10])).shape
        torch.Size([2, 1, 8, 8, 8])

        Args:
            latents: Float [B, T', H', W', K], normalised, noise added.
            times: Float or int [B] in [0, 1000]: how noisy (`TIME_SCALE`).
            classes: Int64 [B], 0 to `num_classes`, which is the null class.

        Returns:
            [B, T', H', W', K], or 2K where a variance is learned; 0 of an untrained network.

        Raises:
            ValueError: The latents have another shape, or another grid than learned positions are of.
        """
        if latents.ndim != 5 or latents.shape[-1] != self.config.latent_channels:
            raise ValueError(
                f"latents: got shape {tuple(latents.shape)}, expected [B, T', H', W', {self.config.latent_channels}]"
            )
        _, frames, height, width, _ = latents.shape
        grid = Grid(frames=frames, height=height, width=width)
        tokens: Tensor = self.embed(rearrange(latents, "b t h w k -> b (t h w) k"))
        if self.config.grid is not None:
            if grid != self.config.grid:
                raise ValueError(f"latents: got grid {grid}, the learned positions are of {self.config.grid}")
            tokens = tokens + self.positions
        condition = self.time_embed(times) + self.class_embed(classes)
        rotation = self._rotation(grid, latents.device)
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                # Blocks draw no random numbers, so there is no state of a generator to bring back.
                tokens = checkpoint(block, tokens, condition, rotation, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens, condition, rotation)
        outputs: Tensor = self.head(tokens, condition)
        return rearrange(outputs, "b (t h w) k -> b t h w k", t=frames, h=height, w=width)

    def _rotation(self, grid: Grid, device: torch.device) -> Rotation:
        head_dim, theta = self.config.transformer.head_dim, self.config.rope_theta
        if self.config.positions == "rope3d":
            return Rotation.of_grid(grid, head_dim=head_dim, theta=theta, device=device)
        indices = torch.arange(grid.num_tokens, device=device)
        return Rotation.of_indices(indices, head_dim=head_dim, theta=theta)


def drop_classes(classes: Tensor, *, null_class: int, probability: float, generator: torch.Generator) -> Tensor:
    """Classes [B] with each replaced by the null class with that probability: what guidance needs to have been taught.

    Ho & Salimans, arXiv:2207.12598; 0.1 in DiT and in the v1 code.
    """
    dropped = torch.rand(classes.shape, generator=generator, device=generator.device) < probability
    return classes.masked_fill(dropped.to(classes.device), null_class)


def _zero_linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
