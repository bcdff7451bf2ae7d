"""The model card of a pretrained folder: what the model is, what it costs, how well it does, how to load it.

Markdown with YAML front matter, as model hubs read it. The license of the weights is their owner's to state, so the
front matter has none.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vitok.config import SIZES, AutoEncoderConfig, Tubelet
from vitok.model.checkpoint import ChannelStatistics
from vitok.model.count import count

_CLIPS = ((1, 256), (16, 128), (16, 256))
"""Frames, and height and width in pixels, of what the paper measures; images alone where q = 1."""
_BOTTLENECKS = {
    "kl": "a diagonal Gaussian",
    "layer_norm": "a vector of zero mean and unit variance",
    "tanh": "a vector in [-1, 1]",
    "none": "a vector",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """Measured quality, with what a reader must know to compare it."""

    metrics: Mapping[str, float]
    """Value by name of the metric."""
    protocol: str
    """Clips, preprocessing, rounding and latent that the values belong to, in words."""

    def __post_init__(self) -> None:
        if not self.metrics or not all(map(math.isfinite, self.metrics.values())):
            raise ValueError(f"audit metrics: got {dict(self.metrics)}, expected finite numbers by name, at least one")
        if not self.protocol.strip():
            raise ValueError("audit protocol: got none, expected words: numbers of an unknown protocol compare to none")


def variant_name(config: AutoEncoderConfig) -> str:
    """Name of a config's sizes and tubelet as the paper has it; "custom" for sides that have no letter.

    >>> variant_name(AutoEncoderConfig.from_name("S-B/4x8"))
    'S-B/4x8'
    """
    letters = {size: letter for letter, size in SIZES.items()}
    tubelet = str(config.tubelet) if config.tubelet.frames > 1 else str(config.tubelet.patch)
    return f"{letters.get(config.encoder, 'custom')}-{letters.get(config.decoder, 'custom')}/{tubelet}"


def model_card(config: AutoEncoderConfig, *, statistics: ChannelStatistics | None, audit: Audit | None) -> str:
    """Text of the README.md of a pretrained folder.

    Args:
        config: Of the model; its parameters and multiply-accumulates are counted anew.
        statistics: Of its latents, where known.
        audit: Of its reconstructions, where measured.
    """
    return "\n".join(
        [
            *_front_matter(config),
            *_description(config),
            *_loading(config),
            *_size(config),
            *_latents(statistics),
            *_quality(audit),
        ]
    )


def _front_matter(config: AutoEncoderConfig) -> list[str]:
    kind = "video" if config.tubelet.frames > 1 else "image"
    tags = ("vitok", "autoencoder", f"{kind}-tokenizer", "latents")
    return ["---", "library_name: vitok", "tags:", *(f"- {tag}" for tag in tags), "---", ""]


def _description(config: AutoEncoderConfig) -> list[str]:
    tubelet = config.tubelet
    kind = "images and videos" if tubelet.frames > 1 else "images"
    return [
        f"# ViTok {variant_name(config)}, {config.latent_channels} channels",
        "",
        (
            f"A transformer auto-encoder of {kind} ([ViTok](https://arxiv.org/abs/2501.09755)): each tubelet of "
            f"{tubelet.frames} x {tubelet.patch} x {tubelet.patch} pixels (frames x height x width) becomes "
            f"{_BOTTLENECKS[config.bottleneck]} of {config.latent_channels} channels, and is decoded from it."
        ),
        "",
    ]


def _loading(config: AutoEncoderConfig) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "from vitok.hub import AutoencoderViTok",
        "",
        'vae = AutoencoderViTok.from_pretrained("FOLDER")  # a path or URL; hf://OWNER/NAME with huggingface_hub',
        "z = vae.encode(pixels).latent_dist.sample()  # pixels [B, 3, H, W] or [B, 3, T, H, W] in [-1, 1]",
        (
            f"pixels = vae.decode(z).sample  # z [B, {config.latent_channels}, H', W'] or "
            f"[B, {config.latent_channels}, T', H', W']"
        ),
        "```",
        "",
    ]


def _size(config: AutoEncoderConfig) -> list[str]:
    rows = []
    for num_frames, side in _clips(config.tubelet):
        counted = count(config, num_frames=num_frames, height=side, width=side)
        rows.append(
            (
                f"{num_frames} x {side} x {side}",
                str(counted.grid),
                str(counted.latent_size),
                f"{counted.compression:g}",
                f"{counted.macs.encode / 1e9:.2f}",
                f"{counted.macs.decode / 1e9:.2f}",
            )
        )
    parameters = counted.parameters
    return [
        "## Size",
        "",
        (
            f"{parameters.total / 1e6:.3f} M parameters: {parameters.encode / 1e6:.3f} M to encode, "
            f"{parameters.decode / 1e6:.3f} M to decode. GMAC: 1e9 multiply-accumulates of one clip (a FLOP count is "
            "twice that)."
        ),
        "",
        *_table(("pixels", "latent grid", "numbers", "compression", "GMAC encode", "GMAC decode"), rows),
        "",
    ]


def _clips(tubelet: Tubelet) -> Iterator[tuple[int, int]]:
    for num_frames, side in _CLIPS:
        if num_frames == 1 or tubelet.frames > 1:
            yield num_frames, math.ceil(side / tubelet.patch) * tubelet.patch


def _latents(statistics: ChannelStatistics | None) -> list[str]:
    if statistics is None:
        return ["## Latents", "", "Their mean and deviation over a corpus are not known to this folder.", ""]
    rows = [
        (str(channel), f"{mean:.6g}", f"{std:.6g}")
        for channel, (mean, std) in enumerate(zip(statistics.mean, statistics.std, strict=True))
    ]
    return [
        "## Latents",
        "",
        "`vae.normalize(z)` is (z - mean) / std by channel, with the moments of posterior means over a corpus:",
        "",
        *_table(("channel", "mean", "std"), rows),
        "",
    ]


def _quality(audit: Audit | None) -> list[str]:
    if audit is None:
        return ["## Quality", "", "Not audited.", ""]
    rows = [(name, f"{value:.6g}") for name, value in audit.metrics.items()]
    return ["## Quality", "", *_table(("metric", "value"), rows), "", f"Protocol: {audit.protocol}", ""]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
