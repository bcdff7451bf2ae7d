"""A user's own auto-encoder by name: found by trying, and refused with what it lacks."""

import pytest
import torch

from tests.vitok.adapters.models import Wrong
from vitok.adapters.foreign import ForeignAdapter
from vitok.adapters.load import load_adapter
from vitok.adapters.name import is_function_name
from vitok.config import Grid
from vitok.model.posterior import Posterior

MODULE = "tests.vitok.adapters.models"


def test_its_members_pass_through():
    adapter = load_adapter(f"{MODULE}:average")
    assert adapter.fingerprint == "average-1"
    pixels = torch.rand(2, 3, 4, 16, 24)
    posterior = adapter.encode(pixels)
    assert posterior.logvar is None
    torch.testing.assert_close(posterior.mean[1, 0, 0, 2], pixels[1, :, :, :8, 16:].mean((1, 2, 3)))
    decoded = adapter.decode(posterior.mean, num_frames=4)
    assert decoded.shape == pixels.shape
    torch.testing.assert_close(decoded[1, :, 3, 7, 23], posterior.mean[1, 0, 0, 2])


def test_it_is_described_by_trying():
    shapes = {(1, 16, 24), (4, 16, 24), (4, 8, 8)}
    adapter = load_adapter(f"{MODULE}:average")
    description = adapter.describe(shapes)
    assert description.config == {"adapter": "python", "function": f"{MODULE}:average"}
    assert (description.channels, description.learns_variance, description.rule) == (3, False, None)
    assert adapter.tubelet is None
    assert {shape: description.grid_of(shape) for shape in shapes} == {
        (1, 16, 24): Grid(frames=1, height=2, width=3),
        (4, 16, 24): Grid(frames=1, height=2, width=3),
        (4, 8, 8): Grid(frames=1, height=1, width=1),
    }


def test_a_module_is_put_in_evaluation_mode():
    adapter = load_adapter(f"{MODULE}:untrained")
    assert isinstance(adapter, ForeignAdapter)
    assert not adapter._adapter.training


def test_its_networks_are_not_known_to_a_compiler():
    with pytest.raises(ValueError, match=r"models:average: cannot be compiled from outside"):
        load_adapter(f"{MODULE}:average").compile()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:build", "No module named 'no_such_module_here'; the module must be on the Python path"),
        (f"{MODULE}:absent", "models.py has no function absent"),
        (f"{MODULE}:CONFIGS", "models.py has no function CONFIGS"),
        (f"{MODULE}:no_members", "returned Identity without encode, decode, fingerprint"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(name, message):
    with pytest.raises(ValueError, match=message):
        load_adapter(name)


def wrong(given):
    return ForeignAdapter(Wrong(given), name="my:build", device="cpu")


def posterior(*shape, logvar=None):
    return Posterior(mean=torch.zeros(shape), logvar=None if logvar is None else torch.zeros(logvar))


@pytest.mark.parametrize(
    "given",
    [
        posterior(2, 4, 2, 2),
        posterior(1, 1, 2, 2, 4),
        posterior(2, 1, 2, 2, 4, logvar=(2, 1, 2, 2, 1)),
    ],
)
def test_a_posterior_of_other_axes_is_refused(given):
    with pytest.raises(ValueError, match=r"my:build: encode returned a mean .* expected \[2, T', H', W', K\] of both"):
        wrong(lambda _: given).encode(torch.zeros(2, 3, 1, 16, 16))


def test_something_else_than_a_posterior_is_refused():
    with pytest.raises(TypeError, match="encode returned Tensor, expected"):
        wrong(lambda pixels: pixels).encode(torch.zeros(2, 3, 1, 16, 16))


def test_latents_that_differ_in_more_than_their_grid_are_refused():
    adapter = wrong(lambda pixels: posterior(len(pixels), 1, 2, 2, pixels.shape[2]))
    with pytest.raises(ValueError, match=r"\[\(1, False\), \(4, False\)\]: a store holds one kind"):
        adapter.describe({(1, 16, 16), (4, 16, 16)})


def test_without_a_clip_nothing_is_known():
    with pytest.raises(ValueError, match="there is no clip"):
        load_adapter(f"{MODULE}:average").describe([])


@pytest.mark.parametrize("fingerprint", ["", None, 3])
def test_a_fingerprint_that_names_nothing_is_refused(fingerprint):
    adapter = Wrong(None)
    adapter.fingerprint = fingerprint
    with pytest.raises(ValueError, match="expected text that names the weights"):
        _ = ForeignAdapter(adapter, name="my:build", device="cpu").fingerprint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("package.module:build", True),
        ("module:build", True),
        ("s3://bucket/vae", False),
        ("memory:/vae", False),
        ("runs/training/tokenizer", False),
        ("C:/vae", False),
        ("module:build()", False),
        ("module", False),
        (".module:build", False),
    ],
)
def test_a_function_is_told_from_a_place(text, expected):
    assert is_function_name(text) == expected
