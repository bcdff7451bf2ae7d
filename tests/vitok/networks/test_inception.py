"""Inception-v3: the 2015 flavour equals its TorchScript, the torchvision one its published architecture."""

import numpy as np
import pytest
import torch
from einops import rearrange

from vitok.networks.inception import CLASSES, InceptionV3, prepare
from vitok.networks.inception_blocks import blocks

FLAVOURS = ("2015", "torchvision")


@pytest.fixture(scope="module")
def images(photographs):
    """uint8 [3, 3, 300, 400]."""
    return rearrange(photographs, "N 1 H W C -> N C H W")


@pytest.fixture(scope="module", params=FLAVOURS)
def network(request):
    torch.manual_seed(0)
    return InceptionV3(request.param, with_logits=True)


def sample(image, size, position):
    """Linear interpolation of [C, H, W] along both axes at position(i, size), in loops over output lines."""
    for axis in (1, 2):
        length = image.shape[axis]
        lines = []
        for index in range(size):
            place = min(max(position(index, length), 0.0), length - 1)
            before = int(place)
            after = min(before + 1, length - 1)
            first, second = (np.take(image, at, axis=axis) for at in (before, after))
            lines.append(first + (second - first) * (place - before))
        image = np.stack(lines, axis=axis)
    return image


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("size", [(299, 299), (300, 400), (64, 97)])
def test_features_equal_those_of_the_torchscript(need_weights, images, size):
    folder = need_weights("inception_2015")
    if not (folder / "inception_2015_fid.pt").exists():
        pytest.skip("the TorchScript to compare with is not beside the weights")
    crops = images[:2, :, : size[0], : size[1]]
    resized = np.stack([sample(crop.double().numpy(), 299, lambda i, n: i * n / 299) for crop in crops])
    script = torch.jit.load(folder / "inception_2015_fid.pt", map_location="cpu").eval()
    with torch.no_grad():
        expected = script(torch.from_numpy((resized - 128) / 128).float())
    features = InceptionV3.load("2015")(crops)
    assert expected.max() > 1
    np.testing.assert_allclose(features.numpy(), expected.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(299, 299), (300, 400), (64, 97), (1, 2)])
def test_pixels_of_2015_are_sampled_from_the_corner(images, size):
    crop = images[:1, :, : size[0], : size[1]]
    expected = (sample(crop[0].double().numpy(), 299, lambda i, n: i * n / 299) - 128) / 128
    np.testing.assert_allclose(prepare(crop, "2015")[0].numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(299, 299), (300, 400), (64, 97)])
def test_pixels_of_torchvision_have_aligned_corners(images, size):
    crop = images[:1, :, : size[0], : size[1]]
    expected = sample(crop[0].double().numpy(), 299, lambda i, n: i * (n - 1) / 298) * 2 / 255 - 1
    np.testing.assert_allclose(prepare(crop, "torchvision")[0].numpy(), expected, rtol=0, atol=1e-4)


def test_pixels_fill_the_range():
    extremes = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 8, 8)
    for flavour, highest in (("2015", 127 / 128), ("torchvision", 1.0)):
        lowest_pixels, highest_pixels = prepare(extremes, flavour)
        torch.testing.assert_close(lowest_pixels, torch.full((3, 299, 299), -1.0))
        torch.testing.assert_close(highest_pixels, torch.full((3, 299, 299), highest))


def test_parameters_are_torchvisions(network):
    learnt = {name: tensor for name, tensor in network.state_dict().items() if "running" not in name}
    beyond = 2049 * (CLASSES[network.flavour] - 1000)
    assert sum(tensor.numel() for tensor in learnt.values()) - beyond == 23_834_568
    names = set(network.state_dict())
    assert {
        "Conv2d_1a_3x3.conv.weight",
        "Mixed_6c.branch7x7dbl_5.bn.running_var",
        "Mixed_7c.branch3x3dbl_3b.bn.bias",
    } <= names
    assert len(names) == 94 * 5 + 2


def test_flavours_differ_in_their_pools_alone():
    def pools(flavour):
        return {
            name: [step for branch in branches for step in branch if isinstance(step, str)]
            for name, branches in blocks(flavour).items()
        }

    def convolutions(flavour):
        return [
            [step for step in branch if not isinstance(step, str)]
            for branches in blocks(flavour).values()
            for branch in branches
        ]

    assert convolutions("2015") == convolutions("torchvision")
    halving = {"Mixed_6a": ["halve"], "Mixed_7a": ["halve"]}
    averaging = {name: ["average"] for name in blocks("2015")}
    padding = {name: ["average_with_padding"] for name in blocks("2015")}
    assert pools("2015") == {**averaging, **halving, "Mixed_7c": ["maximum"]}
    assert pools("torchvision") == {**padding, **halving}


def test_a_state_dict_as_published_is_taken(network, images):
    published = {name: tensor + 0.01 for name, tensor in network.state_dict().items()}
    published |= {
        name.replace("weight", "num_batches_tracked"): torch.tensor(7) for name in published if ".bn.weight" in name
    }
    published |= {"AuxLogits.fc.weight": torch.zeros(1000, 768)}
    taken = InceptionV3(network.flavour, with_logits=True)
    taken.take_weights(published)
    for name, tensor in taken.state_dict().items():
        assert torch.equal(tensor, published[name])
    without = InceptionV3(network.flavour, with_logits=False)
    without.take_weights(published)
    assert torch.equal(without(images[:1]), taken(images[:1]))


def test_a_state_dict_that_lacks_a_tensor_is_refused(network):
    lacking = dict(network.state_dict())
    del lacking["Mixed_5b.branch1x1.bn.bias"]
    with pytest.raises(RuntimeError, match=r"Mixed_5b\.branch1x1\.bn\.bias"):
        InceptionV3(network.flavour, with_logits=True).take_weights(lacking)


def test_no_mode_and_no_autocast_changes_the_features(network, images):
    expected = network(images[:1])
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(images[:1]), expected)
    network.eval()
    assert torch.equal(network(images[:1]), expected)
    assert expected.shape == (1, 2048)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_logits_have_a_bias_in_torchvision_only(network):
    features = torch.rand(2, 2048)
    logits = network.class_logits(features)
    assert logits.shape == (2, CLASSES[network.flavour])
    bias = network.fc.bias if network.flavour == "torchvision" else 0
    torch.testing.assert_close(logits, features @ network.fc.weight.T + bias)


def test_logits_without_the_last_layer_are_refused():
    with pytest.raises(ValueError, match="with_logits=True"):
        InceptionV3("2015", with_logits=False).class_logits(torch.zeros(1, 2048))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, 3).byte(), torch.zeros(0, 3, 8, 8).byte()]
)
def test_other_images_are_refused(flavour, wrong):
    with pytest.raises(ValueError, match=r"expected uint8 \[N, 3, H, W\]"):
        prepare(wrong, flavour)
