"""Plan first: which shards there are and what they are made of, fixed before any work and named by a fingerprint.

A finished plan may grow: by a part, with shards of its own after those that were there, whose files stand in a folder
of their own. No byte of the plan's other files changes; `plan.json` is written last.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self, cast

from pipeline.store.documents import fingerprint, read_json, write_json
from pipeline.store.files import FileRecord, Folder
from pipeline.store.planned_shards import PlannedShard, read_shards, write_shards
from schemas.metadata import FORMAT_VERSION, PLAN_FILE, differences, part_file


class RunRefusedError(RuntimeError):
    """A run that must not go on here; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCounts:
    """Totals fixed by planning. Clips count what shards hold; media that ended while planning count apart."""

    media: int
    clips: int
    filtered: int = 0
    rejected: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Why media were filtered or rejected while planning."""

    @property
    def planned(self) -> int:
        """What must be accounted for: planned = stored + filtered + rejected."""
        return self.clips + self.filtered + self.rejected

    def __add__(self, other: Self) -> Self:
        return type(self)(
            media=self.media + other.media,
            clips=self.clips + other.clips,
            filtered=self.filtered + other.filtered,
            rejected=self.rejected + other.rejected,
            reasons=dict(Counter(self.reasons) + Counter(other.reasons)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanPart:
    """What a plan grew by."""

    first_shard: int
    """Its shards begin here."""
    identity: Mapping[str, object] | None
    """Of what was added; None: media that a retry brought back, which were of the plan before."""
    before_sha256: str
    """Of the `plan.json` that grew."""
    before_counts: PlanCounts
    """Of that plan."""

    def to_json(self) -> dict[str, object]:
        """The part as JSON-ready values."""
        return {
            "first_shard": self.first_shard,
            "identity": None if self.identity is None else dict(self.identity),
            "before": {"plan_sha256": self.before_sha256, "counts": asdict(self.before_counts)},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read `to_json`'s value."""
        before = cast(dict[str, object], value["before"])
        return cls(
            first_shard=cast(int, value["first_shard"]),
            identity=cast(dict[str, object] | None, value["identity"]),
            before_sha256=cast(str, before["plan_sha256"]),
            before_counts=PlanCounts(**cast(dict[str, Any], before["counts"])),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A whole plan; the first run on a folder makes it, and only what appends to it or retries changes it."""

    job: str
    fingerprint: str
    identity: Mapping[str, object]
    """Everything that can change an output byte of the first part."""
    counts: PlanCounts
    """Of the whole."""
    files: tuple[FileRecord, ...]
    """The plan's other files."""
    shards: tuple[PlannedShard, ...]
    parts: tuple[PlanPart, ...] = ()
    """What it grew by, in order: part 1 stands first."""

    @classmethod
    def load(cls, folder: Folder) -> Self | None:
        """The plan of a folder, or None where none was finished."""
        if not folder.exists(PLAN_FILE):
            return None
        document = read_json(folder, PLAN_FILE)
        if document.get("format_version") != FORMAT_VERSION:
            raise RunRefusedError(
                f"{folder.path(PLAN_FILE)}: plan format {document.get('format_version')!r}, "
                f"this program writes {FORMAT_VERSION}; go on with the version that began, or give another --output"
            )
        counts, identity, files = document["counts"], document["identity"], document["files"]
        assert isinstance(counts, dict)
        assert isinstance(identity, dict)
        assert isinstance(files, list)
        grown = document.get("parts", [])
        assert isinstance(grown, list)
        parts = tuple(PlanPart.from_json(part) for part in grown)
        starts = [0, *(part.first_shard for part in parts)]
        return cls(
            job=str(document["job"]),
            fingerprint=str(document["fingerprint"]),
            identity=identity,
            counts=PlanCounts(**counts),
            files=tuple(FileRecord.from_json(file) for file in files),
            shards=tuple(shard for part, start in enumerate(starts) for shard in read_shards(folder, part, start)),
            parts=parts,
        )

    @classmethod
    def save(
        cls,
        folder: Folder,
        *,
        job: str,
        identity: Mapping[str, object],
        counts: PlanCounts,
        shards: Sequence[PlannedShard],
        files: Sequence[FileRecord] = (),
    ) -> Self:
        """Write a plan; `plan.json` last, so that a half-written plan is no plan.

        Args:
            folder: Where the plan's job writes.
            job: Its name.
            identity: See `identity`.
            counts: Totals.
            shards: In order.
            files: Further files of the plan, already written.
        """
        plan = cls(
            job=job,
            fingerprint=fingerprint(identity),
            identity=identity,
            counts=counts,
            files=(*files, write_shards(folder, 0, shards)),
            shards=tuple(shards),
        )
        plan.write(folder)
        return plan

    def grow(
        self,
        folder: Folder,
        *,
        identity: Mapping[str, object] | None,
        counts: PlanCounts,
        shards: Sequence[PlannedShard],
        files: Sequence[FileRecord] = (),
    ) -> Self:
        """Write the plan with one more part; until `plan.json` is replaced, at once, the folder has the old one.

        Args:
            folder: Of the plan.
            identity: See `PlanPart`.
            counts: Totals of the whole.
            shards: The new ones, numbered from 0.
            files: Further files of the part, already written, and those of the plan that are written anew.
        """
        part, start = len(self.parts) + 1, len(self.shards)
        added = [replace(shard, index=start + shard.index, part=part, part_start=start) for shard in shards]
        new = (*files, write_shards(folder, part, added))
        renewed = {file.path for file in new}
        grown = PlanPart(
            first_shard=start, identity=identity, before_sha256=plan_sha256(folder), before_counts=self.counts
        )
        parts = (*self.parts, grown)
        plan = replace(
            self,
            fingerprint=_fingerprint(self.identity, parts),
            counts=counts,
            files=(*(file for file in self.files if file.path not in renewed), *new),
            shards=(*self.shards, *added),
            parts=parts,
        )
        plan.write(folder)
        return plan

    def write(self, folder: Folder) -> None:
        """Write `plan.json`."""
        document: dict[str, object] = {
            "format_version": FORMAT_VERSION,
            "job": self.job,
            "fingerprint": self.fingerprint,
            "identity": dict(self.identity),
            "counts": asdict(self.counts),
            "files": [file.to_json() for file in self.files],
        }
        if self.parts:
            document["parts"] = [part.to_json() for part in self.parts]
        write_json(folder, PLAN_FILE, document)

    @property
    def part_starts(self) -> tuple[int, ...]:
        """First shard of each part."""
        return (0, *(part.first_shard for part in self.parts))

    def paths(self, path: str) -> list[str]:
        """Where the parts of the plan have a file, such as `MEDIA_FILE`, in their order; not every part has each."""
        there = {file.path for file in self.files}
        named = (part_file(path, part) for part in range(len(self.parts) + 1))
        return [path for path in named if path in there]

    @property
    def history(self) -> tuple[str, ...]:
        """Fingerprint that the plan had with each of its parts as the last."""
        return tuple(_fingerprint(self.identity, self.parts[:count]) for count in range(len(self.parts) + 1))

    @property
    def identities(self) -> tuple[Mapping[str, object] | None, ...]:
        """Identity of each part; None: see `PlanPart`."""
        return (self.identity, *(part.identity for part in self.parts))

    def before(self) -> Self:
        """The plan as it was before its last part, for its shards and counts; `files` stay those of the whole."""
        last = self.parts[-1]
        return replace(
            self,
            fingerprint=self.history[-2],
            counts=last.before_counts,
            shards=self.shards[: last.first_shard],
            parts=self.parts[:-1],
        )

    def check(self, *, folder: Folder, job: str, identity: Mapping[str, object]) -> None:
        """Refuse to go on with a plan that was made for something else.

        Raises:
            RunRefusedError: Says line by line what differs.
        """
        refuse_other(folder, self.differences(job, identity))

    def differences(self, job: str, identity: Mapping[str, object]) -> list[str]:
        """What differs between what the plan was first made for and something else, line by line."""
        return differences({"job": self.job, **self.identity}, {"job": job, **identity})


def plan_sha256(folder: Folder) -> str:
    """Sha256 of a folder's `plan.json`, which holds those of the plan's other files."""
    return hashlib.sha256(folder.read_bytes(PLAN_FILE)).hexdigest()


def refuse_other(folder: Folder, lines: Sequence[str]) -> None:
    """Refuse to go on with a plan that differs from what is asked for.

    Args:
        folder: Of the plan.
        lines: What differs; nothing does where there are none.

    Raises:
        RunRefusedError: There are some.
    """
    if lines:
        raise RunRefusedError(
            f"{folder.url} was planned for something else; what differs:\n  "
            + "\n  ".join(lines)
            + "\nGive another --output, or the inputs and flags it was planned with."
        )


def _fingerprint(identity: Mapping[str, object], parts: Sequence[PlanPart]) -> str:
    appended = [part.identity for part in parts if part.identity is not None]
    return fingerprint({"identity": identity, "appended": appended} if appended else identity)
