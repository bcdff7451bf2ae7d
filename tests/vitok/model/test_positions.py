"""Parts of the axes, and sin-cos positions against their formula."""

import itertools

import numpy as np
import pytest
import torch

from vitok.config import SIZES, Grid
from vitok.model.positions import axis_pairs, sincos3d

GRID = Grid(frames=3, height=4, width=5)
CPU = torch.device("cpu")


def test_axis_pairs_of_the_sizes():
    assert axis_pairs(SIZES["S"].head_dim) == (10, 11, 11)
    assert axis_pairs(SIZES["L"].head_dim) == (12, 12, 12)


@pytest.mark.parametrize("head_dim", range(6, 130, 2))
def test_axis_pairs_are_all_pairs_shared_nearly_equally(head_dim):
    pairs = axis_pairs(head_dim)
    assert sum(pairs) == head_dim // 2
    assert max(pairs) - min(pairs) <= 1
    assert pairs[1] == pairs[2]


@pytest.mark.parametrize("head_dim", [0, 4, 7])
def test_axis_pairs_refuses_what_it_cannot_share(head_dim):
    with pytest.raises(ValueError, match=f"got {head_dim}"):
        axis_pairs(head_dim)


@pytest.mark.parametrize("size", SIZES)
def test_widths_of_the_sizes_are_shared_equally(size):
    assert len(set(axis_pairs(SIZES[size].embed_dim))) == 1


@pytest.mark.parametrize(("embed_dim", "pairs"), [(12, (2, 2, 2)), (64, (10, 11, 11)), (20, (4, 3, 3))])
def test_sincos_equals_the_formula_in_numpy(embed_dim, pairs):
    expected = np.empty((GRID.num_tokens, embed_dim))
    positions = itertools.product(range(GRID.frames), range(GRID.height), range(GRID.width))
    for token, position in enumerate(positions):
        angles = [place * 10000.0 ** (-np.arange(n) / n) for place, n in zip(position, pairs, strict=True)]
        expected[token] = np.concatenate([wave(axis) for axis in angles for wave in (np.sin, np.cos)])
    found = sincos3d(GRID, embed_dim=embed_dim, device=CPU)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_sincos_products_depend_on_differences_of_positions_alone():
    positions = sincos3d(GRID, embed_dim=66, device=CPU).double().unflatten(0, (3, 4, 5))
    products = torch.einsum("thwd,THWd->thwTHW", positions, positions)
    torch.testing.assert_close(products[1:, 1:, 1:, 1:, 1:, 1:], products[:-1, :-1, :-1, :-1, :-1, :-1])


def test_sincos_tells_every_token_from_every_other():
    positions = sincos3d(GRID, embed_dim=12, device=CPU)
    assert (torch.cdist(positions, positions) + torch.eye(GRID.num_tokens)).min() > 0.1


def test_sincos_of_a_larger_grid_holds_that_of_a_smaller():
    small = sincos3d(GRID, embed_dim=12, device=CPU).unflatten(0, (3, 4, 5))
    large = sincos3d(Grid(frames=4, height=6, width=7), embed_dim=12, device=CPU).unflatten(0, (4, 6, 7))
    assert torch.equal(large[:3, :4, :5], small)
