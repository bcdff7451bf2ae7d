"""The losses of stage two: stage one's and the generator's on one side, the discriminator's on the other.

Axes: B batch, T time (frames), N = B T frames, H height, W width.

In stage two the encoder is frozen and the decoder is fine-tuned against a discriminator of single frames (ViTok,
arXiv:2501.09755, section 2.3). That the losses are hinges is the v1 code's; the paper does not say.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call

from vitok.losses.perceptual import FrameDistance
from vitok.losses.reconstruction import StageOne, Terms, stage_one_loss
from vitok.model.autoencoder import Reconstruction


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTwo:
    """Weights of stage two and the schedule of its adversarial term.

    The schedule is the v1 code's; the paper does not state one. There, steps scale with 256 / batch size, so that the
    decoder hears the discriminator after as many clips; the defaults are those of a batch of 256.
    """

    stage_one: StageOne = field(default_factory=StageOne)
    """All of it stays in the total. Its KL trains nothing while the encoder is frozen."""
    gan_weight: float = 0.05
    """lambda, once ramped up. Appendix A.2 of the paper calls 0.05 the best; its section 2.3 says 1.0."""
    start_step: int = 5_000
    """Last step without the term: until then the discriminator learns alone."""
    ramp_steps: int = 50_000
    """Steps from no weight to all of it."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.gan_weight < math.inf:
            raise ValueError(f"gan_weight: got {self.gan_weight}, expected a finite number of at least 0")
        for name, steps in (("start_step", self.start_step), ("ramp_steps", self.ramp_steps)):
            if steps < 0:
                raise ValueError(f"{name}: got {steps}, expected at least 0")


def gan_weight(step: int, *, peak: float, start_step: int, ramp_steps: int) -> float:
    """Weight of the adversarial term: 0 up to `start_step`, then linear to `peak` at `start_step + ramp_steps`.

    >>> gan_weight(30_000, peak=0.05, start_step=5_000, ramp_steps=50_000)
    0.025

    Args:
        step: Of stage two, from 0.
        peak: The weight from the end of the ramp on.
        start_step: Last step without the term.
        ramp_steps: Length of the ramp; 0: all at once after `start_step`.
    """
    if step <= start_step:
        return 0.0
    return peak * min(1.0, (step - start_step) / max(ramp_steps, 1))


def discriminator_hinge_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Mean of max(0, 1 - real) plus mean of max(0, 1 + fake): 2 for a discriminator that says 0 to all.

    The sum, as in SAGAN (Zhang et al., arXiv:1805.08318, equation 4; first in Lim & Ye, arXiv:1705.02894); some
    codes halve it, which Adam's steps do not notice.

    Args:
        real_logits: Float [N], above 0 means real.
        fake_logits: Float [N'].
    """
    return F.relu(1.0 - real_logits).mean() + F.relu(1.0 + fake_logits).mean()


def generator_hinge_loss(fake_logits: Tensor) -> Tensor:
    """Minus the mean of the logits [N] of what was generated (arXiv:1805.08318, equation 4)."""
    return -fake_logits.mean()


def discriminator_loss(pixels: Tensor, target: Tensor, discriminator: nn.Module) -> Terms:
    """What the discriminator minimises: the hinge loss over single frames, real ones and reconstructed ones.

    One forward pass over both, so a wrapper for data parallelism around the discriminator sees one forward for its
    one backward.

    Args:
        pixels: A reconstruction, float [B, 3, T, H, W], about [-1, 1]; gets no gradient.
        target: What was reconstructed, float [B, 3, T, H, W] in [-1, 1].
        discriminator: Frames [2 N, 3, H, W] to logits [2 N].

    Returns:
        Parts "real" and "fake", the two means of the hinge, in [0, inf); "real_logit" and "fake_logit", the mean
        logits.

    Raises:
        ValueError: The two are not [B, 3, T, H, W] of one shape, or the logits are not one a frame.
    """
    if pixels.shape != target.shape:
        raise ValueError(f"target: got shape {tuple(target.shape)}, expected the pixels' {tuple(pixels.shape)}")
    frames = torch.cat([_frames(target.detach()), _frames(pixels.detach())])
    real_logits, fake_logits = _one_a_frame(discriminator(frames), frames).chunk(2)
    total = discriminator_hinge_loss(real_logits, fake_logits)
    parts = {
        "real": F.relu(1.0 - real_logits).mean(),
        "fake": F.relu(1.0 + fake_logits).mean(),
        "real_logit": real_logits.mean(),
        "fake_logit": fake_logits.mean(),
    }
    return Terms(total=total, parts={name: part.detach() for name, part in parts.items()})


def stage_two_loss(
    reconstruction: Reconstruction,
    target: Tensor,
    settings: StageTwo,
    *,
    step: int,
    lpips: FrameDistance | None,
    discriminator: nn.Module,
) -> Terms:
    """What the decoder minimises: stage one's loss + `gan_weight` * the generator's hinge loss over single frames.

    The discriminator's parameters get no gradient from it. While the weight is 0, nothing flows through the
    discriminator at all, and its loss is only logged.

    Args:
        reconstruction: As `stage_one_loss` takes it.
        target: As `stage_one_loss` takes it.
        settings: The weights and the schedule.
        step: Of stage two, from 0.
        lpips: As `stage_one_loss` takes it.
        discriminator: Frames [N, 3, H, W] to logits [N]; the module itself, not a wrapper for data parallelism, which
            would expect a backward pass into it.

    Returns:
        Stage one's parts, then "gan".

    Raises:
        ValueError: As `stage_one_loss`; or the logits are not one a frame.
    """
    first = stage_one_loss(reconstruction, target, settings.stage_one, lpips)
    weight = gan_weight(step, peak=settings.gan_weight, start_step=settings.start_step, ramp_steps=settings.ramp_steps)
    frames = _frames(reconstruction.pixels if weight > 0.0 else reconstruction.pixels.detach())
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    gan = generator_hinge_loss(_one_a_frame(functional_call(discriminator, frozen, (frames,)), frames))
    total = first.total + weight * gan if weight > 0.0 else first.total
    return Terms(total=total, parts={**first.parts, "gan": gan.detach()})


def _frames(clips: Tensor) -> Tensor:
    return rearrange(clips.to(torch.promote_types(clips.dtype, torch.float32)), "b c t h w -> (b t) c h w")


def _one_a_frame(logits: Tensor, frames: Tensor) -> Tensor:
    if logits.shape != frames.shape[:1]:
        raise ValueError(
            f"discriminator: got logits of shape {tuple(logits.shape)} for {len(frames)} frames, "
            f"expected {tuple(frames.shape[:1])}: one a frame"
        )
    return logits
