"""Networks by torch.compile such that what they give hangs on the clips alone, not on what a worker saw before them."""

from torch import nn

_MOST_SHAPES = 256
"""Compilations of one network; torch counts no further than this whatever it is told."""


def compile_networks(*networks: nn.Module) -> None:
    """Have torch compile networks in place, each when it first meets a shape, for a run in inference mode.

    By default a second shape makes the compiler give up its kernels of fixed shape for ones that take any, the ninth
    makes it give up compiling, and on a GPU it takes the kernels that were fastest as it tried them: bits would hang on
    the order of a worker's shards and on the load of its machine. So each shape has kernels of its own here, chosen
    without trying, and a network that needs more of them than there may be is an error.
    """
    for network in networks:
        network.compile(
            fullgraph=True,  # past the limit an error, where it would be uncompiled code with a warning
            dynamic=False,
            recompile_limit=_MOST_SHAPES,
            options={"deterministic": True},
        )
