"""Audit reconstructions: clip shards through encode and decode, measured clip by clip, one record and one page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from pipeline.runs.clips import TokenizerRunConfig, open_run, passed_columns
from pipeline.runs.planned import Job, RunSummary, run_planned
from pipeline.runs.record import StartClock
from pipeline.store.documents import fingerprint
from pipeline.store.index import open_store
from pipeline.store.ledger import ShardRecord
from schemas.metadata import AUDIT_FORMAT, FORMAT_VERSION

REPORT_FILE = "report.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig(TokenizerRunConfig):
    """Measure how well a tokenizer gives clips back."""

    metrics: str = "psnr,ssim"
    """Names of metrics, with commas between."""
    num_examples: int = 8
    """Clips pictured in the report: half of them the worst, half the best by the first metric."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditResult:
    """What the audit found and where it stands."""

    summary: RunSummary
    means: dict[str, float]
    """Mean over clips by metric."""
    report: str
    """Path or URL of the page."""


def audit(config: AuditConfig, *, clock: StartClock | None = None) -> AuditResult:
    """Run the job; see `run_planned` and `open_run` for what is raised.

    Raises:
        ValueError: A metric is unknown.
    """
    from pipeline.report.examples import worst_and_best
    from pipeline.report.page import write_audit_page
    from pipeline.stages.reconstruct import ReconstructShard
    from pipeline.stages.tokenizer import Tokenizer
    from vitok.metrics.registry import parse_metrics

    metrics = parse_metrics(config.metrics)
    run = open_run(config)
    protocol = {
        "format_version": FORMAT_VERSION,
        "clips": run.source.identity,
        "preprocessing": run.source.document["preprocessing"],
        "tokenizer": run.tokenizer_fingerprint,
        "metrics": list(metrics),
        "latent": "posterior mean",
        "rounding": "clamp to [-1, 1], round half to even to uint8",
        "inference": asdict(run.inference),
        "shard_size": config.shard_size,
    }

    job = Job(
        name="audit",
        store_format=AUDIT_FORMAT,
        identity=protocol,
        make_stage=partial(
            ReconstructShard,
            source=run.source.folder,
            output=run.output,
            tokenizer_url=run.tokenizer_url,
            inference=run.inference,
            passed=passed_columns(run.source),
            metrics=metrics,
        ),
        workers=run.workers,
        details={"protocol": protocol | {"id": fingerprint(protocol)}},
        make_sums=partial(MetricMeans, metrics),
        max_reject_fraction=config.max_reject_fraction,
    )
    summary = run_planned(
        job,
        make_plan=partial(run.plan, "audit", protocol),
        config=config,
        output=run.output,
        clock=clock,
        break_claim=config.break_claim,
    )
    store = open_store(run.output, format_name=AUDIT_FORMAT)
    pictured = replace(run.inference, batch_size=1, device="cpu")
    examples = worst_and_best(
        store, run.source, partial(Tokenizer, run.tokenizer_url, pictured), metrics=metrics, count=config.num_examples
    )
    write_audit_page(run.output, REPORT_FILE, document=store.document, examples=examples)
    means = store.document["metrics"]
    assert isinstance(means, dict)
    return AuditResult(summary=summary, means=means["all"], report=f"{run.output.url}/{REPORT_FILE}")


class MetricMeans:
    """`Sums` of an audit: mean over clips of each metric, over all and per bucket, summed in plan order."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self._metrics = metrics
        self._totals: dict[str, dict[str, float]] = {}

    def add(self, record: ShardRecord) -> None:
        """Add a shard of `pipeline.stages.reconstruct`."""
        for scope in ("all", record.bucket):
            scoped = self._totals.setdefault(scope, dict.fromkeys(("clips", *self._metrics), 0.0))
            scoped["clips"] += record.stored
            for name in self._metrics:
                value = record.sums[name]
                assert isinstance(value, float)
                scoped[name] += value

    def to_json(self) -> dict[str, object]:
        """The key `metrics` of `store.json`."""
        means = {
            scope: {"clips": int(sums["clips"])} | {name: sums[name] / sums["clips"] for name in self._metrics}
            for scope, sums in self._totals.items()
            if sums["clips"]
        }
        return {"metrics": {"all": means.pop("all", {"clips": 0}), "buckets": means}}
