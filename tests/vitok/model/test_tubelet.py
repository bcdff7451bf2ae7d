"""The matrix products are the convolutions they stand for."""

import pytest
import torch
import torch.nn.functional as F

from vitok.config import Tubelet
from vitok.model.tubelet import TubeletEmbed, TubeletUnembed

TUBELETS = [Tubelet(frames=1, patch=4), Tubelet(frames=2, patch=4), Tubelet(frames=4, patch=2)]


@pytest.mark.parametrize("tubelet", TUBELETS, ids=str)
def test_embed_equals_convolution(tubelet):
    torch.manual_seed(0)
    embed = TubeletEmbed(tubelet, 10).double()
    pixels = torch.randn(2, 3, 8, 8, 12, dtype=torch.float64)
    stride = (tubelet.frames, tubelet.patch, tubelet.patch)
    expected = F.conv3d(pixels, embed.proj.weight, embed.proj.bias, stride=stride)
    torch.testing.assert_close(embed(pixels), expected.movedim(1, -1))


@pytest.mark.parametrize("tubelet", TUBELETS, ids=str)
def test_unembed_equals_transposed_convolution(tubelet):
    torch.manual_seed(0)
    unembed = TubeletUnembed(tubelet, 10).double()
    embeddings = torch.randn(2, 2, 3, 4, 10, dtype=torch.float64)
    stride = (tubelet.frames, tubelet.patch, tubelet.patch)
    expected = F.conv_transpose3d(embeddings.movedim(-1, 1), unembed.proj.weight, unembed.proj.bias, stride=stride)
    torch.testing.assert_close(unembed(embeddings), expected)


@pytest.mark.parametrize("module", [TubeletEmbed, TubeletUnembed])
def test_parameters_are_those_of_the_convolution(module):
    shapes = {name: tuple(tensor.shape) for name, tensor in module(TUBELETS[1], 10).state_dict().items()}
    assert shapes["proj.weight"] == (10, 3, 2, 4, 4)
    assert shapes["proj.bias"] == ((10,) if module is TubeletEmbed else (3,))
    assert len(shapes) == 2


def test_tokens_keep_the_place_of_their_tubelet():
    torch.manual_seed(0)
    embed = TubeletEmbed(Tubelet(frames=2, patch=4), 10)
    pixels = torch.zeros(1, 3, 4, 8, 12)
    pixels[:, :, 2:4, 4:8, 8:12] = 1.0
    changed = (embed(pixels) != embed(torch.zeros_like(pixels))).any(dim=-1)
    assert changed.nonzero().tolist() == [[0, 1, 1, 2]]


def test_embed_starts_as_a_xavier_linear_layer():
    torch.manual_seed(0)
    weight = TubeletEmbed(Tubelet(frames=4, patch=8), 64).proj.weight
    bound = (6 / (64 + 3 * 4 * 8 * 8)) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound
