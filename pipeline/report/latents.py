"""What a page says of latents: their channels in charts, how these hang together, and latents as pictures.

Axes: B clips, T time, H height, W width (in tubelets), K latent channels.
"""

from collections.abc import Sequence

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from pipeline.report.audit_data import LatentHealth
from pipeline.report.charts import Chart, Mark
from pipeline.report.notation import fixed
from pipeline.report.page import Films
from pipeline.report.pictures import film_of

_SHARE_SHOWN = 0.98
"""Of a component's values, between black and full colour."""


def latent_view(films: Films, health: LatentHealth) -> dict[str, object]:
    """Of one candidate, as the template takes it."""
    facts = [("channels", f"{len(health.mean)}"), ("dead channels", ", ".join(map(str, health.dead)) or "none")]
    facts.append(("not finite", f"{health.nan_count:,} NaN, {health.inf_count:,} Inf"))
    correlation = None
    if health.correlation is not None:
        matrix = np.array(health.correlation, np.float64)
        facts += [("strongest correlation", _strongest(matrix))]
        correlation = films.add(film_of(_matrix_picture(matrix)[None]))
    return {
        "candidate": health.candidate,
        "facts": facts,
        "charts": channel_charts(mean=health.mean, std=health.std, kl=health.kl),
        "correlation": correlation,
    }


def channel_charts(*, mean: Sequence[float], std: Sequence[float], kl: Sequence[float] | None = None) -> list[Chart]:
    """Mean with deviation, and KL where there is one, channel by channel; [K] each."""
    channels = [float(channel) for channel in range(len(mean))]
    details = [
        f"channel {channel}: {fixed(m, 3)} ± {fixed(s, 3)}"
        for channel, (m, s) in enumerate(zip(mean, std, strict=True))
    ]
    moments = Mark(
        name="mean ± std",
        x=channels,
        y=mean,
        form="dots",
        low=[m - s for m, s in zip(mean, std, strict=True)],
        high=[m + s for m, s in zip(mean, std, strict=True)],
        details=details,
    )
    charts = [Chart(title="Mean and deviation", x_label="channel", y_label="latent, mean ± std", marks=[moments])]
    if kl is not None:
        said = [f"channel {channel}: {fixed(value, 3)} nats" for channel, value in enumerate(kl)]
        bars = Mark(name="KL", x=channels, y=kl, form="bars", colour=2, details=said)
        charts.append(Chart(title="KL divergence", x_label="channel", y_label="nats a value", marks=[bars]))
    return charts


def component_pictures(latents: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint8]]:
    """Latents [T, H, W, K] each, of one K, as colours uint8 [T, H, W, 3].

    Red, green and blue are the first three principal components of all values together (Pearson, 1901), each from its
    1st to its 99th percentile; those that K or the number of values do not give are grey.
    """
    tokens = np.concatenate([rearrange(latent, "T H W K -> (T H W) K") for latent in latents]).astype(np.float64)
    centred = tokens - tokens.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :3]
    # A component has no sign of its own: its largest weight is made positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    scores = np.zeros((len(tokens), 3))
    scores[:, : axes.shape[1]] = centred @ axes
    low, high = np.quantile(scores, [(1 - _SHARE_SHOWN) / 2, (1 + _SHARE_SHOWN) / 2], axis=0)
    spread = np.where(high - low > 1e-12 * max(1.0, float(np.abs(tokens).max())), high - low, np.inf)
    middle = np.where(np.isinf(spread), 0.5, 0.0)
    colours = np.clip((scores - low) / spread + middle, 0.0, 1.0)
    pictures = np.split(
        np.round(255 * colours).astype(np.uint8), np.cumsum([latent[..., 0].size for latent in latents])[:-1]
    )
    return [picture.reshape(*latent.shape[:3], 3) for picture, latent in zip(pictures, latents, strict=True)]


def _strongest(matrix: NDArray[np.float64]) -> str:
    """The largest correlation of two channels, by its size."""
    others = np.where(np.eye(len(matrix), dtype=bool) | ~np.isfinite(matrix), 0.0, matrix)
    if not others.any():
        return "none"
    first, second = divmod(int(np.abs(others).argmax()), len(matrix))
    return f"{fixed(float(others[first, second]), 2)}, channels {first} and {second}"


def _matrix_picture(matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Correlations [K, K] as colours [K, K, 3]: blue -1, white 0, red 1, grey NaN."""
    strength = np.nan_to_num(np.abs(matrix))[..., None]
    ends = np.where((matrix < 0)[..., None], [33, 102, 172], [178, 24, 43])
    colours = np.where(np.isnan(matrix)[..., None], 128, 255 + strength * (ends - 255))
    picture: NDArray[np.uint8] = np.round(np.clip(colours, 0, 255)).astype(np.uint8)
    return picture
