"""Prepare a shard: the planned clips of its media, decoded in a sandbox, written as one clip shard."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from pipeline.media.reject import RejectClip
from pipeline.media.retry import RetryPolicy
from pipeline.media.sandbox import Sandbox
from pipeline.stages.decode import DecodeMedia, PlannedMedia
from pipeline.stages.protocol import ClipProtocol
from pipeline.stages.stage import ShardReport, StepClock, reject_row
from pipeline.store.clipshard import ClipShardWriter, CodedClip, read_coded
from pipeline.store.files import Folder
from pipeline.store.ledger import OutcomeRow, commit_shard, read_outcomes, read_record
from pipeline.store.plan import PlannedClip, PlannedShard, read_planned_clips
from schemas.metadata import ledger_file
from schemas.outcome import Stage


class PrepareShard:
    """Every clip of a planned shard, written as one tar."""

    def __init__(self, *, output: Folder, protocol: ClipProtocol, policy: RetryPolicy, retry: bool = False) -> None:
        """Make the stage of one worker.

        Args:
            output: The clip store.
            protocol: How clips are made.
            policy: How media are read.
            retry: Take up committed shards again: keep what they hold, and try once more what was rejected for a
                reason that may have passed. The file becomes what it would have been without those rejects.
        """
        self._output = output
        self._protocol = protocol
        self._retry = retry
        self._sandbox: Sandbox[PlannedMedia, CodedClip | RejectClip] = Sandbox(
            partial(DecodeMedia, protocol, policy),
            count=lambda planned: len(planned.clips),
            timeout_s=protocol.limits.timeout_s,
        )

    def __call__(self, shard: PlannedShard) -> ShardReport:
        """Decode, write and commit one shard."""
        clock = StepClock()
        planned = read_planned_clips(self._output, shard)
        kept = self._kept(shard) if self._retry else {}
        outcomes: list[OutcomeRow] = []
        with self._output.stage(shard.name + ".tar") as staged:
            writer = ClipShardWriter(staged.stream)
            for row, result in clock.pulled("decode", self._results(shard, planned, kept)):
                if isinstance(result, CodedClip):
                    with clock.step("write"):
                        writer.write(result)
                else:
                    outcomes.append(result if isinstance(result, OutcomeRow) else self._ended(row, result))
            with clock.step("commit"):
                writer.close()
                if self._retry:
                    # From here to its new record the shard is not committed: a run that goes on makes it afresh.
                    self._output.remove(ledger_file(shard.index))
                file = staged.commit() if writer.num_clips else None
        with clock.step("commit"):
            record = commit_shard(self._output, shard, file=file, stored=writer.num_clips, outcomes=outcomes, sums={})
        return ShardReport(record=record, seconds=clock.seconds)

    def _results(
        self, shard: PlannedShard, planned: list[PlannedClip], kept: Mapping[str, CodedClip | OutcomeRow]
    ) -> Iterator[tuple[PlannedClip, CodedClip | OutcomeRow | RejectClip]]:
        """One result for each planned clip, in order; what is not kept is decoded, media by media."""
        size = self._protocol.size_of(shard.bucket)
        wanted = [row for row in planned if not _final(kept, row)]
        media = [
            PlannedMedia(clips=list(rows), size=size)
            for _, rows in itertools.groupby(wanted, key=lambda row: row.media.uri)
        ]
        decoded = _one_by_one(media, self._sandbox)
        for row in planned:
            if _final(kept, row):
                yield row, kept[row.key]
                continue
            result = next(decoded)
            before = kept.get(row.key)
            if isinstance(result, RejectClip) and isinstance(before, OutcomeRow):
                ended = self._ended(row, result)
                yield row, replace(ended, attempts=before.attempts + ended.attempts)
            else:
                yield row, result
        assert next(decoded, None) is None, "more results than clips"

    def _kept(self, shard: PlannedShard) -> dict[str, CodedClip | OutcomeRow]:
        """What an earlier commit of the shard made, by key; nothing where its bytes are no longer those it wrote."""
        record = read_record(self._output, shard.index)
        if record is None:
            return {}
        kept: dict[str, CodedClip | OutcomeRow] = {}
        if record.outcomes is not None:
            kept |= {row.key: row for row in read_outcomes(self._output, record.outcomes.path)}
        if record.file is not None:
            if not self._output.holds(record.file):
                return {}
            with self._output.open(record.file.path) as stream:
                kept |= {clip.key: clip for clip in read_coded(stream, where=record.file.path)}
        return kept

    def _ended(self, row: PlannedClip, error: RejectClip) -> OutcomeRow:
        """The row on disk of a clip that was not stored."""
        fps, start = self._protocol.fps, row.first_frame
        return reject_row(
            error,
            key=row.key,
            media_uri=row.media.uri,
            start_seconds=None if start is None else float(start / fps),
            end_seconds=None if start is None else float((start + self._protocol.num_frames) / fps),
            stage=Stage.DECODE,
        )


def _final(kept: Mapping[str, CodedClip | OutcomeRow], row: PlannedClip) -> bool:
    """Whether a clip is not to be tried again."""
    before = kept.get(row.key)
    return before is not None and not (isinstance(before, OutcomeRow) and before.transient)


def _one_by_one(
    media: list[PlannedMedia], sandbox: Sandbox[PlannedMedia, CodedClip | RejectClip]
) -> Iterator[CodedClip | RejectClip]:
    """One result for each planned clip of each media, in order."""
    for planned, results in zip(media, sandbox.run(media), strict=True):
        given = 0
        try:
            for result in results:
                given += 1
                yield result
        except RejectClip as error:
            # The media itself failed: that is the end of all its clips not yet given.
            yield from itertools.repeat(error, len(planned.clips) - given)
