"""Scores of generated clips against real ones: found to fit before any work, taken from finished clip stores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, cast

from pipeline.runs.audit_protocol import measured_by
from pipeline.runs.clips import clip_shapes
from pipeline.store.clipshard import Clip, read_clips
from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from schemas.metadata import CLIP_STORE_FORMAT

if TYPE_CHECKING:  # torch, which flags do without
    from vitok.adapters.protocol import ClipShape

_SCORED_AT_ONCE = 16
"""Clips that go through a metric's network together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """Scores that are to be taken."""

    metrics: tuple[str, ...]
    """Out of `vitok.metrics.generation.GENERATION_METRICS`; none: nothing is scored."""
    measured_by: Mapping[str, object]
    """Definition and weights of each."""
    reference: Store | None
    """Of real clips, where a metric compares with them."""

    def values(self, samples: Store, *, device: str) -> dict[str, float]:
        """By metric.

        Args:
            samples: Clip store of the generated clips.
            device: Where the metrics' networks run.

        Raises:
            ValueError: A store has too few clips for a metric.
        """
        import torch

        from vitok.metrics.generation import GenerationScores

        scores = GenerationScores(self.metrics, device=torch.device(device))
        for store in (samples, self.reference):
            if store is None:
                continue
            for _, clips in groupby((clip.pixels for clip in clips_of(store)), key=lambda pixels: pixels.shape):
                while batch := list(islice(clips, _SCORED_AT_ONCE)):
                    scores.add(batch, generated=store is samples)
        return scores.values()

    def record(self, samples: Store, values: Mapping[str, float]) -> dict[str, object]:
        """The scores, and what was scored against what and how; JSON-ready."""
        return {
            "samples": _named(samples),
            "reference": None
            if self.reference is None
            else {"url": self.reference.folder.url, **_named(self.reference)},
            "metrics": dict(self.measured_by),
            "scores": dict(values),
        }


def open_scoring(metrics: Sequence[str], reference: str, *, samples: "ClipShape") -> Scoring:
    """Open what scores need.

    Args:
        metrics: Names; empty: nothing is scored.
        reference: Clip store of real clips: path or URL.
        samples: Shape of the clips that are to be scored.

    Raises:
        ValueError: A metric is unknown, one needs a reference and there is none, or one has no value for clips of a
            shape that it would get.
        MissingWeightsError: The weights of a metric are not there.
    """
    from vitok.metrics.generation import GENERATION_METRICS
    from vitok.metrics.registry import METRICS, Kind, check_metrics

    names = check_metrics(metrics, GENERATION_METRICS) if metrics else ()
    measured = measured_by(names)
    compares = [name for name in names if METRICS[name].kind is Kind.FRECHET]
    if compares and not reference:
        raise ValueError(f"--reference: got none, and {', '.join(compares)} compares with real clips: name their store")
    real = open_store(Folder(reference), format_name=CLIP_STORE_FORMAT) if compares else None
    given = [("the samples are", names, {samples})]
    if real is not None:
        given.append((f"--reference {real.folder.url} holds", tuple(compares), clip_shapes(real)))
    for owner, taken, shapes in given:
        for name in taken:
            for frames, height, width in sorted(shapes):
                reason = METRICS[name].unfit(num_frames=frames, height=height, width=width)
                if reason is not None:
                    raise ValueError(f"--metrics: {name} {reason}, and {owner} clips of {frames}x{height}x{width}")
    return Scoring(metrics=names, measured_by=measured, reference=real)


def clips_of(store: Store) -> Iterator[Clip]:
    """Every clip, in the store's order."""
    for row in store.rows:
        if row.path is not None:
            with store.folder.open(row.path) as stream:
                yield from read_clips(stream, where=store.folder.path(row.path))


def _named(store: Store) -> dict[str, object]:
    return {**store.identity, "clips": cast(Mapping[str, int], store.document["counts"])["stored"]}
