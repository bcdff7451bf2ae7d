"""The record of an audit, `audit.json`: made of the folded stores, sealed, and read again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pipeline.store.documents import fingerprint, read_json, sealed, write_json
from pipeline.store.files import Folder
from pipeline.store.index import Store
from schemas.audit import SIZE_COLUMN
from schemas.metadata import AUDIT_FILE, AUDIT_RECORD_FORMAT, FORMAT_VERSION, RUNS_FOLDER, check_format

if TYPE_CHECKING:  # torch, by way of the metrics
    from pipeline.runs.audit_candidates import Candidate
    from pipeline.runs.audit_fold import Folded
    from vitok.adapters.protocol import ClipShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """A candidate and what was found of it."""

    candidate: "Candidate"
    store: Store
    folded: "Folded"
    values: Mapping[str, float]
    """By metric; one without a value is in `skipped`."""
    skipped: Mapping[str, str]
    """Why, by metric."""


def candidate_record(audited: Audited, clips: "Mapping[ClipShape, int]") -> dict[str, object]:
    """The entry of one candidate.

    Args:
        audited: The candidate.
        clips: Number of clips by shape.
    """
    candidate, document = audited.candidate, audited.store.document
    counts, sums = cast(Mapping[str, int], document["counts"]), _sums(audited.store)
    intervals = audited.folded.intervals
    return {
        "name": candidate.name,
        "kind": candidate.kind,
        "line": candidate.line,
        "detail": candidate.detail,
        "settings": dict(candidate.settings),
        "store": {"path": candidate.folder, **audited.store.identity},
        "counts": dict(counts),
        "metrics": {
            name: {"value": value}
            | ({"low": intervals[name][0], "high": intervals[name][1]} if name in intervals else {})
            for name, value in audited.values.items()
        },
        "skipped": dict(audited.skipped),
        "buckets": cast(Mapping[str, object], sums["metrics"])["buckets"],
        "bytes_per_clip": cast(int, sums[SIZE_COLUMN]) / counts["stored"] if counts["stored"] else None,
        "floats_per_clip": _mean_of(candidate.floats, clips),
        "gmac_per_clip": None if candidate.macs is None else _in_giga(_mean_of(candidate.macs, clips)),
        "clips_per_second": clips_per_second(audited.store.folder),
        "latents": sums["latents"],
        "histograms": {name: list(counted) for name, counted in audited.folded.histograms.items()},
        "slices": {
            column: {
                value: {
                    "clips": part.clips,
                    "metrics": {name: part.sums[name] / part.counts[name] for name in part.sums},
                }
                for value, part in rows.items()
            }
            for column, rows in audited.folded.slices.items()
        },
        "worst_first": [
            {"key": clip.key, "media_uri": clip.media_uri, "metrics": dict(clip.values)}
            for clip in reversed(audited.folded.ranked)
        ],
    }


def write_record(output: Folder, document: Mapping[str, object]) -> dict[str, object]:
    """Write `audit.json`; gives it as it stands on disk.

    Args:
        output: The audit's folder.
        document: Its keys but those of the format and the seal.
    """
    protocol = cast(Mapping[str, object], document["protocol"])
    whole = sealed(
        {
            "format": AUDIT_RECORD_FORMAT,
            "format_version": FORMAT_VERSION,
            "protocol_id": fingerprint(protocol),
            **document,
        }
    )
    write_json(output, AUDIT_FILE, whole)
    return whole


def read_record(url: str) -> dict[str, object]:
    """The record of a finished audit.

    Args:
        url: The audit's folder, or its `audit.json`: path or URL.

    Raises:
        ValueError: There is none, it is of another format or version, or it is not what was written.
    """
    parent, slash, name = url.rpartition("/")
    folder = Folder((parent or slash or ".") if name == AUDIT_FILE else url)
    try:
        document = read_json(folder, AUDIT_FILE)
    except FileNotFoundError:
        raise ValueError(f"{folder.url} holds no {AUDIT_FILE}: no audit was finished there") from None
    check_format(document, format_name=AUDIT_RECORD_FORMAT, where=folder.path(AUDIT_FILE))
    if document != sealed(document):
        raise ValueError(f"{folder.path(AUDIT_FILE)} is not what was written: its seal does not match its content")
    return document


def clips_per_second(folder: Folder) -> float | None:
    """Clips a second of one worker through a candidate alone, over all its finished runs; None: there is no such run.

    Reading, decoding and measuring the clips are left out.
    """
    clips, seconds = 0, 0.0
    for path in folder.find(RUNS_FOLDER):
        if path.endswith("/record.json"):
            record = read_json(folder, path)
            if record["error"] is not None:
                continue  # it tells seconds and no clips
            clips += cast(Mapping[str, int], record["counts"])["worked_clips"]
            seconds += cast(Mapping[str, float], record["worker_seconds"]).get("reconstruct", 0.0)
    return clips / seconds if seconds else None


def _sums(store: Store) -> Mapping[str, object]:
    return cast(Mapping[str, object], store.document["audit"])


def _mean_of(by_shape: "Mapping[ClipShape, int] | None", clips: "Mapping[ClipShape, int]") -> float | None:
    """Mean over clips of a number of their shape."""
    total = sum(clips.values())
    if by_shape is None or not total:
        return None
    return sum(by_shape[shape] * count for shape, count in clips.items()) / total


def _in_giga(number: float | None) -> float | None:
    return None if number is None else number / 1e9
