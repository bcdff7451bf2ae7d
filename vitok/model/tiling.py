"""Clips beyond memory: encoded and decoded tile by tile, with overlap and cross-fade.

Axes: B batch, T time (frames), H height, W width; T' x H' x W' the grid of tubelets of q frames x p x p pixels,
K latent channels; n tiles along an axis.

Along every axis tiles of one length are placed evenly, so that all are equal and the last is no sliver; each overlaps
the next by what was asked or more. Where tiles overlap, their results are averaged with weights that sum to one and
that fall linearly to nothing at a tile's inner borders: no result begins or ends at once, so there is no seam.
A tile sees nothing outside itself, so the result is not that of the whole clip: benchmarks/tiling.py measures how near
it is. Memory is that of one tile's pass and of the result; call under `torch.inference_mode()`, because autograd would
keep every tile's activations.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
from einops import rearrange
from torch import Tensor

from vitok.config import Tubelet
from vitok.model.autoencoder import AutoEncoder
from vitok.model.posterior import Posterior

_AXES = ("frames", "height", "width")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """Size of a tile and of the overlap of neighbours, in frames and pixels; multiples of the model's tubelet.

    Tiles of the size the model was trained on serve best. A clip shorter than a tile along an axis is one tile there.
    """

    frames: int
    height: int
    width: int
    overlap_frames: int
    overlap_height: int
    overlap_width: int

    def __post_init__(self) -> None:
        for axis, (length, overlap) in zip(_AXES, self._lengths(), strict=True):
            if length < 1 or not 0 <= overlap < length:
                raise ValueError(
                    f"tiling: got {axis} of {length} with an overlap of {overlap}, "
                    "expected at least 1, and an overlap of 0 or more that is below it"
                )

    def in_tubelets(self, tubelet: Tubelet) -> tuple[tuple[int, int], ...]:
        """(length, overlap) of a tile along time, height and width, in tubelets.

        Raises:
            ValueError: One of them is not a multiple of the tubelet.
        """
        sides = (tubelet.frames, tubelet.patch, tubelet.patch)
        for axis, (length, overlap), side in zip(_AXES, self._lengths(), sides, strict=True):
            if length % side or overlap % side:
                raise ValueError(
                    f"tiling: got {axis} of {length} with an overlap of {overlap}, "
                    f"expected multiples of {side} for a model of tubelet {tubelet}"
                )
        return tuple(
            (length // side, overlap // side) for (length, overlap), side in zip(self._lengths(), sides, strict=True)
        )

    def _lengths(self) -> tuple[tuple[int, int], ...]:
        return (
            (self.frames, self.overlap_frames),
            (self.height, self.overlap_height),
            (self.width, self.overlap_width),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisTiles:
    """Tiles along one axis, in any unit: [start, start + length) each."""

    starts: tuple[int, ...]
    length: int

    @classmethod
    def place(cls, extent: int, *, length: int, overlap: int) -> "AxisTiles":
        """The fewest equal tiles that cover [0, extent) and overlap by at least `overlap`, evenly placed.

        >>> AxisTiles.place(11, length=4, overlap=1).starts
        (0, 2, 4, 7)
        """
        if extent <= length:
            return cls(starts=(0,), length=extent)
        num_tiles = -((overlap - extent) // (length - overlap))
        room = extent - length
        return cls(starts=tuple(index * room // (num_tiles - 1) for index in range(num_tiles)), length=length)

    @property
    def extent(self) -> int:
        """Length of what the tiles cover."""
        return self.starts[-1] + self.length

    def scaled(self, factor: int) -> "AxisTiles":
        """The same tiles in a unit `factor` times as small."""
        return AxisTiles(starts=tuple(start * factor for start in self.starts), length=self.length * factor)

    def weights(self) -> Tensor:
        """Weight of every tile at each of its places, float32 [n, length]; at each place of the axis they sum to 1.

        A tile counts by its distance to its nearest border, the two ends of the axis aside, and the counts of all tiles
        at a place are brought to the sum of 1: across two tiles' overlap, a linear cross-fade.
        """
        places = torch.arange(self.length, dtype=torch.float64) + 0.5
        last = len(self.starts) - 1
        counts = torch.full((last + 1, self.length), float(self.length), dtype=torch.float64)
        totals = torch.zeros(self.extent, dtype=torch.float64)
        for index, start in enumerate(self.starts):
            if index > 0:
                counts[index] = counts[index].minimum(places)
            if index < last:
                counts[index] = counts[index].minimum(self.length - places)
            totals[start : start + self.length] += counts[index]
        for index, start in enumerate(self.starts):
            counts[index] /= totals[start : start + self.length]
        return counts.float()


def encode_tiled(
    model: AutoEncoder, pixels: Tensor, tiling: Tiling, *, output_device: torch.device | None = None
) -> Posterior:
    """Posterior of clips, encoded tile by tile.

    Where tiles overlap, what the encoder gave for a tubelet is cross-faded: its mean, and the logarithm of its
    variance (so variances by their weighted geometric mean). That tiles disagree about a mean is an error of tiling,
    not doubt about the pixels, so it is not added to the variance. One tile over the whole clip gives bit for bit
    what `AutoEncoder.encode` gives.

    Args:
        model: Tiles are moved to its device.
        pixels: As `AutoEncoder.encode` takes them, on any device.
        tiling: Size and overlap of tiles.
        output_device: Where the posterior is put together; None: where the pixels are.

    Returns:
        Posterior over [B, T', H', W', K].

    Raises:
        ValueError: The pixels or the tiling do not fit the model.
    """
    if pixels.ndim != 5:
        raise ValueError(f"pixels: got shape {tuple(pixels.shape)}, expected [B, 3, T, H, W]")
    tubelet = model.config.tubelet
    num_frames, height, width = pixels.shape[2:]
    grid = model.config.grid(num_frames=num_frames, height=height, width=width)
    axes = _place((grid.frames, grid.height, grid.width), tiling, tubelet)
    in_pixels = _to_pixels(axes, tubelet)
    device = output_device or pixels.device
    mean = _CrossFade(axes, axis_of_time=1, device=device)
    logvar = _CrossFade(axes, axis_of_time=1, device=device)
    for tile in _tiles(axes):
        # In time the last tile may end inside a tubelet, which the model fills as it does the whole clip's.
        cut = pixels[_region(in_pixels, tile, axis_of_time=2)]
        posterior = model.encode(cut.to(_device(model)))
        mean.add(tile, posterior.mean)
        if posterior.logvar is not None:
            logvar.add(tile, posterior.logvar)
    return replace(posterior, mean=mean.result(), logvar=None if posterior.logvar is None else logvar.result())


def decode_tiled(
    model: AutoEncoder,
    latent: Tensor,
    tiling: Tiling,
    num_frames: int | None = None,
    *,
    output_device: torch.device | None = None,
) -> Tensor:
    """Pixels of latents, decoded tile by tile and cross-faded in pixels.

    One tile over the whole latent gives bit for bit what `AutoEncoder.decode` gives.

    Args:
        model: Tiles are moved to its device.
        latent: Float [B, T', H', W', K], unnormalised, on any device.
        tiling: Size and overlap of tiles.
        num_frames: As `AutoEncoder.decode` takes it.
        output_device: Where the pixels are put together; None: where the latent is.

    Returns:
        Float [B, 3, num_frames, H, W], about [-1, 1], not clamped.

    Raises:
        ValueError: The latent, the tiling or `num_frames` does not fit the model.
    """
    if latent.ndim != 5:
        raise ValueError(f"latent: got shape {tuple(latent.shape)}, expected [B, T', H', W', K]")
    tubelet = model.config.tubelet
    longest = latent.shape[1] * tubelet.frames
    if num_frames is not None and not longest - tubelet.frames < num_frames <= longest:
        raise ValueError(
            f"num_frames: got {num_frames}, expected {longest - tubelet.frames + 1} to {longest} for "
            f"{latent.shape[1]} tubelets of {tubelet.frames} frames"
        )
    axes = _place((latent.shape[1], latent.shape[2], latent.shape[3]), tiling, tubelet)
    pixels = _CrossFade(_to_pixels(axes, tubelet), axis_of_time=2, device=output_device or latent.device)
    for tile in _tiles(axes):
        pixels.add(tile, model.decode(latent[_region(axes, tile, axis_of_time=1)].to(_device(model))))
    return pixels.result()[:, :, :num_frames]


def reconstruct_tiled(
    model: AutoEncoder, pixels: Tensor, tiling: Tiling, *, output_device: torch.device | None = None
) -> Tensor:
    """Clips encoded and decoded by tiles, the posterior's mode between; arguments and errors as of `encode_tiled`.

    Returns:
        Float of the shape of the pixels, about [-1, 1], not clamped.
    """
    latent = encode_tiled(model, pixels, tiling, output_device=output_device).mode()
    return decode_tiled(model, latent, tiling, pixels.shape[2], output_device=output_device)


_Axes = tuple[AxisTiles, AxisTiles, AxisTiles]
"""Tiles along time, height and width."""
_Tile = tuple[int, int, int]
"""Which tile of each axis."""


class _CrossFade:
    """Tiles' results added up by weight, in float32 at least; where one tile lies alone its values are kept."""

    def __init__(self, axes: _Axes, *, axis_of_time: int, device: torch.device) -> None:
        self._axes = axes
        self._weights = tuple(axis.weights() for axis in axes)
        self._axis_of_time = axis_of_time
        self._device = device
        self._total: Tensor | None = None
        self._dtype = torch.float32

    def add(self, tile: _Tile, values: Tensor) -> None:
        """Add one tile's values, whose axes of time, height and width stand side by side."""
        if all(len(axis.starts) == 1 for axis in self._axes):
            self._total, self._dtype = values.to(self._device), values.dtype  # nothing to fade, so nothing to round
            return
        if self._total is None:
            shape = list(values.shape)
            shape[self._axis_of_time : self._axis_of_time + 3] = [axis.extent for axis in self._axes]
            self._dtype = values.dtype
            self._total = values.new_zeros(
                shape, dtype=torch.promote_types(values.dtype, torch.float32), device=self._device
            )
        time, rows, columns = (weights[index] for weights, index in zip(self._weights, tile, strict=True))
        weight = torch.einsum("t,h,w->thw", time, rows, columns).to(values.device)
        if self._axis_of_time == 1:
            weight = rearrange(weight, "t h w -> t h w 1")
        self._total[_region(self._axes, tile, axis_of_time=self._axis_of_time)] += (weight * values).to(self._device)

    def result(self) -> Tensor:
        """All tiles together, in the dtype the values had."""
        assert self._total is not None
        return self._total.to(self._dtype)


def _place(extents: tuple[int, int, int], tiling: Tiling, tubelet: Tubelet) -> _Axes:
    time, height, width = (
        AxisTiles.place(extent, length=length, overlap=overlap)
        for extent, (length, overlap) in zip(extents, tiling.in_tubelets(tubelet), strict=True)
    )
    return time, height, width


def _to_pixels(axes: _Axes, tubelet: Tubelet) -> _Axes:
    time, height, width = axes
    return time.scaled(tubelet.frames), height.scaled(tubelet.patch), width.scaled(tubelet.patch)


def _tiles(axes: _Axes) -> Iterator[_Tile]:
    time, height, width = (range(len(axis.starts)) for axis in axes)
    return product(time, height, width)


def _region(axes: _Axes, tile: _Tile, *, axis_of_time: int) -> tuple[slice, ...]:
    spans = (
        slice(axis.starts[index], axis.starts[index] + axis.length) for axis, index in zip(axes, tile, strict=True)
    )
    return (slice(None),) * axis_of_time + tuple(spans)


def _device(model: AutoEncoder) -> torch.device:
    return next(model.parameters()).device
