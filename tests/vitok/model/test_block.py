"""The transformer against its formulas, and its laws."""

import pytest
import torch
import torch.nn.functional as F

from vitok.config import Grid, TransformerConfig
from vitok.model.block import Attention, Mlp, Transformer
from vitok.model.rope import Rotation

CONFIG = TransformerConfig(embed_dim=24, depth=2, num_heads=2)
GRID = Grid(frames=2, height=3, width=2)


def transformer(activation="swiglu"):
    torch.manual_seed(0)
    return Transformer(CONFIG, activation=activation, rope_theta=10000.0, layer_norm_eps=1e-5)


def test_attention_equals_softmax_of_dot_products():
    torch.manual_seed(0)
    attention = Attention(24, 2).double()
    rotation = Rotation.of_grid(GRID, head_dim=12, theta=10000.0, device=torch.device("cpu"))
    tokens = torch.randn(2, GRID.num_tokens, 24, dtype=torch.float64)
    query, key, value = (tokens @ weight.T for weight in attention.qkv.weight.chunk(3))
    heads = []
    for head in (slice(0, 12), slice(12, 24)):
        scores = rotation.turn(query[..., head]) @ rotation.turn(key[..., head]).mT / 12**0.5
        heads.append(scores.softmax(dim=-1) @ value[..., head])
    torch.testing.assert_close(attention(tokens, rotation), attention.proj(torch.cat(heads, dim=-1)))


@pytest.mark.parametrize(("activation", "function"), [("swiglu", F.silu), ("geglu", F.gelu)])
def test_mlp_is_gated_by_its_activation(activation, function):
    torch.manual_seed(0)
    mlp = Mlp(8, 20, activation)
    tokens = torch.randn(3, 5, 8)
    expected = mlp.fc3(function(mlp.fc1(tokens)) * mlp.fc2(tokens))
    assert torch.equal(mlp(tokens), expected)


def test_activation_reaches_the_blocks():
    embeddings = torch.randn(1, 2, 3, 2, 24)
    assert not torch.allclose(transformer("swiglu")(embeddings), transformer("geglu")(embeddings))


def test_linear_layers_start_xavier_with_zero_bias():
    for name, parameter in transformer().named_parameters():
        if "norm" in name:
            continue
        if name.endswith("bias"):
            assert not parameter.any(), name
        else:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.95 * bound < parameter.abs().max() <= bound, name


def test_every_token_sees_every_token():
    model = transformer().double()
    embeddings = torch.randn(1, 2, 3, 2, 24, dtype=torch.float64, requires_grad=True)
    model(embeddings)[0, 0, 0, 0].square().sum().backward()
    assert (embeddings.grad.abs().amax(dim=-1) > 0).all()


def test_position_counts():
    model = transformer()
    embeddings = torch.randn(1, 2, 3, 2, 24)
    for axis in (1, 2, 3):
        assert not torch.allclose(model(embeddings.flip(axis)).flip(axis), model(embeddings), atol=1e-4), axis


def test_output_is_normed():
    output = transformer()(10 * torch.randn(2, 2, 3, 2, 24))
    torch.testing.assert_close(output.mean(dim=-1), torch.zeros(2, 2, 3, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.var(dim=-1, correction=0), torch.ones(2, 2, 3, 2), atol=1e-3, rtol=0)
