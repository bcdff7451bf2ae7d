"""Laws of the discriminator: its size, its blur, and that it learns."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image

from vitok.losses.adversarial import discriminator_loss
from vitok.networks.discriminator import BlurPool, StyleGanDiscriminator


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def convolution(inputs, outputs):
    return 9 * inputs * outputs + outputs


def block(inputs, outputs):
    return convolution(inputs, inputs) + convolution(inputs, outputs) + inputs * outputs


@pytest.mark.parametrize(
    ("resolution", "channels"),
    [
        (8, [512, 512]),
        (128, [128, 256, 512, 512, 512, 512]),
        (256, [64, 128, 256, 512, 512, 512, 512]),
        (512, [32, 64, 128, 256, 512, 512, 512, 512]),
    ],
)
def test_parameters_by_hand(resolution, channels):
    expected = convolution(3, channels[0])
    expected += sum(block(*pair) for pair in pairwise(channels))
    expected += convolution(512, 512) + (8192 * 512 + 512) + (512 + 1)
    with torch.device("meta"):
        assert parameters(StyleGanDiscriminator(resolution)) == expected


def test_parameters_at_256():
    with torch.device("meta"):
        assert parameters(StyleGanDiscriminator(256)) == 23_998_017


def test_fewer_channels_make_a_small_one():
    model = StyleGanDiscriminator(64, max_channels=8)
    assert parameters(model) == convolution(3, 8) + 4 * block(8, 8) + convolution(8, 8) + (128 * 8 + 8) + (8 + 1)


def test_its_state_dict_is_its_parameters():
    model = StyleGanDiscriminator(16, max_channels=4)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_one_logit_a_frame_whatever_is_beside_it():
    torch.manual_seed(0)
    model = StyleGanDiscriminator(16, max_channels=8)
    frames = noise(4, 3, 16, 16)
    logits = model(frames)
    assert logits.shape == (4,)
    torch.testing.assert_close(logits[[3, 0]], model(frames[[3, 0]]))


def test_gradient_reaches_every_parameter_and_every_pixel():
    torch.manual_seed(0)
    model = StyleGanDiscriminator(32, max_channels=8)
    frames = noise(2, 3, 32, 32).requires_grad_()
    model(frames).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []
    assert (frames.grad != 0).all()


@pytest.mark.parametrize(("height", "width"), [(144, 256), (64, 64), (65, 127), (512, 288)])
def test_frames_of_other_sides(height, width):
    torch.manual_seed(0)
    model = StyleGanDiscriminator(256, max_channels=4)
    assert model(noise(2, 3, height, width)).isfinite().all()


def test_the_average_leaves_square_frames_as_they_are():
    torch.manual_seed(0)
    model = StyleGanDiscriminator(16, max_channels=8)
    frames = noise(2, 3, 16, 16)
    expected = model(frames)
    model.pool = torch.nn.Identity()
    assert torch.equal(model(frames), expected)


def test_half_precision_autocast_is_near_and_gives_float32():
    torch.manual_seed(0)
    model = StyleGanDiscriminator(32, max_channels=8)
    frames = noise(4, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(frames)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, model(frames), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("resolution", [0, 4, 24, 255, 2048, -8])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match=f"resolution: got {resolution}, expected a power of two from 8 to 1024"):
        StyleGanDiscriminator(resolution)


def test_no_channels_are_refused():
    with pytest.raises(ValueError, match="max_channels: got 0, expected at least 1"):
        StyleGanDiscriminator(8, max_channels=0)


@pytest.mark.parametrize("shape", [(2, 3, 15, 64), (2, 3, 64, 8), (2, 1, 64, 64), (3, 64, 64), (2, 3, 1, 64, 64)])
def test_other_frames_are_refused(shape):
    with pytest.raises(ValueError, match=r"frames: got shape .*, expected \[N, 3, H, W\] with H and W at least 16"):
        StyleGanDiscriminator(64, max_channels=2)(torch.zeros(shape))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (5, 9), (2, 3), (1, 1)])
def test_blur_equals_its_formula(height, width):
    features = noise(1, 2, height, width).double()
    taps = {-1: 1 / 8, 0: 3 / 8, 1: 3 / 8, 2: 1 / 8}
    expected = torch.zeros(1, 2, (height + 1) // 2, (width + 1) // 2, dtype=torch.float64)
    for row in range(expected.shape[2]):
        for column in range(expected.shape[3]):
            for down, vertical in taps.items():
                for right, horizontal in taps.items():
                    y = min(max(2 * row + down, 0), height - 1)
                    x = min(max(2 * column + right, 0), width - 1)
                    expected[..., row, column] += vertical * horizontal * features[..., y, x]
    torch.testing.assert_close(BlurPool().double()(features), expected)


def test_blur_keeps_what_is_even_and_drops_what_two_pixels_cannot_show():
    even = torch.full((1, 1, 8, 8), 0.7)
    torch.testing.assert_close(BlurPool()(even), even[:, :, :4, :4])
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 16, 16)
    torch.testing.assert_close(BlurPool()(stripes)[..., 1:-1], torch.zeros(1, 1, 8, 6))


@pytest.mark.parametrize("axis", [2, 3])
def test_blur_commutes_with_mirroring(axis):
    features = noise(1, 2, 8, 6)
    torch.testing.assert_close(BlurPool()(features.flip(axis)), BlurPool()(features).flip(axis))


def test_a_shift_by_two_pixels_is_a_shift_by_one():
    features = noise(1, 1, 8, 32)
    shifted = BlurPool()(features.roll(2, dims=3))
    torch.testing.assert_close(shifted[..., 2:-1], BlurPool()(features).roll(1, dims=3)[..., 2:-1])


def test_a_shift_by_one_pixel_loses_no_texture():
    """Energy after halving hardly depends on which pixels are kept; without the blur it does."""
    texture = torch.cos(torch.arange(64) * (0.9 * torch.pi)).expand(1, 1, 64, 64)
    inside = (..., slice(2, -2), slice(2, -2))

    def change(halve):
        return (halve(texture)[inside] - halve(texture.roll(1, dims=3))[inside]).abs().max().item()

    assert change(lambda features: features[..., ::2, ::2]) > 1.9
    assert change(BlurPool()) < 0.01


def test_a_few_steps_tell_sharp_photographs_from_blurred_ones(wheel_media):
    def crops(name):
        with Image.open(wheel_media("scikit-image", name)) as image:
            pixels = torch.from_numpy(np.asarray(image.convert("RGB"))[:288, :384].copy())
        frames = rearrange(pixels, "(rows h) (columns w) c -> (rows columns) c h w", h=32, w=32) / 127.5 - 1
        blurred = F.avg_pool2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return frames, blurred

    torch.manual_seed(0)
    model = StyleGanDiscriminator(32, max_channels=16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.5, 0.9))
    sharp, blurred = crops("chelsea.png")
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        chosen = torch.randint(len(sharp), (24,), generator=generator)
        terms = discriminator_loss(blurred[chosen, :, None], sharp[chosen, :, None], model)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
    with torch.inference_mode():
        sharp, blurred = (model(frames) for frames in crops("coffee.png"))
    assert (sharp > blurred).float().mean().item() > 0.9
