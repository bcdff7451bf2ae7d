"""What a store says of its past: clips that were lost, by reason, and the runs that wrote it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from pipeline.store.documents import read_json
from pipeline.store.files import Folder
from pipeline.store.index import Store
from pipeline.store.plan import Plan
from pipeline.store.tables import read_table
from schemas.metadata import PLAN_OUTCOMES_FILE, RUNS_FOLDER

_COLUMNS = ("outcome", "reason", "stage", "media_uri", "message")


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Clips that ended for one reason at one stage."""

    outcome: str
    reason: str
    stage: str
    count: int
    example_uri: str
    """Of the first in plan order."""
    example_message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One start of a job."""

    job: str
    started: str
    """ISO 8601."""
    seconds: float
    error: str
    """What ended it; "": it ended well."""


def losses_of(store: Store) -> list[Loss]:
    """Every reason, the most frequent first; reads the outcomes of each shard that lost clips.

    Raises:
        ValueError: A table of outcomes is no Parquet file.
    """
    found: dict[tuple[str, str, str], Loss] = {}
    for path in _outcome_paths(store):
        with store.folder.open(path) as stream:
            table = read_table(stream, columns=list(_COLUMNS))
        for outcome, reason, stage, uri, message in zip(
            *(table.column(name).to_pylist() for name in _COLUMNS), strict=True
        ):
            before = found.get((outcome, reason, stage))
            found[outcome, reason, stage] = Loss(
                outcome=outcome,
                reason=reason,
                stage=stage,
                count=1 if before is None else before.count + 1,
                example_uri=uri if before is None else before.example_uri,
                example_message=message if before is None else before.example_message,
            )
    return sorted(found.values(), key=lambda loss: (-loss.count, loss.outcome, loss.reason, loss.stage))


def runs_of(folder: Folder) -> list[Run]:
    """Starts that ended in their own time, the first one first; a killed one leaves no record."""
    paths = sorted(path for path in folder.find(RUNS_FOLDER) if path.endswith("/record.json"))
    runs = []
    for path in paths:
        record = read_json(folder, path)
        seconds = cast(Mapping[str, float], record["seconds"])
        runs.append(
            Run(
                job=str(record["job"]),
                started=str(record["started"]),
                seconds=seconds["total"],
                error=str(record["error"] or ""),
            )
        )
    return runs


def clip_store_urls(folder: Folder) -> list[str]:
    """Clip stores that the runs were given, the last run's first, each once."""
    paths = sorted((path for path in folder.find(RUNS_FOLDER) if path.endswith("/config.json")), reverse=True)
    configs = (cast(Mapping[str, object], read_json(folder, path)["config"]) for path in paths)
    return list(dict.fromkeys(str(config["shards"]) for config in configs if config.get("shards")))


def _outcome_paths(store: Store) -> Iterator[str]:
    plan = Plan.load(store.folder)
    if plan is not None and plan.counts.filtered + plan.counts.rejected:
        yield from plan.paths(PLAN_OUTCOMES_FILE)
    for row in store.rows:
        if row.outcomes_path is not None:
            yield row.outcomes_path
