"""Audit reconstructions: clip shards through encode and decode, measured clip by clip, one record and one page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

from pipeline.report.page import write_audit_page
from pipeline.runs.encode import check_tubelet, inference_workers, plan_over_clips
from pipeline.runs.planned import Job, RunSummary, run_planned
from pipeline.runs.shards import Workers
from pipeline.store.documents import fingerprint as hash_document
from pipeline.store.files import Folder
from pipeline.store.index import open_store
from pipeline.store.ledger import ShardRecord
from pipeline.store.plan import Plan
from schemas.metadata import AUDIT_FORMAT, CLIP_STORE_FORMAT, FORMAT_VERSION

REPORT_FILE = "report.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig:
    """Measure how well a tokenizer gives clips back."""

    shards: str
    """Clip store that prepare_corpus wrote: path or URL."""
    tokenizer: str
    """Folder with config.json and model.safetensors: path or URL."""
    output: str
    """Folder of the audit: path or URL."""
    metrics: str = "psnr,ssim"
    """Names of metrics, with commas between."""
    num_examples: int = 8
    """Clips pictured in the report: half of them the worst, half the best by the first metric."""
    shard_size: int = 8192
    """Clips of one shard of the audit."""
    batch_size: int = 8
    """Clips of one forward pass."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs."""
    threads_per_worker: int = 1
    """CPU threads and CPUs of one worker."""
    num_workers: int = 0
    """Workers; 0 fills the cluster. Changes no output byte."""
    break_claim: bool = False
    """Take over an object-store folder whose run is known to be dead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditResult:
    """What the audit found and where it stands."""

    summary: RunSummary
    means: dict[str, float]
    """Mean over clips by metric."""
    report: str
    """Path or URL of the page."""


def audit(config: AuditConfig, *, imports_seconds: float = 0.0) -> AuditResult:
    """Run the job; see `run_planned` for what is raised.

    Raises:
        ValueError: The shards or the tokenizer are not there or do not fit each other, or a metric is unknown.
    """
    from pipeline.report.examples import worst_and_best
    from pipeline.stages.reconstruct import ReconstructShard
    from pipeline.stages.tokenizer import Inference, Tokenizer
    from vitok.metrics.registry import parse_metrics
    from vitok.model.checkpoint import fingerprint, load_checkpoint

    output = Folder(config.output)
    metrics = parse_metrics(config.metrics)
    source = open_store(Folder(config.shards), format_name=CLIP_STORE_FORMAT)
    tokenizer_url = Folder(config.tokenizer).url
    model = load_checkpoint(tokenizer_url)
    check_tubelet(source, str(model.config.tubelet), config.tokenizer)
    inference = Inference(
        batch_size=config.batch_size,
        precision=config.precision,
        device=config.device,
        threads=config.threads_per_worker,
    )
    protocol = {
        "format_version": FORMAT_VERSION,
        "clips": source.identity,
        "preprocessing": source.document["preprocessing"],
        "tokenizer": fingerprint(model),
        "metrics": list(metrics),
        "latent": "posterior mean",
        "rounding": "clamp to [-1, 1], round half to even to uint8",
        "inference": asdict(inference),
        "shard_size": config.shard_size,
    }

    def describe(_plan: Plan, records: Sequence[ShardRecord]) -> dict[str, object]:
        return {
            "protocol": protocol | {"id": hash_document(protocol)},
            "metrics": _means(records, metrics),
        }

    job = Job(
        name="audit",
        store_format=AUDIT_FORMAT,
        identity=protocol,
        make_plan=partial(plan_over_clips, "audit", protocol, source, output, config.shard_size),
        make_stage=partial(
            ReconstructShard,
            source=source.folder,
            output=output,
            tokenizer_url=tokenizer_url,
            inference=inference,
            metrics=metrics,
        ),
        workers=partial(_workers, config),
        describe=describe,
    )
    summary = run_planned(
        job, config=config, output=output, imports_seconds=imports_seconds, break_claim=config.break_claim
    )
    store = open_store(output, format_name=AUDIT_FORMAT)
    pictured = replace(inference, batch_size=1, device="cpu")
    examples = worst_and_best(
        store, source, partial(Tokenizer, tokenizer_url, pictured), metrics=metrics, count=config.num_examples
    )
    write_audit_page(output, REPORT_FILE, document=store.document, examples=examples)
    means = store.document["metrics"]
    assert isinstance(means, dict)
    return AuditResult(summary=summary, means=means["all"], report=output.path(REPORT_FILE))


def _workers(config: AuditConfig) -> Workers:
    return inference_workers(config.num_workers, config.threads_per_worker, config.device)


def _means(records: Sequence[ShardRecord], metrics: Sequence[str]) -> dict[str, object]:
    """Mean over clips of each metric, over all and per bucket, summed in plan order."""
    totals: dict[str, dict[str, float]] = {}
    for record in records:
        for scope in ("all", record.bucket):
            scoped = totals.setdefault(scope, dict.fromkeys(("clips", *metrics), 0.0))
            scoped["clips"] += record.stored
            for name in metrics:
                value = record.sums[name]
                assert isinstance(value, float)
                scoped[name] += value
    means = {
        scope: {"clips": int(sums["clips"])} | {name: sums[name] / sums["clips"] for name in metrics}
        for scope, sums in totals.items()
        if sums["clips"]
    }
    return {"all": means.pop("all", {"clips": 0}), "buckets": means}
