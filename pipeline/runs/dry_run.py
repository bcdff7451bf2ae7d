"""A dry run of prepare_corpus: a sample prepared aside, and what the whole corpus would be by it."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice

from pipeline.runs.prepare import list_corpus, prepare_spool, prepare_workers
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.survey import MediaSpool
from pipeline.store.files import Folder
from pipeline.store.index import open_store
from schemas.metadata import CLIP_STORE_FORMAT

_SAMPLE_MEDIA = 256
"""Media of the sample, evenly spread over the corpus."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a corpus would be, by a sample of it."""

    media: Mapping[str, int]
    """By kind: all of them, counted."""
    ignored: Mapping[str, int]
    """Files that are not media, by what they are."""
    sampled: int
    """Media that were prepared."""
    clips: Mapping[str, int]
    """By bucket, scaled up."""
    ended: Mapping[str, int]
    """Filtered or rejected, by reason, scaled up."""
    size_bytes: int
    """Of all shards, scaled up."""
    clips_per_second: float
    """Measured, of one worker at work."""
    workers: int
    """That the run would have."""

    @property
    def hours(self) -> float:
        """Wall time of the whole with that many workers, their start aside."""
        return sum(self.clips.values()) / max(self.clips_per_second * self.workers, 1e-9) / 3600

    def __str__(self) -> str:
        total = sum(self.clips.values())
        lines = [
            "media      " + (", ".join(f"{count:,} {kind}" for kind, count in sorted(self.media.items())) or "none"),
            *([f"not media  {_counts(self.ignored)}"] if self.ignored else []),
            f"sample     {self.sampled:,} media; from here on scaled up from them",
            f"clips      {total:,}",
            *(f"           {count:,} in {name} ({count / total:.1%})" for name, count in sorted(self.clips.items())),
            *([f"lost       {_counts(self.ended)}"] if self.ended else []),
            f"bytes      {self.size_bytes / 1e9:,.3f} GB",
            f"time       {self.hours:,.2f} h with {self.workers} workers ({self.clips_per_second:.1f} clips/s each)",
        ]
        return "\n".join(lines) + "\n"


def dry_run(config: PrepareConfig) -> Forecast:
    """List the whole corpus, prepare a sample of it in a temporary folder, and scale up.

    Nothing is written to the output.

    Raises:
        ValueError: An input names no media.
    """
    protocol = config.protocol()
    listing = list_corpus(config.input, config.inputs)
    with MediaSpool(listing, protocol) as spool, tempfile.TemporaryDirectory(prefix="vitok-") as folder:
        step = max(1, spool.kinds.total() // _SAMPLE_MEDIA)
        with MediaSpool(islice(spool, step // 2, None, step), protocol) as sample:
            # Small shards, so that every worker has some.
            aside = replace(config, output=folder, shard_size=min(config.shard_size, 32))
            summary = prepare_spool(sample, listing, aside)
            factor = spool.kinds.total() / sample.kinds.total()
        rows = open_store(Folder(folder), format_name=CLIP_STORE_FORMAT).rows
        clips: Counter[str] = Counter()
        for row in rows:
            if row.stored:
                clips[row.bucket] += row.stored
        return Forecast(
            media=spool.kinds,
            ignored=listing.ignored,
            sampled=len(sample),
            clips={bucket: round(count * factor) for bucket, count in clips.items()},
            ended={reason: round(count * factor) for reason, count in summary.reasons.items()},
            size_bytes=round(summary.size_bytes * factor),
            clips_per_second=summary.stored / max(summary.worker_seconds, 1e-9),
            workers=prepare_workers(config.num_workers).count,
        )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
