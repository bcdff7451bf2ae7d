"""The transformer against its formulas, and its laws."""

import pytest
import torch
import torch.nn.functional as F

from vitok.config import Grid, TransformerConfig
from vitok.model.block import Attention, Mlp, Transformer
from vitok.model.positions import sincos3d
from vitok.model.rope import Rotation

CONFIG = TransformerConfig(embed_dim=24, depth=2, num_heads=2)
GRID = Grid(frames=2, height=3, width=2)


def transformer(activation="swiglu", positions="rope3d"):
    torch.manual_seed(0)
    return Transformer(CONFIG, activation=activation, positions=positions, rope_theta=10000.0, layer_norm_eps=1e-5)


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
    torch.testing.assert_close(attention(tokens, rotation, None), attention.proj(torch.cat(heads, dim=-1)))


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


@pytest.mark.parametrize("positions", ["rope3d", "rope1d", "sincos3d", "none"])
def test_place_counts_where_there_are_positions(positions):
    model = transformer(positions=positions)
    embeddings = torch.randn(1, 2, 3, 2, 24)
    for axis in (1, 2, 3):
        flipped = model(embeddings.flip(axis)).flip(axis)
        assert torch.allclose(flipped, model(embeddings), atol=1e-4) == (positions == "none"), axis


@pytest.mark.parametrize("positions", ["rope3d", "rope1d", "sincos3d", "none"])
def test_positions_add_nothing_to_the_state(positions):
    state = transformer(positions=positions).state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in transformer().state_dict().items()
    }


@pytest.mark.parametrize("positions", ["rope3d", "none"])
def test_nothing_of_a_grid_but_relative_places_is_known(positions):
    """Equal tokens everywhere come out equal everywhere: a softmax of any scores over equal values is the value."""
    output = transformer(positions=positions)(torch.randn(24).expand(1, 2, 3, 2, 24))
    torch.testing.assert_close(output, output[:, :1, :1, :1].expand_as(output), atol=1e-5, rtol=1e-5)


def test_sincos_is_added_to_the_tokens():
    embeddings = torch.randn(2, 2, 3, 2, 24)
    added = sincos3d(GRID, embed_dim=24, device=torch.device("cpu")).reshape(2, 3, 2, 24)
    assert torch.equal(transformer(positions="sincos3d")(embeddings), transformer(positions="none")(embeddings + added))


@pytest.mark.parametrize("positions", ["rope1d", "sincos3d", "none"])
def test_a_forward_pass_is_one_graph(positions):
    model = transformer(positions=positions)
    embeddings = torch.randn(1, 2, 3, 2, 24)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(embeddings), model(embeddings))


def test_masked_attention_is_attention_without_the_masked_tokens():
    torch.manual_seed(0)
    attention = Attention(24, 2)
    tokens = torch.randn(2, 6, 24)
    key_mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    key_mask[1, ..., 4:] = False
    masked = attention(tokens, None, key_mask)
    torch.testing.assert_close(masked[0], attention(tokens[:1], None, None)[0])
    torch.testing.assert_close(masked[1, :4], attention(tokens[1:, :4], None, None)[0])
    assert not torch.allclose(masked[1, :4], attention(tokens[1:], None, None)[0, :4], atol=1e-3)


def test_checkpointed_activations_give_the_same_gradients_bit_by_bit():
    embeddings = torch.randn(2, 2, 3, 2, 24)
    gradients = []
    for enabled in (False, True):
        model = transformer()
        model.activation_checkpointing = enabled
        output = model(embeddings)
        output.square().sum().backward()
        gradients.append([output.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(kept, again) for kept, again in zip(*gradients, strict=True))


def test_checkpointing_computes_each_block_again_in_the_backward_pass():
    model = transformer()
    calls = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    model.activation_checkpointing = True
    output = model(torch.randn(1, 2, 3, 2, 24))
    assert len(calls) == 2
    output.sum().backward()
    assert len(calls) == 4


def test_output_is_normed():
    output = transformer()(10 * torch.randn(2, 2, 3, 2, 24))
    torch.testing.assert_close(output.mean(dim=-1), torch.zeros(2, 2, 3, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.var(dim=-1, correction=0), torch.ones(2, 2, 3, 2), atol=1e-3, rtol=0)
