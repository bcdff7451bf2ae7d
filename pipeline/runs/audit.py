"""Audit reconstructions: clip shards through tokenizers and codecs, measured clip by clip; one record, one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from pipeline.report.audit import write_audit_page
from pipeline.report.audit_data import AuditExample
from pipeline.runs.audit_candidates import Candidate, originals
from pipeline.runs.audit_config import AuditConfig, OpenAudit, open_audit
from pipeline.runs.audit_page import PAGE_FILE, page_data
from pipeline.runs.audit_protocol import protocol_of
from pipeline.runs.audit_record import Audited, candidate_record, write_record
from pipeline.runs.audit_sums import AuditSums
from pipeline.runs.clips import group_clip_shards
from pipeline.runs.planned import Job, RunSummary, held, run_planned, settle_identity
from pipeline.runs.record import StartClock
from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from pipeline.store.plan import Plan, PlanCounts
from schemas.metadata import AUDIT_FILE, AUDIT_FORMAT

if TYPE_CHECKING:  # torch, by way of the metrics
    import numpy as np
    from numpy.typing import NDArray

    from vitok.adapters.protocol import ClipShape


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateResult:
    """What the audit found of one candidate."""

    name: str
    store: str
    """Path or URL of its rows."""
    summary: RunSummary
    values: Mapping[str, float]
    """By metric."""
    skipped: Mapping[str, str]
    """Why a metric has no value, or none over some clips."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditResult:
    """What the audit found and where it stands."""

    candidates: Sequence[CandidateResult]
    """Tokenizers first."""
    failures: Sequence[str]
    """Of the gate."""
    protocol_id: str
    record: str
    """Path or URL of the record."""
    report: str
    """Path or URL of the page."""


def audit(config: AuditConfig, *, clock: StartClock | None = None) -> AuditResult:
    """Run the job; see `run_planned` and `open_audit` for what is raised.

    Each candidate is a planned run of its own on a folder in the output's, as are the originals where a metric compares
    features with theirs. Started again with further candidates, it does those.
    """
    work = open_audit(config)
    with held(work.output, job="audit", config=config, clock=clock, break_claim=config.break_claim) as record:
        settle_identity(work.output, job="audit", identity=work.identity, num_clips=work.num_clips)
        reference = _reference(work)
        summaries = [_run(work, candidate, work.metrics) for candidate in work.candidates]
        with record.phase("fold"):
            return _finish(work, reference, summaries)


def _reference(work: OpenAudit) -> Store | None:
    """Features of all originals, also of those that a candidate rejects; None: no metric compares with them."""
    from vitok.metrics.registry import METRICS, Kind

    compared = tuple(name for name in work.metrics if METRICS[name].kind is Kind.FRECHET)
    if not compared:
        return None
    candidate = originals()
    _run(work, candidate, compared)
    return _store(work, candidate)


def _run(work: OpenAudit, candidate: Candidate, metrics: tuple[str, ...]) -> RunSummary:
    """Put the clips through a candidate."""
    from pipeline.stages.reconstruct import ReconstructShard

    config, output = work.config, work.output.subfolder(candidate.folder)
    inference = config.inference()
    identity = work.identity | {"candidate": dict(candidate.settings)}
    job = Job(
        name="audit",
        store_format=AUDIT_FORMAT,
        identity=identity,
        make_stage=partial(
            ReconstructShard,
            source=work.source.folder,
            output=output,
            make_reconstructor=partial(candidate.make, inference),
            inference=inference,
            passed=work.passed,
            metrics=metrics,
        ),
        workers=config.workers,
        details={"candidate": dict(candidate.settings)},
        make_sums=AuditSums,
        max_reject_fraction=config.max_reject_fraction,
    )
    return run_planned(
        job,
        make_plan=partial(_plan, work, output, identity),
        config=config,
        output=output,
        break_claim=config.break_claim,
    )


def _plan(work: OpenAudit, output: Folder, identity: Mapping[str, object]) -> Plan:
    """Planned shards over the committed shards of the clip store, the same for every candidate."""
    shards = list(group_clip_shards(work.source.rows, shard_size=work.config.shard_size))
    counts = PlanCounts(media=0, clips=work.num_clips)
    return Plan.save(output, job="audit", identity=identity, counts=counts, shards=shards)


def _store(work: OpenAudit, candidate: Candidate) -> Store:
    return open_store(work.output.subfolder(candidate.folder), format_name=AUDIT_FORMAT)


def _finish(work: OpenAudit, reference: Store | None, summaries: Sequence[RunSummary]) -> AuditResult:
    """Fold the stores, and write the record and the page."""
    from pipeline.runs.audit_values import clips_by_shape, histogram_edges

    stores = [_store(work, candidate) for candidate in work.candidates]
    edges, clips = histogram_edges(stores), clips_by_shape(work.source)
    audited = _folded(work, stores, reference, edges=edges, clips=clips)
    document = write_record(
        work.output,
        {
            "protocol": _protocol(work, stores),
            "protocol_name": work.config.protocol,
            "clips": work.source.folder.url,
            "intervals": _intervals(work.config),
            "edges": {name: ends.tolist() for name, ends in edges.items()},
            "candidates": [candidate_record(found, clips) for found in audited],
        },
    )
    write_audit_page(work.output, PAGE_FILE, page_data(document, _examples(work, audited)))
    return AuditResult(
        candidates=[
            CandidateResult(
                name=found.candidate.name,
                store=found.store.folder.url,
                summary=summary,
                values=found.values,
                skipped=found.skipped,
            )
            for found, summary in zip(audited, summaries, strict=True)
        ],
        failures=[
            failure
            for found in _judged(audited)
            for condition in work.gate
            if (failure := condition.failure(found.candidate.name, found.values)) is not None
        ],
        protocol_id=str(document["protocol_id"]),
        record=work.output.path(AUDIT_FILE),
        report=work.output.path(PAGE_FILE),
    )


def _folded(
    work: OpenAudit,
    stores: Sequence[Store],
    reference: Store | None,
    *,
    edges: "Mapping[str, NDArray[np.float64]]",
    clips: "Mapping[ClipShape, int]",
) -> list[Audited]:
    """What was found of each candidate.

    Args:
        work: The audit.
        stores: Finished, one a candidate.
        reference: Features of the originals, where a metric compares with them.
        edges: Of the histograms' bins, by metric.
        clips: Number of clips by shape.
    """
    from pipeline.runs.audit_fold import fold_rows
    from pipeline.runs.audit_values import Originals, unfit_clips, values_of
    from vitok.metrics.registry import METRICS, Kind

    compared, unfit = Originals(reference), unfit_clips(work.metrics, clips)
    audited = []
    for candidate, store in zip(work.candidates, stores, strict=True):
        values, missing = values_of(store, work.metrics, compared)
        folded = fold_rows(
            store,
            [name for name in work.metrics if METRICS[name].kind is Kind.MEAN],
            edges=edges,
            slices=work.config.slices,
            resamples=work.config.resamples,
            seed=work.config.seed,
            keep=work.config.num_examples,
        )
        audited.append(Audited(candidate=candidate, store=store, folded=folded, values=values, skipped=missing | unfit))
    return audited


def _protocol(work: OpenAudit, stores: Sequence[Store]) -> dict[str, object]:
    content = {cast(Mapping[str, str], store.document["audit"])["content"] for store in stores}
    assert len(content) == 1, "all candidates were given the same clips"
    return protocol_of(
        work.source,
        content=content.pop(),
        metrics=work.measured_by,
        precision=work.config.precision,
        device=work.config.device,
    )


def _judged(audited: Sequence[Audited]) -> Sequence[Audited]:
    """The tokenizers, or where there is none the codecs."""
    return [found for found in audited if found.candidate.kind == "tokenizer"] or audited


def _intervals(config: AuditConfig) -> str:
    if not config.resamples:
        return ""
    return (
        f"95 %, bootstrap over clips, {config.resamples:,} resamples, seed {config.seed}; none of distances of "
        "features and of Inception Scores, of which each resample would cost as much as the number itself"
    )


def _examples(work: OpenAudit, audited: Sequence[Audited]) -> list[AuditExample]:
    from pipeline.runs.audit_examples import picture

    return [
        example
        for found in _judged(audited)
        for example in picture(
            found.candidate, found.folded.ranked, found.store.folder, work.source, work.config.inference()
        )
    ]
