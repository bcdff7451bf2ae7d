"""I3D: the published distances of black and white clips, and what clips it takes."""

import pytest
import torch
from einops import rearrange

from vitok.networks.i3d import MIN_FRAMES, I3d, prepare


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return I3d()


@pytest.mark.parametrize(("frames", "distance"), [(10, 569.77), (11, 486.75), (30, 151.3924)])
def test_black_and_white_clips_are_as_far_apart_as_published(need_weights, frames, distance):
    """FVD of two sets of equal clips is the squared distance of their logits, whatever the number of clips."""
    need_weights("i3d_kinetics400")
    trained = I3d.load()
    black, white = (trained(torch.full((1, 3, frames, 224, 224), level)) for level in (-1.0, 1.0))
    assert (black - white).double().square().sum().item() == pytest.approx(distance, abs=0.005)


def test_parameters_are_those_of_i3d(network):
    learnt = [tensor for name, tensor in network.state_dict().items() if "running" not in name]
    assert sum(tensor.numel() for tensor in learnt) == 12_697_264


def test_no_mode_and_no_autocast_changes_the_logits(network):
    clips = torch.rand(1, 3, MIN_FRAMES, 224, 224) * 2 - 1
    expected = network(clips)
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(clips), expected)
    network.eval()
    assert expected.shape == (1, 400)
    assert not expected.requires_grad


def test_weights_that_lack_a_tensor_are_refused(network):
    with pytest.raises(KeyError, match="Logits"):
        network.take_weights({})


@pytest.mark.parametrize("shape", [(1, 3, 8, 224, 224), (1, 3, 16, 112, 224), (3, 16, 224, 224), (1, 16, 3, 224, 224)])
def test_other_clips_are_refused(network, shape):
    with pytest.raises(ValueError, match=r"expected \[B, 3, T, 224, 224\] of at least 9 frames"):
        network(torch.zeros(shape))


def test_clips_are_resized_frame_by_frame():
    clips = torch.randint(0, 256, (2, 3, 40, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    prepared = prepare(clips)
    assert prepared.shape == (2, 3, 3, 224, 224)
    trilinear = torch.nn.functional.interpolate(
        rearrange(clips, "B T H W C -> B C T H W").float(), (3, 224, 224), mode="trilinear", align_corners=False
    )
    torch.testing.assert_close(prepared, 2 * trilinear / 255 - 1, rtol=0, atol=1e-5)
    assert torch.equal(prepare(clips[1:, :1]), prepared[1:, :, :1])


def test_pixels_of_the_right_size_are_only_scaled():
    clips = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1, 1).expand(1, 3, 224, 224, 3)
    levels = prepare(clips)[0, 0, :, 0, 0]
    torch.testing.assert_close(levels, torch.tensor([-1.0, -0.6, 1.0]))


@pytest.mark.parametrize("wrong", [torch.zeros(1, 9, 8, 8, 3), torch.zeros(1, 3, 9, 8, 8).byte()])
def test_other_pixels_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected uint8 \[B, T, H, W, 3\]"):
        prepare(wrong)
