"""The diffusion transformer: nothing at first, then time, class and place matter; grids of any kind."""

import pytest
import torch

from vitok.config import Grid
from vitok.generator.config import DitConfig
from vitok.generator.dit import Dit, drop_classes

TIMES = torch.tensor([0.0, 400.0, 999.0])
CLASSES = torch.tensor([0, 2, 5])


def network(*, trained=True, **options):
    """A nano transformer, its zeros replaced by noise where it is to pass for a trained one."""
    torch.manual_seed(0)
    dit = Dit(DitConfig.from_name("N", latent_channels=4, num_classes=5, **options))
    if trained:
        for parameter in dit.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return dit


def latents(*grid):
    return torch.randn(3, *grid, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("grid", [(1, 4, 4), (1, 2, 5), (3, 2, 4)])
def test_an_untrained_network_says_nothing(grid):
    assert torch.equal(network(trained=False)(latents(*grid), TIMES, CLASSES), torch.zeros(3, *grid, 8))


def test_an_untrained_network_learns_all_of_itself_in_time():
    """adaLN-zero holds the gradients of all but the last layer at 0 in the first step alone."""
    dit = network(trained=False)
    optimizer = torch.optim.SGD(dit.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (dit(latents(1, 2, 2), TIMES, CLASSES) - 1.0).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in dit.parameters())


@pytest.mark.parametrize("options", [{}, {"positions": "learned_rope1d", "grid": Grid(frames=1, height=4, width=4)}])
def test_time_class_and_place_matter(options):
    dit = network(**options)
    for parameter in dit.parameters():
        parameter.data *= 3.0  # so that tokens attend to some more than to others
    given = latents(1, 4, 4)
    with torch.no_grad():
        output = dit(given, TIMES, CLASSES)
        assert not torch.allclose(dit(given, TIMES + 1.0, CLASSES), output)
        assert not torch.allclose(dit(given, TIMES, torch.tensor([1, 1, 1])), output)
        mirrored = dit(given.flip(3), TIMES, CLASSES)
        assert not torch.allclose(mirrored.flip(3), output, atol=1e-3)
        constant = dit(torch.ones(3, 1, 4, 4, 4), TIMES, CLASSES)
        # Rotary positions alone cannot tell tokens apart that are all the same.
        assert (constant.std(dim=(1, 2, 3)).max() > 1e-3) == bool(options)


def test_a_sample_does_not_see_the_others():
    dit, given = network(), latents(2, 3, 2)
    with torch.no_grad():
        whole = dit(given, TIMES, CLASSES)
        for place in range(3):
            alone = dit(given[place : place + 1], TIMES[place : place + 1], CLASSES[place : place + 1])
            torch.testing.assert_close(alone[0], whole[place])


def test_activation_checkpointing_changes_no_gradient():
    found = []
    for enabled in (False, True):
        dit = network()
        dit.activation_checkpointing = enabled
        dit(latents(1, 2, 2), TIMES, CLASSES).square().mean().backward()
        found.append([parameter.grad for parameter in dit.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


def test_other_shapes_and_grids_are_refused():
    with pytest.raises(ValueError, match=r"got shape \(3, 4, 4, 4\), expected \[B, T', H', W', 4\]"):
        network()(torch.zeros(3, 4, 4, 4), TIMES, CLASSES)
    dit = network(positions="learned_rope1d", grid=Grid(frames=1, height=4, width=4))
    with pytest.raises(ValueError, match="got grid 1x2x2, the learned positions are of 1x4x4"):
        dit(latents(1, 2, 2), TIMES, CLASSES)


def test_labels_are_dropped_as_often_as_asked():
    classes = torch.arange(5).repeat(4000)
    dropped = drop_classes(classes, null_class=5, probability=0.1, generator=torch.Generator().manual_seed(0))
    share = (dropped == 5).double().mean()
    assert abs(share - 0.1) < 0.01
    assert torch.equal(dropped[dropped != 5], classes[dropped != 5])
    for probability, expected in ((0.0, classes), (1.0, torch.full_like(classes, 5))):
        generator = torch.Generator().manual_seed(0)
        assert torch.equal(drop_classes(classes, null_class=5, probability=probability, generator=generator), expected)
