"""LPIPS: laws on any weights, and equality with plain loops on the published ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from vitok.networks.lpips import Lpips
from vitok.networks.vgg import Vgg16
from vitok.networks.weights import load_weights
from vitok.pixels import from_uint8

TAPS = {2: 0, 7: 1, 14: 2, 21: 3, 28: 4}
POOL_BEFORE = (5, 10, 17, 24)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Lpips()


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(2, 3, 33, 40, generator=generator) * 2 - 1 for _ in range(2))


def in_loops(reference, candidate, vgg, heads):
    """LPIPS of one pair [3, H, W] as the paper writes it, in float64."""
    maps = torch.stack([reference, candidate]).double()
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    for channel in range(3):
        maps[:, channel] = (maps[:, channel] - shift[channel]) / scale[channel]
    total = 0.0
    for layer in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28):
        if layer in POOL_BEFORE:
            maps = F.max_pool2d(maps, 2)
        weight, bias = (vgg[f"features.{layer}.{kind}"].double() for kind in ("weight", "bias"))
        maps = F.conv2d(maps, weight, bias, padding=1).clamp(min=0)
        if layer in TAPS:
            x, y = maps.numpy()
            head = heads[f"lin{TAPS[layer]}.model.1.weight"].double().numpy().reshape(-1)
            pixels = []
            for row in range(x.shape[1]):
                for column in range(x.shape[2]):
                    a, b = x[:, row, column], y[:, row, column]
                    a, b = (v / (np.sqrt((v**2).sum()) + 1e-10) for v in (a, b))
                    pixels.append((head * (a - b) ** 2).sum())
            total += np.mean(pixels)
    return total


def test_equals_plain_loops_on_the_published_weights(need_weights, photographs):
    need_weights("vgg16", "lpips_vgg")
    images = rearrange(from_uint8(photographs[:, :, 100:164, 100:180]), "N C 1 H W -> N C H W")
    candidates = images.roll(1, dims=0) * 0.5
    distances = Lpips.load()(images, candidates)
    weights = load_weights("vgg16"), load_weights("lpips_vgg")
    expected = [in_loops(*images_, *weights) for images_ in zip(images, candidates, strict=True)]
    assert min(expected) > 0.3
    np.testing.assert_allclose(distances.numpy(), expected, rtol=0, atol=1e-5)


def test_a_known_distance(need_weights, photographs):
    """What lpips 0.1.4 itself said, run on the same weights and photographs."""
    need_weights("vgg16", "lpips_vgg")
    images = rearrange(from_uint8(photographs), "N C 1 H W -> N C H W")
    assert Lpips.load()(images[:1], images[2:]).item() == pytest.approx(0.8189066, abs=1e-5)


def test_equal_images_have_distance_zero_and_pairs_are_symmetric(network, pair):
    assert network(pair[0], pair[0]).tolist() == [0.0, 0.0]
    there, back = network(*pair), network(*reversed(pair))
    assert (there > 0).all()
    torch.testing.assert_close(there, back, rtol=1e-6, atol=0)


def test_a_pair_is_measured_alone(network, pair):
    alone = torch.cat([network(*(images[index : index + 1] for images in pair)) for index in range(2)])
    torch.testing.assert_close(network(*pair), alone, rtol=1e-5, atol=0)


def test_gradients_flow_to_images_and_to_no_weight(network, pair):
    reference, candidate = (images.clone().requires_grad_() for images in pair)
    network(reference, candidate).sum().backward()
    for images in (reference, candidate):
        assert images.grad.isfinite().all()
        assert images.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_gradient_points_towards_the_reference(network, pair):
    reference, candidate = pair[0], pair[1].clone().requires_grad_()
    before = network(reference, candidate).sum()
    before.backward()
    with torch.no_grad():
        step = 1e-3 * candidate.grad / candidate.grad.norm()
        assert network(reference, candidate - step).sum() < before < network(reference, candidate + step).sum()


def test_gradients_are_finite_where_no_feature_fires(pair):
    network = Lpips()
    network.vgg.features[0].bias.fill_(-100.0)
    reference, candidate = (images.clone().requires_grad_() for images in pair)
    network(reference, candidate).sum().backward()
    assert candidate.grad.isfinite().all()


def test_half_precision_stays_near(network, pair):
    expected = network(*pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distances = network(*pair)
    assert distances.dtype == torch.float32
    torch.testing.assert_close(distances, expected, rtol=0.05, atol=0)


def test_slices_are_the_network(pair):
    vgg = Vgg16()
    maps = pair[0]
    channels = []
    for layers in vgg.slices():
        maps = layers(maps)
        channels.append(maps.shape[1])
    assert channels == [64, 128, 256, 512, 512]
    assert torch.equal(maps, vgg.features(pair[0]))
    assert sum(parameter.numel() for parameter in vgg.parameters()) == 14_714_688


@pytest.mark.parametrize(
    ("reference", "candidate", "message"),
    [
        ((1, 3, 32, 32), (1, 3, 32, 33), "got shapes"),
        ((1, 1, 32, 32), (1, 1, 32, 32), r"expected one shape \[N, 3, H, W\]"),
        ((3, 32, 32), (3, 32, 32), "got shapes"),
        ((1, 3, 15, 32), (1, 3, 15, 32), "got 15x32 pixels, expected at least 16x16"),
    ],
)
def test_other_shapes_are_refused(network, reference, candidate, message):
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(reference), torch.zeros(candidate))
