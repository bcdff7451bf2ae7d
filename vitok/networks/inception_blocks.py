"""Inception-v3 as tables: which convolutions and pools, by which names, in which order.

Szegedy et al., arXiv:1512.00567, as torchvision lays it out; the pools differ between flavours. Trailing numbers of
functions are the side of the maps for a picture of 299 x 299.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Flavour = Literal["2015", "torchvision"]
Pool = Literal["halve", "average", "average_with_padding", "maximum"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Convolution:
    """One convolution with its normalisation and ReLU."""

    name: str
    """torchvision's."""
    channels: int
    kernel: tuple[int, int]
    stride: int = 1
    padded: bool = True
    """By zeros, so that stride 1 keeps the size."""


Step = Convolution | tuple[Convolution, Convolution] | Pool
"""A pair of convolutions sees the same maps; their outputs are stacked."""
Branch = tuple[Step, ...]


def _conv(name: str, channels: int, kernel: str = "1x1", *, stride: int = 1, padded: bool = True) -> Convolution:
    height, _, width = kernel.partition("x")
    return Convolution(name=name, channels=channels, kernel=(int(height), int(width)), stride=stride, padded=padded)


def _halving(name: str, channels: int) -> Convolution:
    return _conv(name, channels, "3x3", stride=2, padded=False)


STEM: Branch = (
    _halving("Conv2d_1a_3x3", 32),
    _conv("Conv2d_2a_3x3", 32, "3x3", padded=False),
    _conv("Conv2d_2b_3x3", 64, "3x3"),
    "halve",
    _conv("Conv2d_3b_1x1", 80),
    _conv("Conv2d_4a_3x3", 192, "3x3", padded=False),
    "halve",
)


def _block_35(pooled: int, pool: Pool) -> tuple[Branch, ...]:
    return (
        (_conv("branch1x1", 64),),
        (_conv("branch5x5_1", 48), _conv("branch5x5_2", 64, "5x5")),
        (_conv("branch3x3dbl_1", 64), _conv("branch3x3dbl_2", 96, "3x3"), _conv("branch3x3dbl_3", 96, "3x3")),
        (pool, _conv("branch_pool", pooled)),
    )


def _block_17(width: int, pool: Pool) -> tuple[Branch, ...]:
    return (
        (_conv("branch1x1", 192),),
        (_conv("branch7x7_1", width), _conv("branch7x7_2", width, "1x7"), _conv("branch7x7_3", 192, "7x1")),
        (
            _conv("branch7x7dbl_1", width),
            _conv("branch7x7dbl_2", width, "7x1"),
            _conv("branch7x7dbl_3", width, "1x7"),
            _conv("branch7x7dbl_4", width, "7x1"),
            _conv("branch7x7dbl_5", 192, "1x7"),
        ),
        (pool, _conv("branch_pool", 192)),
    )


def _block_8(pool: Pool) -> tuple[Branch, ...]:
    return (
        (_conv("branch1x1", 320),),
        (_conv("branch3x3_1", 384), (_conv("branch3x3_2a", 384, "1x3"), _conv("branch3x3_2b", 384, "3x1"))),
        (
            _conv("branch3x3dbl_1", 448),
            _conv("branch3x3dbl_2", 384, "3x3"),
            (_conv("branch3x3dbl_3a", 384, "1x3"), _conv("branch3x3dbl_3b", 384, "3x1")),
        ),
        (pool, _conv("branch_pool", 192)),
    )


_TO_17: tuple[Branch, ...] = (
    (_halving("branch3x3", 384),),
    (_conv("branch3x3dbl_1", 64), _conv("branch3x3dbl_2", 96, "3x3"), _halving("branch3x3dbl_3", 96)),
    ("halve",),
)
_TO_8: tuple[Branch, ...] = (
    (_conv("branch3x3_1", 192), _halving("branch3x3_2", 320)),
    (
        _conv("branch7x7x3_1", 192),
        _conv("branch7x7x3_2", 192, "1x7"),
        _conv("branch7x7x3_3", 192, "7x1"),
        _halving("branch7x7x3_4", 192),
    ),
    ("halve",),
)


def blocks(flavour: Flavour) -> dict[str, tuple[Branch, ...]]:
    """Branches of each block by torchvision's name, in the order of the network."""
    average: Pool = "average" if flavour == "2015" else "average_with_padding"
    return {
        "Mixed_5b": _block_35(32, average),
        "Mixed_5c": _block_35(64, average),
        "Mixed_5d": _block_35(64, average),
        "Mixed_6a": _TO_17,
        "Mixed_6b": _block_17(128, average),
        "Mixed_6c": _block_17(160, average),
        "Mixed_6d": _block_17(160, average),
        "Mixed_6e": _block_17(192, average),
        "Mixed_7a": _TO_8,
        "Mixed_7b": _block_8(average),
        # A quirk of the 2015 graph, which every FID since has kept.
        "Mixed_7c": _block_8("maximum" if flavour == "2015" else average),
    }


def convolutions(branch: Branch) -> Iterator[tuple[Convolution, ...]]:
    """The steps of a branch that are convolutions, each as the tuple of those that see the same maps."""
    for step in branch:
        if not isinstance(step, str):
            yield step if isinstance(step, tuple) else (step,)
