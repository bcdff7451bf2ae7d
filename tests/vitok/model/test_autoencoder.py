"""Laws of the auto-encoder: stills, lengths, independence of neighbours, what is trained."""

import dataclasses
import re

import pytest
import torch

from vitok.config import AutoEncoderConfig, TransformerConfig, Tubelet
from vitok.model.autoencoder import AutoEncoder

CONFIG = AutoEncoderConfig(
    encoder=TransformerConfig(embed_dim=24, depth=1, num_heads=2),
    decoder=TransformerConfig(embed_dim=32, depth=2, num_heads=2),
    tubelet=Tubelet(frames=4, patch=4),
    latent_channels=5,
)


POSITIONS = ["rope3d", "rope1d", "sincos3d", "none"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AutoEncoder(CONFIG)


def clip(*, num_clips=1, num_frames=8):
    return torch.rand(num_clips, 3, num_frames, 8, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("changes", [{"positions": "rope1d"}, {"positions": "sincos3d"}, {"positions": "none"}])
def test_positions_have_no_parameters(model, changes):
    other = AutoEncoder(dataclasses.replace(CONFIG, **changes))
    assert {name: tensor.shape for name, tensor in other.state_dict().items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }


def test_state_dict_has_the_names_and_shapes_of_the_v1_code(model):
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["tubelet_embed.proj.weight"] == (24, 3, 4, 4, 4)
    assert shapes["tubelet_decode.proj.weight"] == (32, 3, 4, 4, 4)
    assert shapes["encoder.blocks.0.attn.qkv.weight"] == (72, 24)
    assert shapes["encoder_to_code.weight"] == (10, 24)
    assert shapes["code_to_decoder.weight"] == (32, 5)
    block = r"blocks\.\d+\.((norm1|norm2|attn\.proj|mlp\.fc[123])\.(weight|bias)|attn\.qkv\.weight)"
    linear = r"(tubelet_embed\.proj|tubelet_decode\.proj|encoder_to_code|code_to_decoder)\.(weight|bias)"
    pattern = re.compile(rf"{linear}|(encoder|decoder)\.({block}|norm\.(weight|bias))")
    assert [name for name in shapes if not pattern.fullmatch(name)] == []
    assert len(shapes) == 8 + (1 + 2) * 13 + 2 * 2


def test_shapes_of_a_clip(model):
    reconstruction = model(clip(num_clips=2))
    assert reconstruction.posterior.mean.shape == (2, 2, 2, 3, 5)
    assert reconstruction.posterior.logvar.shape == (2, 2, 2, 3, 5)
    assert reconstruction.pixels.shape == (2, 3, 8, 8, 12)


def test_an_image_is_encoded_as_a_still(model):
    image = clip(num_frames=1)
    still = image.expand(-1, -1, 4, -1, -1)
    assert torch.equal(model.encode(image).mean, model.encode(still).mean)
    assert torch.equal(model.encode(image).logvar, model.encode(still).logvar)


def test_an_unfilled_tubelet_goes_on_with_its_last_frame(model):
    pixels = clip(num_frames=6)
    padded = model.pad_frames(pixels)
    assert padded.shape[2] == 8
    assert torch.equal(padded[:, :, :6], pixels)
    assert torch.equal(padded[:, :, 6:], pixels[:, :, 5:6].expand(-1, -1, 2, -1, -1))
    assert torch.equal(model.encode(pixels).mean, model.encode(padded).mean)


def test_filled_tubelets_are_not_padded(model):
    assert torch.equal(model.pad_frames(clip(num_frames=8)), clip(num_frames=8))


@pytest.mark.parametrize("num_frames", [5, 6, 7, 8])
def test_decode_trims_to_the_clip(model, num_frames):
    latent = model.encode(clip(num_frames=num_frames)).mode()
    whole = model.decode(latent)
    assert whole.shape == (1, 3, 8, 8, 12)
    assert torch.equal(model.decode(latent, num_frames=num_frames), whole[:, :, :num_frames])


@pytest.mark.parametrize("num_frames", [0, 1, 4, 9])
def test_decode_refuses_lengths_of_other_grids(model, num_frames):
    latent = model.encode(clip(num_frames=8)).mode()
    with pytest.raises(ValueError, match=f"num_frames: got {num_frames}, expected 5 to 8"):
        model.decode(latent, num_frames=num_frames)


def test_forward_decodes_the_sample_or_the_mode(model):
    pixels = clip()
    posterior = model.encode(pixels)
    generator = torch.Generator().manual_seed(3)
    sampled = model(pixels, generator=torch.Generator().manual_seed(3))
    assert torch.equal(sampled.pixels, model.decode(posterior.sample(generator)))
    assert torch.equal(model(pixels, sample=False).pixels, model.decode(posterior.mode()))
    assert not torch.equal(sampled.pixels, model(pixels, sample=False).pixels)


def test_a_clip_does_not_depend_on_its_neighbours(model):
    pixels = clip(num_clips=3)
    others = pixels.clone()
    others[0], others[2] = pixels[2].flip(0), 0.0
    first, second = model(pixels, sample=False), model(others, sample=False)
    assert torch.equal(first.posterior.mean[1], second.posterior.mean[1])
    assert torch.equal(first.pixels[1], second.pixels[1])
    assert not torch.equal(first.pixels[0], second.pixels[0])
    alone = model(pixels[1:2], sample=False)
    torch.testing.assert_close(alone.pixels[0], first.pixels[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_sizes_of_one_model_are_free(positions):
    model = AutoEncoder(dataclasses.replace(CONFIG, positions=positions))
    for num_frames, height, width in [(1, 4, 4), (3, 16, 4), (12, 8, 8)]:
        latent = model.encode(torch.zeros(1, 3, num_frames, height, width)).mode()
        assert model.decode(latent, num_frames=num_frames).shape == (1, 3, num_frames, height, width)


def test_inference_mode_leaves_nothing_that_breaks_training(model):
    with torch.inference_mode():
        model(clip())
    model(clip()).pixels.sum().backward()
    assert model.tubelet_embed.proj.weight.grad is not None


def test_half_precision_autocast_is_near(model):
    exact = model(clip(), sample=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(clip(), sample=False)
    assert half.posterior.mean.dtype == torch.float32
    torch.testing.assert_close(half.pixels.float(), exact.pixels, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 8, 8, 12), r"got shape \(3, 8, 8, 12\), expected \[B, 3, T, H, W\]"),
        ((1, 8, 8, 12, 3), r"got shape \(1, 8, 8, 12, 3\), expected \[B, 3, T, H, W\]"),
        ((1, 3, 8, 10, 12), "8 frames of 10x12 pixels"),
        ((1, 3, 8, 8, 10), "8 frames of 8x10 pixels"),
        ((1, 3, 0, 8, 12), "0 frames of 8x12 pixels"),
    ],
)
def test_encode_refuses_other_shapes(model, shape, message):
    with pytest.raises(ValueError, match=message):
        model.encode(torch.zeros(shape))


def test_encode_refuses_bytes(model):
    with pytest.raises(ValueError, match=r"got torch.uint8, expected floating point"):
        model.encode(torch.zeros(1, 3, 4, 8, 12, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(2, 2, 3, 5), (1, 2, 2, 3, 4), (1, 5, 2, 2, 3)])
def test_decode_refuses_other_shapes(model, shape):
    with pytest.raises(ValueError, match=r"expected \[B, T', H', W', 5\]"):
        model.decode(torch.zeros(shape))


def test_a_frozen_encoder_leaves_the_decoders_side_to_train(model):
    model.freeze_encoder()
    model(clip(), generator=torch.Generator().manual_seed(0)).pixels.square().sum().backward()
    for name, parameter in model.named_parameters():
        trained = name.startswith(("code_to_decoder.", "decoder.", "tubelet_decode."))
        assert (parameter.requires_grad, parameter.grad is not None) == (trained, trained), name


def test_activation_checkpointing_gives_the_same_gradients_bit_by_bit(model):
    gradients = []
    for enabled in (False, True):
        model.set_activation_checkpointing(enabled)
        assert model.encoder.activation_checkpointing is model.decoder.activation_checkpointing is enabled
        model.zero_grad()
        model(clip(), generator=torch.Generator().manual_seed(0)).pixels.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(kept, again) for kept, again in zip(*gradients, strict=True))


def test_the_unmasked_forward_is_one_graph():
    torch.manual_seed(0)
    model = AutoEncoder(dataclasses.replace(CONFIG, decoder=CONFIG.encoder))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(clip(), sample=False).pixels, model(clip(), sample=False).pixels)
