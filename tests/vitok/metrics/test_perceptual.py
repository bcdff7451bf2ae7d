"""LPIPS and features of clips are those of their frames."""

import pytest
import torch
from einops import rearrange

from vitok.metrics import features
from vitok.metrics.features import clip_features, frame_features
from vitok.metrics.perceptual import lpips
from vitok.networks import i3d
from vitok.networks.i3d import I3d
from vitok.networks.inception import InceptionV3
from vitok.networks.lpips import Lpips
from vitok.pixels import from_uint8


@pytest.fixture(scope="module")
def clips(photographs):
    """uint8 [2, 3, 32, 40, 3]."""
    small = rearrange(photographs[:, :, :64, :40], "N 1 (B H) W C -> B N H W C", B=2)
    return small.contiguous()


def test_lpips_of_a_clip_is_the_mean_of_its_frames(clips):
    torch.manual_seed(0)
    network = Lpips()
    candidates = clips.roll(1, dims=1)
    values = lpips(network, clips, candidates)
    assert values.dtype == torch.float64
    for value, clip, candidate in zip(values, clips, candidates, strict=True):
        frames = [rearrange(from_uint8(one[None]), "1 C T H W -> T C H W") for one in (clip, candidate)]
        assert value.item() == pytest.approx(network(*frames).mean().item(), rel=1e-5)
    assert lpips(network, clips[1:], candidates[1:]).item() == values[1].item()
    assert lpips(network, clips.numpy(), clips.numpy()).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="got shapes"):
        lpips(network, clips, clips[:, :1])


def test_every_frame_is_a_sample_of_inceptions(clips, monkeypatch):
    torch.manual_seed(0)
    network = InceptionV3("2015", with_logits=False)
    expected = torch.cat([network(rearrange(frame, "H W C -> 1 C H W")) for clip in clips for frame in clip])
    found = frame_features(network, clips)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(features, "FRAMES_AT_ONCE", 4)
    torch.testing.assert_close(frame_features(network, clips), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"expected uint8 \[B, T, H, W, 3\]"):
        frame_features(network, clips[0])


def test_every_clip_is_a_sample_of_i3ds(clips):
    torch.manual_seed(0)
    network = I3d()
    long = torch.cat([clips] * 3, dim=1)
    torch.testing.assert_close(clip_features(network, long), network(i3d.prepare(long)), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="at least 9 frames"):
        clip_features(network, clips)
