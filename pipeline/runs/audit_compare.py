"""Two audits side by side, where they measured the same thing in the same way; else what differs between them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

from pipeline.runs.audit_record import read_record
from schemas.metadata import differences


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedMetric:
    """One metric of two candidates."""

    metric: str
    candidate: str
    """Of the first audit, or of the second: ONE -> OTHER where the names differ."""
    first: float
    second: float

    @property
    def change(self) -> float:
        """The second less the first."""
        return self.second - self.first


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What two audits say."""

    protocol_ids: tuple[str, str]
    differences: Sequence[str]
    """Between the protocols, line by line; empty: their numbers compare."""
    rows: Sequence[ComparedMetric]
    """Empty where they do not."""
    unmatched: Sequence[str]
    """Candidates of one that the other lacks."""

    def to_json(self) -> dict[str, object]:
        """JSON-ready values."""
        return {
            "protocol_ids": list(self.protocol_ids),
            "differences": list(self.differences),
            "rows": [asdict(row) | {"change": row.change} for row in self.rows],
            "unmatched": list(self.unmatched),
        }


def compare(first: str, second: str) -> Comparison:
    """Compare two finished audits.

    Candidates of one name are compared. Where each audit has one tokenizer, those are, whatever their names.

    Args:
        first: Folder of an audit, or its audit.json: path or URL.
        second: Of the other.

    Raises:
        ValueError: One of them is no finished audit, or its record is not what was written.
    """
    documents = [read_record(url) for url in (first, second)]
    protocols = [cast(Mapping[str, object], document["protocol"]) for document in documents]
    ids = (str(documents[0]["protocol_id"]), str(documents[1]["protocol_id"]))
    if ids[0] != ids[1]:
        return Comparison(protocol_ids=ids, differences=differences(protocols[0], protocols[1]), rows=[], unmatched=[])
    metrics = list(cast(Mapping[str, object], protocols[0]["metrics"]))
    sides = [_candidates(document) for document in documents]
    pairs = [(name, name) for name in sides[0] if name in sides[1]]
    alone = [[name for name in side if _is_tokenizer(side[name])] for side in sides]
    if len(alone[0]) == len(alone[1]) == 1 and alone[0] != alone[1]:
        pairs.insert(0, (alone[0][0], alone[1][0]))
    matched = ({one for one, _ in pairs}, {other for _, other in pairs})
    return Comparison(
        protocol_ids=ids,
        differences=[],
        rows=[row for one, other in pairs for row in _rows(one, other, sides[0][one], sides[1][other], metrics)],
        unmatched=[name for side, known in zip(sides, matched, strict=True) for name in side if name not in known],
    )


def _rows(
    one: str, other: str, first: Mapping[str, object], second: Mapping[str, object], metrics: Sequence[str]
) -> Iterator[ComparedMetric]:
    values = [cast(Mapping[str, Mapping[str, float]], entry["metrics"]) for entry in (first, second)]
    for metric in metrics:
        if metric in values[0] and metric in values[1]:
            yield ComparedMetric(
                metric=metric,
                candidate=one if one == other else f"{one} -> {other}",
                first=values[0][metric]["value"],
                second=values[1][metric]["value"],
            )


def _candidates(document: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    return {str(entry["name"]): entry for entry in cast(Sequence[Mapping[str, object]], document["candidates"])}


def _is_tokenizer(entry: Mapping[str, object]) -> bool:
    return entry["kind"] == "tokenizer"
