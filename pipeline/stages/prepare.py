"""Prepare a shard: the planned clips of its media, decoded in a sandbox, written as one clip shard."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from pipeline.media.retry import RetryPolicy
from pipeline.stages.clip_source import ShardDecoder
from pipeline.stages.decode import CodeMedia
from pipeline.stages.protocol import ClipProtocol
from pipeline.stages.stage import ShardReport, StepClock
from pipeline.store.clipshard import ClipShardWriter, CodedClip, read_coded
from pipeline.store.files import Folder
from pipeline.store.ledger import OutcomeRow, commit_shard, read_outcomes, read_record
from pipeline.store.planned_clips import PlannedClip, read_planned_clips
from pipeline.store.planned_shards import PlannedShard
from schemas.metadata import ledger_file


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
        self._retry = retry
        self._decoder = ShardDecoder(partial(CodeMedia, protocol, policy), protocol)

    def __call__(self, shard: PlannedShard) -> ShardReport:
        """Decode, write and commit one shard."""
        clock = StepClock()
        planned = read_planned_clips(self._output, shard)
        kept = self._kept(shard) if self._retry else {}
        outcomes: list[OutcomeRow] = []
        with self._output.stage(shard.name + ".tar") as staged:
            writer = ClipShardWriter(staged.stream)
            for result in clock.pulled("decode", self._results(shard, planned, kept)):
                if isinstance(result, CodedClip):
                    with clock.step("write"):
                        writer.write(result)
                else:
                    outcomes.append(result)
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
        self, shard: PlannedShard, planned: Sequence[PlannedClip], kept: Mapping[str, CodedClip | OutcomeRow]
    ) -> Iterator[CodedClip | OutcomeRow]:
        """One result for each planned clip, in order; what is not kept is decoded."""
        final = {key: result for key, result in kept.items() if isinstance(result, CodedClip) or not result.transient}
        decoded = self._decoder(shard, [row for row in planned if row.key not in final])
        for row in planned:
            if row.key in final:
                yield final[row.key]
                continue
            result, before = next(decoded), kept.get(row.key)
            if isinstance(result, OutcomeRow) and isinstance(before, OutcomeRow):
                yield replace(result, attempts=before.attempts + result.attempts)
            else:
                yield result
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
