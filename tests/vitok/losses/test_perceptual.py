"""The perceptual loss: frame by frame, towards the target."""

import pytest
import torch

from vitok.losses.perceptual import perceptual_loss
from vitok.networks.lpips import Lpips


def mean_squares(reference, candidate):
    return (reference - candidate).square().mean(dim=(1, 2, 3))


def clips(seed, *, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(2, 3, 4, 16, 16, generator=generator) * 2 - 1).to(dtype)


def test_it_is_the_mean_over_frames_each_seen_alone():
    network = Lpips()
    pixels, target = clips(0), clips(1)
    alone = [
        network(target[clip : clip + 1, :, frame], pixels[clip : clip + 1, :, frame]).item()
        for clip in range(2)
        for frame in range(4)
    ]
    assert max(alone) > min(alone)
    assert perceptual_loss(pixels, target, network).item() == pytest.approx(sum(alone) / 8, rel=1e-5)


def test_the_target_is_the_reference():
    def red_of_the_reference(reference, candidate):
        return reference[:, 0].mean(dim=(1, 2))

    target = torch.zeros(2, 3, 4, 5, 6)
    target[:, 0] = 0.25
    assert perceptual_loss(torch.ones(2, 3, 4, 5, 6), target, red_of_the_reference) == 0.25


def test_frames_are_pictures_in_the_order_of_the_clips():
    seen = []

    def look(reference, candidate):
        seen.append(candidate)
        return mean_squares(reference, candidate)

    pixels = clips(0)
    perceptual_loss(pixels, clips(1), look)
    (frames,) = seen
    assert frames.shape == (8, 3, 16, 16)
    assert torch.equal(frames[5], pixels[1, :, 1])


def test_the_reconstruction_alone_gets_a_gradient():
    pixels, target = clips(0).requires_grad_(), clips(1).requires_grad_()
    perceptual_loss(pixels, target, Lpips()).backward()
    assert pixels.grad.flatten(1).any(dim=1).all()
    assert target.grad is None


def test_pixels_out_of_range_are_called_back():
    pixels = torch.full((1, 3, 1, 4, 4), 1.5, requires_grad=True)
    perceptual_loss(pixels, torch.ones(1, 3, 1, 4, 4), mean_squares).backward()
    assert (pixels.grad > 0).all()


def test_half_precision_is_compared_in_float32():
    pixels, target = clips(0, dtype=torch.bfloat16), clips(1)
    loss = perceptual_loss(pixels, target, mean_squares)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((pixels.double() - target.double()).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("pixels", "target"),
    [((1, 3, 2, 4, 4), (1, 3, 1, 4, 4)), ((1, 3, 4, 4), (1, 3, 4, 4)), ((1, 2, 3, 4, 4), (1, 2, 3, 4, 4))],
)
def test_other_shapes_are_refused(pixels, target):
    with pytest.raises(ValueError, match=r"pixels and target: got shapes .*, expected one shape \[B, 3, T, H, W\]"):
        perceptual_loss(torch.zeros(pixels), torch.zeros(target), mean_squares)


def test_a_distance_that_is_not_one_number_a_frame_is_refused():
    with pytest.raises(ValueError, match=r"distance: got shape \(\) for 8 frames, expected \(8,\)"):
        perceptual_loss(clips(0), clips(1), lambda reference, candidate: (reference - candidate).abs().mean())
