"""Mean and deviation of latents per channel: as the store measured them, or as its tokenizer rules them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

Rule = Literal["corpus", "tokenizer"]
"""By what was measured over the store, or by the constants that the tokenizer's authors give."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentStatistics:
    """Moments of the stored means, per channel; the mirrored view's are not in them."""

    count: int
    """Values of one channel."""
    mean: Tensor
    """[K], float64."""
    std: Tensor
    """[K], float64."""


def measured(document: Mapping[str, object], grid: tuple[int, int, int] | None = None) -> LatentStatistics:
    """Moments over the whole store whose `store.json` this is, or over one bucket.

    Raises:
        KeyError: The store has no such bucket.
    """
    normalisation = cast(Mapping[str, object], document["normalisation"])
    if grid is None:
        found = normalisation["all"]
    else:
        buckets = cast(Mapping[str, object], normalisation["buckets"])
        found = buckets["grid=" + "x".join(map(str, grid))]
    moments = cast(Mapping[str, object], found)
    return LatentStatistics(
        count=cast(int, moments["count"]), mean=_vector(moments["mean"]), std=_vector(moments["std"])
    )


def ruled(document: Mapping[str, object], *, url: str) -> tuple[Tensor, Tensor]:
    """Mean and std that the tokenizer's authors give, float64 [K] each.

    Raises:
        ValueError: The store's tokenizer has no such rule.
    """
    normalisation = cast(Mapping[str, object], document["normalisation"])
    rule = cast(Mapping[str, object] | None, normalisation.get("tokenizer"))
    if rule is None:
        raise ValueError(
            f"{url}: its tokenizer has no normalisation of its own (store.json has no normalisation.tokenizer): "
            'normalise by "corpus"'
        )
    return _vector(rule["mean"]), _vector(rule["std"])


def merged(parts: Sequence[tuple[LatentStatistics, float]]) -> tuple[Tensor, Tensor]:
    """Mean and std of a mixture, float64 [K] each: statistics of its parts, and how often each is passed over."""
    weights = torch.tensor([part.count * weight for part, weight in parts], dtype=torch.float64)
    shares = (weights / weights.sum())[:, None]
    mean = (shares * torch.stack([part.mean for part, _ in parts])).sum(dim=0)
    spread = torch.stack([part.std.square() + (part.mean - mean).square() for part, _ in parts])
    return mean, (shares * spread).sum(dim=0).sqrt()


def normalised(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(z - mean) / std, float32 [..., K]; a channel whose std is 0 comes out as 0."""
    factor = torch.where(std > 0, 1 / std, 0.0)
    shift, factor = (values.to(latents.device, torch.float32) for values in (-mean * factor, factor))
    return torch.addcmul(shift, latents.to(torch.float32), factor)


def _vector(values: object) -> Tensor:
    return torch.tensor(cast(Sequence[float], values), dtype=torch.float64)
