"""The record of an audit as its page shows it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from pipeline.report.audit_data import (
    AuditData,
    AuditExample,
    Candidate,
    Distribution,
    Estimate,
    LatentHealth,
    Skipped,
    Slice,
    SliceRow,
)

PAGE_FILE = "report.html"


def page_data(document: Mapping[str, object], examples: Sequence[AuditExample]) -> AuditData:
    """What the page shows.

    Args:
        document: `audit.json`.
        examples: Pictured clips.
    """
    entries = cast(Sequence[Mapping[str, object]], document["candidates"])
    protocol = cast(Mapping[str, object], document["protocol"])
    columns = list(dict.fromkeys(name for entry in entries for name in cast(Mapping[str, object], entry["slices"])))
    return AuditData(
        clips=cast(str, document["clips"]),
        metrics=list(cast(Mapping[str, object], protocol["metrics"])),
        candidates=[
            Candidate(
                name=cast(str, entry["name"]),
                kind="tokenizer" if entry["kind"] == "tokenizer" else "codec",
                line=cast(str, entry["line"]),
                detail=cast(str, entry["detail"]),
                **cast(Mapping[str, int], entry["counts"]),
                metrics=_estimates(cast(Mapping[str, Mapping[str, float]], entry["metrics"])),
                bytes_per_clip=cast(float | None, entry["bytes_per_clip"]),
                floats_per_clip=cast(float | None, entry["floats_per_clip"]),
                gmac_per_clip=cast(float | None, entry["gmac_per_clip"]),
                clips_per_second=cast(float | None, entry["clips_per_second"]),
            )
            for entry in entries
        ],
        intervals=cast(str, document["intervals"]),
        distributions=[
            Distribution(
                metric=name,
                edges=ends,
                counts={
                    cast(str, entry["name"]): histograms[name]
                    for entry in entries
                    if name in (histograms := cast(Mapping[str, Sequence[int]], entry["histograms"]))
                },
            )
            for name, ends in cast(Mapping[str, Sequence[float]], document["edges"]).items()
        ],
        slices=[Slice(column=column, rows=list(_slice_rows(column, entries))) for column in columns],
        latents=list(_latents(entries)),
        examples=examples,
        skipped=list(_skipped(entries)),
        protocol_id=cast(str, document["protocol_id"]),
        protocol=protocol,
        record=document,
    )


def _slice_rows(column: str, entries: Sequence[Mapping[str, object]]) -> Iterator[SliceRow]:
    for entry in entries:
        slices = cast(Mapping[str, Mapping[str, Mapping[str, object]]], entry["slices"])
        for value, part in slices.get(column, {}).items():
            means = cast(Mapping[str, float], part["metrics"])
            yield SliceRow(
                value=value,
                candidate=cast(str, entry["name"]),
                clips=cast(int, part["clips"]),
                metrics={name: Estimate(value=mean) for name, mean in means.items()},
            )


def _latents(entries: Sequence[Mapping[str, object]]) -> Iterator[LatentHealth]:
    for entry in entries:
        health = cast(Mapping[str, object] | None, entry["latents"])
        if health is None:
            continue
        correlation = cast(Sequence[Sequence[float | None]], health["correlation"])
        yield LatentHealth(
            candidate=cast(str, entry["name"]),
            mean=cast(Sequence[float], health["mean"]),
            std=cast(Sequence[float], health["std"]),
            kl=cast(Sequence[float] | None, health["kl"]),
            dead=cast(Sequence[int], health["dead"]),
            correlation=[[float("nan") if value is None else value for value in row] for row in correlation],
            nan_count=cast(int, health["nan_count"]),
            inf_count=cast(int, health["inf_count"]),
        )


def _skipped(entries: Sequence[Mapping[str, object]]) -> Iterator[Skipped]:
    for entry in entries:
        for metric, reason in cast(Mapping[str, str], entry["skipped"]).items():
            yield Skipped(metric=metric, candidate=cast(str, entry["name"]), reason=reason)


def _estimates(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, Estimate]:
    return {name: Estimate(**values) for name, values in metrics.items()}
