"""Memory of batches: what is kept is never written again, what is let go is."""

import gc

import pytest
import torch

from vitok.latents.buffers import Buffers


def _filled(buffers, value, shape=(8, 4)):
    tensor = buffers.empty(shape, torch.float16)
    return tensor.fill_(value)


def test_what_is_kept_keeps_its_values():
    buffers = Buffers()
    kept = [_filled(buffers, value) for value in range(50)]
    assert [tensor.unique().tolist() for tensor in kept] == [[value] for value in range(50)]


@pytest.mark.parametrize(
    "view",
    [lambda tensor: tensor[3:], lambda tensor: tensor.numpy(), lambda tensor: torch.from_dlpack(tensor.view(-1))],
    ids=["slice", "numpy", "dlpack"],
)
def test_a_view_keeps_the_memory_too(view):
    buffers = Buffers()
    kept = view(_filled(buffers, 7))
    gc.collect()
    for value in range(20):
        _filled(buffers, value)
    assert set(kept.reshape(-1).tolist()) == {7}


def test_memory_that_is_let_go_is_lent_again():
    buffers = Buffers()
    places = set()
    for value in range(50):
        tensor = _filled(buffers, value, shape=(8 - value % 3, 4))
        places.add(tensor.data_ptr())
        del tensor
    assert len(places) == 1


def test_a_tensor_has_the_shape_and_dtype_asked_for():
    buffers = Buffers()
    for shape, dtype in (((3, 5), torch.float32), ((0, 5), torch.bfloat16), ((2, 1, 4, 4, 16), torch.float16)):
        tensor = buffers.empty(shape, dtype)
        assert (tuple(tensor.shape), tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
