"""A user's own auto-encoder, known by its three members alone: the rest is found by trying.

Axes: B batch, T' x H' x W' the grid of latents, K latent channels.
"""

import importlib
from collections.abc import Collection

import torch
from torch import Tensor, nn

from vitok.adapters.protocol import Adapter, ClipShape, Description
from vitok.config import Grid
from vitok.model.posterior import Posterior

_MEMBERS = ("encode", "decode", "fingerprint")


class ForeignAdapter:
    """An object with the members of `vitok.adapters.protocol.Adapter`."""

    def __init__(self, adapter: Adapter, *, name: str, device: str) -> None:
        """Wrap an object.

        Args:
            adapter: In evaluation mode.
            name: Where it came from, for errors and the store.
            device: Where pixels and latents of it are.
        """
        self._adapter = adapter
        self._name = name
        self._device = device

    @property
    def tubelet(self) -> None:
        """Not known."""

    @property
    def fingerprint(self) -> str:
        """The object's own.

        Raises:
            ValueError: It is no text, or empty.
        """
        found: object = self._adapter.fingerprint
        if not isinstance(found, str) or not found:
            raise ValueError(f"{self._name}: fingerprint is {found!r}, expected text that names the weights")
        return found

    def encode(self, pixels: Tensor) -> Posterior:
        """Posterior over [B, T', H', W', K] of clips [B, 3, T, H, W].

        Raises:
            TypeError: The object returns no `Posterior`.
            ValueError: It returns one of other axes.
        """
        posterior: object = self._adapter.encode(pixels)
        if not isinstance(posterior, Posterior):
            raise TypeError(
                f"{self._name}: encode returned {type(posterior).__name__}, expected vitok.model.posterior.Posterior"
            )
        mean, logvar = posterior.mean, posterior.logvar
        if mean.ndim != 5 or len(mean) != len(pixels) or (logvar is not None and logvar.shape != mean.shape):
            raise ValueError(
                f"{self._name}: encode returned a mean {tuple(mean.shape)} and a logvar "
                f"{None if logvar is None else tuple(logvar.shape)} for pixels {tuple(pixels.shape)}, expected "
                f"[{len(pixels)}, T', H', W', K] of both"
            )
        return posterior

    def decode(self, latent: Tensor, *, num_frames: int) -> Tensor:
        """Pixels [B, 3, num_frames, H, W] of latents [B, T', H', W', K]."""
        return self._adapter.decode(latent, num_frames=num_frames)

    def compile(self) -> None:
        """Refuse.

        Raises:
            ValueError: Always: which of the object's parts are networks is not known.
        """
        raise ValueError(
            f"{self._name}: cannot be compiled from outside, where its networks are not known: leave --compile out, "
            "and where they gain by it call torch.nn.Module.compile of each in that function"
        )

    @torch.inference_mode()
    def describe(self, shapes: Collection[ClipShape]) -> Description:
        """By encoding one grey clip of every shape.

        Raises:
            ValueError: There is no shape to try, or the latents differ between shapes in more than their grid.
        """
        if not shapes:
            raise ValueError(f"{self._name}: there is no clip, and without one nothing is known of its latents")
        grids, kinds = {}, set()
        for shape in sorted(shapes):
            posterior = self.encode(torch.zeros(1, 3, *shape, device=self._device))
            _, frames, height, width, channels = posterior.mean.shape
            grids[shape] = Grid(frames=frames, height=height, width=width)
            kinds.add((channels, posterior.logvar is not None))
        if len(kinds) > 1:
            raise ValueError(
                f"{self._name}: latents differ from one shape of clip to another, (channels, has a variance) are "
                f"{sorted(kinds)}: a store holds one kind"
            )
        ((channels, learns_variance),) = kinds
        return Description(
            config={"adapter": "python", "function": self._name},
            channels=channels,
            learns_variance=learns_variance,
            rule=None,
            grid_of=grids.__getitem__,
        )


def load_foreign(name: str, *, device: str) -> ForeignAdapter:
    """Call a function without arguments and wrap what it returns.

    Args:
        name: "module:function", importable on every worker.
        device: Where the auto-encoder is to run.

    Raises:
        ValueError: There is no such module or function, or what it returns lacks a member.
    """
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name}: {error}; the module must be on the Python path of this process") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"{name}: {module.__file__} has no function {function_name}")
    adapter = function()
    missing = [member for member in _MEMBERS if not hasattr(adapter, member)]
    if missing:
        raise ValueError(
            f"{name} returned {type(adapter).__name__} without {', '.join(missing)}; expected an object with "
            f"{', '.join(_MEMBERS)} (vitok.adapters.protocol.Adapter)"
        )
    if isinstance(adapter, nn.Module):
        adapter.eval().to(device)
    return ForeignAdapter(adapter, name=name, device=device)
