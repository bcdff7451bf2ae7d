"""`Sums` of an audit's store: means over clips, in all and by bucket, size, content and latents, record by record."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from pipeline.store.ledger import ShardRecord
from schemas.audit import SIZE_COLUMN

if TYPE_CHECKING:  # torch, by way of the metrics
    from pipeline.stages.latent_health import LatentSums


class AuditSums:
    """Takes records of `pipeline.stages.reconstruct`; holds a few numbers a shard.

    Sums are exactly rounded, so they do not hang on the order of the shards.
    """

    def __init__(self) -> None:
        self._content = 0
        self._size_bytes = 0
        self._metrics: dict[str, dict[str, list[Mapping[str, float]]]] = {}
        self._latents: LatentSums | None = None

    def add(self, record: ShardRecord) -> None:
        """Add a shard."""
        from pipeline.stages.latent_health import LatentSums
        from pipeline.stages.reconstruct import CONTENT_MODULUS

        self._content = (self._content + int(cast(str, record.sums["content"]), 16)) % CONTENT_MODULUS
        self._size_bytes += cast(int, record.sums[SIZE_COLUMN])
        for name, sums in cast(Mapping[str, Mapping[str, float]], record.sums["metrics"]).items():
            for scope in ("all", record.bucket):
                self._metrics.setdefault(scope, {}).setdefault(name, []).append(sums)
        if record.sums["latents"] is not None:
            found = LatentSums.from_json(cast(Mapping[str, object], record.sums["latents"]))
            self._latents = found if self._latents is None else self._latents.merge(found)

    def to_json(self) -> dict[str, object]:
        """The key `audit` of `store.json`."""
        metrics = {
            scope: {name: _merged(parts) for name, parts in by_name.items()} for scope, by_name in self._metrics.items()
        }
        return {
            "audit": {
                "content": f"{self._content:064x}",
                SIZE_COLUMN: self._size_bytes,
                "metrics": {"all": metrics.pop("all", {}), "buckets": metrics},
                "latents": None if self._latents is None else self._latents.health(),
            }
        }


def _merged(parts: list[Mapping[str, float]]) -> dict[str, float]:
    clips = sum(int(part["clips"]) for part in parts)
    return {
        "clips": clips,
        "mean": math.fsum(part["sum"] for part in parts) / clips,
        "min": min(part["min"] for part in parts),
        "max": max(part["max"] for part in parts),
    }
