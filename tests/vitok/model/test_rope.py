"""Rotary positions: relative, norm-preserving, on three axes or on one."""

import itertools

import numpy as np
import pytest
import torch

from vitok.config import Grid
from vitok.model.rope import Rotation

GRID = Grid(frames=3, height=4, width=5)
CPU = torch.device("cpu")


def rotation_of(head_dim, grid=GRID):
    return Rotation.of_grid(grid, head_dim=head_dim, theta=10000.0, device=CPU)


@pytest.mark.parametrize("head_dim", [6, 12, 64, 72])
def test_dot_products_depend_on_differences_of_positions_alone(head_dim):
    torch.manual_seed(0)
    rotation = rotation_of(head_dim)
    query, key = torch.randn(2, head_dim, dtype=torch.float64)
    queries = rotation.turn(query.expand(GRID.num_tokens, -1))
    keys = rotation.turn(key.expand(GRID.num_tokens, -1))
    scores = queries @ keys.T
    positions = list(itertools.product(range(GRID.frames), range(GRID.height), range(GRID.width)))
    by_difference = {}
    for (i, a), (j, b) in itertools.product(enumerate(positions), repeat=2):
        difference = tuple(np.subtract(a, b).tolist())
        by_difference.setdefault(difference, []).append(scores[i, j].item())
    for same in by_difference.values():
        assert max(same) - min(same) < 1e-5
    # Each axis counts: a step along any of them is another score than no step, and than a step along another.
    steps = [by_difference[step][0] for step in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert min(abs(a - b) for a, b in itertools.combinations(steps, 2)) > 1e-3


def test_norm_is_preserved():
    torch.manual_seed(0)
    heads = torch.randn(2, 3, GRID.num_tokens, 64, dtype=torch.float64)
    turned = rotation_of(64).turn(heads)
    torch.testing.assert_close(turned.norm(dim=-1), heads.norm(dim=-1), rtol=1e-6, atol=0)
    assert not torch.allclose(turned, heads)


def test_first_token_is_not_turned():
    heads = torch.randn(GRID.num_tokens, 64)
    assert torch.equal(rotation_of(64).turn(heads)[0], heads[0])


def test_equals_complex_numbers_in_numpy():
    head_dim, theta = 16, 10000.0
    heads = np.random.default_rng(0).normal(size=(GRID.num_tokens, head_dim))
    expected = np.empty_like(heads)
    positions = itertools.product(range(GRID.frames), range(GRID.height), range(GRID.width))
    for token, position in enumerate(positions):
        pair = 0
        for axis, num_pairs in enumerate((2, 3, 3)):
            for index in range(num_pairs):
                angle = position[axis] * theta ** (-index / num_pairs)
                turned = complex(heads[token, 2 * pair], heads[token, 2 * pair + 1]) * np.exp(1j * angle)
                expected[token, 2 * pair : 2 * pair + 2] = turned.real, turned.imag
                pair += 1
    found = rotation_of(head_dim).turn(torch.from_numpy(heads))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_half_precision_is_turned_in_float32():
    torch.manual_seed(0)
    heads = torch.randn(1, 2, GRID.num_tokens, 64, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rotation = rotation_of(64)
        turned = rotation.turn(heads)
    assert turned.dtype == torch.bfloat16
    assert rotation.cosine.dtype == torch.float32
    assert torch.equal(rotation.cosine, rotation_of(64).cosine)
    assert torch.equal(turned, rotation_of(64).turn(heads.float()).bfloat16())


def test_1d_dot_products_depend_on_the_difference_of_indices_alone():
    torch.manual_seed(0)
    head_dim, num_tokens = 64, 50
    query, key = torch.randn(2, head_dim, dtype=torch.float64)
    for first in (0, 1000):  # also far from the origin
        rotation = Rotation.of_indices(torch.arange(first, first + num_tokens), head_dim=head_dim, theta=10000.0)
        queries = rotation.turn(query.expand(1, num_tokens, -1))[0]
        keys = rotation.turn(key.expand(1, num_tokens, -1))[0]
        scores = (queries @ keys.T).numpy()
        diagonals = [np.diagonal(scores, offset) for offset in range(1 - num_tokens, num_tokens)]
        assert max(np.ptp(diagonal) for diagonal in diagonals) < 1e-3
        if first == 0:
            near_origin = [diagonal[0] for diagonal in diagonals]
        np.testing.assert_allclose([diagonal[0] for diagonal in diagonals], near_origin, atol=1e-3)
    assert np.ptp(near_origin) > 1.0


def test_1d_equals_complex_numbers_in_numpy():
    heads = np.random.default_rng(0).normal(size=(9, 16))
    frequencies = 10000.0 ** (-np.arange(8) / 8)
    turned = heads.view(np.complex128) * np.exp(1j * np.outer(np.arange(9), frequencies))
    rotation = Rotation.of_indices(torch.arange(9), head_dim=16, theta=10000.0)
    np.testing.assert_allclose(rotation.turn(torch.from_numpy(heads[None]))[0], turned.view(np.float64), atol=1e-5)


def test_1d_indices_of_each_clip_turn_all_its_heads():
    torch.manual_seed(0)
    indices = torch.tensor([[0, 1, 2, 3], [0, 2, 4, 6]])
    heads = torch.randn(2, 3, 4, 8)
    turned = Rotation.of_indices(indices, head_dim=8, theta=100.0).turn(heads)
    for clip, own in enumerate(indices):
        assert torch.equal(Rotation.of_indices(own, head_dim=8, theta=100.0).turn(heads[clip]), turned[clip])
    assert not torch.equal(turned[0], Rotation.of_indices(indices[1], head_dim=8, theta=100.0).turn(heads[0]))


def test_1d_refuses_an_odd_head():
    with pytest.raises(ValueError, match="got 7, expected an even number"):
        Rotation.of_indices(torch.arange(3), head_dim=7, theta=10000.0)
