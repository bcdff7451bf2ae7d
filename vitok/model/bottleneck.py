"""What stands between encoder and decoder: the four ways from the encoder's code to a posterior.

Axes: B batch, T' x H' x W' the grid of tubelets, K latent channels.

kl          mean and log-variance of a Gaussian (ViTok, arXiv:2501.09755, section 2.3)
layer_norm  K numbers of zero mean and unit variance (ViTok-v2, arXiv:2605.05331)
tanh        K numbers in [-1, 1], to whose samples Gaussian noise is added (an ablation of the same)
none        K numbers as they are (the deterministic ablation of the v1 code)
"""

from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from vitok.config import AutoEncoderConfig
from vitok.model.padding import Padding
from vitok.model.posterior import Posterior


def code_channels(config: AutoEncoderConfig) -> int:
    """Channels that the encoder puts out for a token: 2K for a Gaussian, K otherwise."""
    return 2 * config.latent_channels if config.bottleneck == "kl" else config.latent_channels


def posterior_of(code: Tensor, config: AutoEncoderConfig, padding: Padding | None) -> Posterior:
    """Posterior of the encoder's code, in float32 at least.

    Args:
        code: Float [B, T', H', W', `code_channels`].
        config: Names the bottleneck.
        padding: What of the code is real. A code of 0 leaves every bottleneck as 0 (a Gaussian's log-variance too), so
            the posterior is 0 at padding whatever the code was.
    """
    code = code.to(torch.promote_types(code.dtype, torch.float32))
    if padding is not None:
        code = padding.blank(code)
    mask = None if padding is None else padding.mask
    match config.bottleneck:
        case "kl":
            return Posterior.from_moments(code, mask=mask)
        case "layer_norm":
            normed = F.layer_norm(code, code.shape[-1:], eps=config.layer_norm_eps)
            return Posterior(mean=normed, logvar=None, mask=mask)
        case "tanh":
            return Posterior(mean=code.tanh(), logvar=None, noise_std=config.bottleneck_noise, mask=mask)
        case "none":
            return Posterior(mean=code, logvar=None, mask=mask)
        case _:
            assert_never(config.bottleneck)
