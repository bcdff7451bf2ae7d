"""The flags of an audit, and what they open before any work: clips, metrics, candidates, the gate."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.runs.audit_candidates import Candidate, Codec, codec_candidates, tokenizer_candidates
from pipeline.runs.audit_gate import Condition, parse_condition
from pipeline.runs.audit_protocol import NAMED_PROTOCOLS, check_named, measured_by
from pipeline.runs.clips import ClipRunConfig, passed_columns
from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from schemas.audit import SIZE_COLUMN
from schemas.latent import clip_schema
from schemas.metadata import CLIP_STORE_FORMAT, FORMAT_VERSION

logger = logging.getLogger(__name__)

DEFAULT_METRICS = ("psnr", "ssim")


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig(ClipRunConfig):
    """Measure how well tokenizers give clips back, beside codecs."""

    tokenizer: tuple[str, ...] = ()
    """Folders of tokenizers, or of auto-encoders of diffusers: paths or URLs; or module:function that makes one."""
    latents: str = ""
    """Latent store of these clips, made by the one tokenizer: what is stored there is decoded, and nothing encoded."""
    codecs: tuple[Codec, ...] = ()
    """Reference lines: jpeg and webp at each of the qualities, bicubic at as many numbers as the latents have."""
    codec_qualities: tuple[int, ...] = (10, 25, 50, 75, 90)
    """Of jpeg and webp, 1 to 100."""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    """What is measured: psnr, ssim, lpips, fid_2015, fid_torchvision, inception_score_2015,
    inception_score_torchvision, fvd."""
    protocol: Literal["", "imagenet-256", "imagenet-512", "coco-256", "ucf101-16x128"] = ""
    """An evaluation of the paper: fixes the metrics, and refuses clips that were prepared otherwise."""
    slices: tuple[str, ...] = ()
    """Columns to divide the clips by: label, bucket, source (the media's folder), or any other of the clips."""
    resamples: int = 1000
    """Of the bootstrap that intervals are drawn from; 0: no intervals."""
    seed: int = 0
    """Of the bootstrap."""
    num_examples: int = 8
    """Clips of each tokenizer pictured in the report: half of them the worst, half the best by the first metric."""
    fail_if: tuple[str, ...] = ()
    """Conditions under which the command fails, such as "rfid>2.0" "psnr<26": on each tokenizer, or where there is
    none on each codec."""

    def __post_init__(self) -> None:
        ClipRunConfig.__post_init__(self)  # `super()` does not find its class where dataclasses make slots
        if not self.tokenizer and not self.codecs:
            raise ValueError("--tokenizer and --codecs: got neither, expected something that gives clips back")
        for name, values in (("codecs", self.codecs), ("codec-qualities", self.codec_qualities)):
            if len(set(values)) != len(values):
                raise ValueError(f"--{name}: got {' '.join(map(str, values))}, expected each once")
        if not all(1 <= quality <= 100 for quality in self.codec_qualities):
            raise ValueError(f"--codec-qualities: got {' '.join(map(str, self.codec_qualities))}, expected 1 to 100")
        for name in ("resamples", "seed", "num_examples"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected 0 or more")
        if self.protocol and self.metrics != DEFAULT_METRICS:
            raise ValueError(
                f"--metrics: got {' '.join(self.metrics)}, and --protocol {self.protocol} fixes them: leave one of the "
                "two out"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenAudit:
    """An audit about to begin: everything is opened, and nothing of it is done."""

    config: AuditConfig
    source: Store
    output: Folder
    metrics: tuple[str, ...]
    measured_by: Mapping[str, object]
    passed: Mapping[str, str]
    candidates: Sequence[Candidate]
    gate: Sequence[Condition]

    @property
    def identity(self) -> dict[str, object]:
        """What all stores of an audit agree in."""
        return {
            "format_version": FORMAT_VERSION,
            "clips": self.source.identity,
            "metrics": dict(self.measured_by),
            "inference": self.config.inference().to_json(),
            "shard_size": self.config.shard_size,
        }

    @property
    def num_clips(self) -> int:
        """Of the clip store."""
        return sum(row.stored for row in self.source.rows)


def open_audit(config: AuditConfig) -> OpenAudit:
    """Open everything that an audit needs.

    Raises:
        ValueError: A flag cannot be used, or the clips do not fit the protocol or a tokenizer.
        FileNotFoundError: There is no tokenizer, or no weights for a metric.
    """
    from vitok.metrics.registry import FEATURES, METRICS, check_metrics

    metrics = check_metrics(NAMED_PROTOCOLS[config.protocol].metrics if config.protocol else config.metrics, METRICS)
    gate = [parse_condition(text, metrics) for text in config.fail_if]
    measured = measured_by(metrics)
    source = open_store(Folder(config.shards), format_name=CLIP_STORE_FORMAT)
    if config.protocol:
        check_named(config.protocol, source)
    columns = passed_columns(source)
    taken = {SIZE_COLUMN, *METRICS, *FEATURES}
    if clashing := sorted(columns.keys() & taken):
        logger.warning("audit: the clips' columns %s are left out: metrics have their names", ", ".join(clashing))
    passed = {name: kind for name, kind in columns.items() if name not in taken}
    known = ("bucket", "source", *clip_schema(passed).names)
    if unknown := [name for name in config.slices if name not in known]:
        raise ValueError(f"--slices: got {', '.join(unknown)}, expected some of {', '.join(known)}")
    tokenizers = tokenizer_candidates(config, config.tokenizer, source, latents=config.latents)
    candidates = tokenizers + codec_candidates(config.codecs, config.codec_qualities, tokenizers)
    return OpenAudit(
        config=config,
        source=source,
        output=Folder(config.output),
        metrics=metrics,
        measured_by=measured,
        passed=passed,
        candidates=candidates,
        gate=gate,
    )
