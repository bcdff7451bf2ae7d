"""Probe media: how many clips one holds, or why it holds none. Runs while planning."""

from dataclasses import dataclass
from fractions import Fraction

from pipeline.media.guard import MediaLimits
from pipeline.media.keys import media_key
from pipeline.media.reject import RejectClip
from pipeline.media.source import MediaKind, open_media
from pipeline.media.span import plan_spans
from pipeline.media.video import probe_video
from pipeline.stages.stage import reject_row
from pipeline.store.ledger import OutcomeRow
from schemas.outcome import Outcome, Reason, Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeMedia:
    """Counts the clips of a media from its header; an image is one clip and is not opened here."""

    fps: Fraction
    num_frames: int
    limits: MediaLimits

    def __call__(self, uri: str, kind: MediaKind) -> int | OutcomeRow:
        """Number of clips, at least one; else the outcome of the media."""
        if kind is MediaKind.IMAGE:
            return 1
        try:
            with open_media(uri) as file:
                facts = probe_video(file, self.limits)
        except RejectClip as error:
            return reject_row(
                error, key=media_key(uri), media_uri=uri, start_seconds=None, end_seconds=None, stage=Stage.PLAN
            )
        num_clips = len(plan_spans(facts.duration_seconds, self.fps, self.num_frames))
        return num_clips or self._too_short(uri, facts.duration_seconds)

    def _too_short(self, uri: str, duration_seconds: Fraction) -> OutcomeRow:
        needed = float(self.num_frames / self.fps)
        return OutcomeRow(
            key=media_key(uri),
            media_uri=uri,
            start_seconds=None,
            end_seconds=None,
            outcome=Outcome.FILTERED,
            stage=Stage.PLAN,
            reason=Reason.TOO_SHORT,
            transient=False,
            attempts=1,
            message=f"lasts {float(duration_seconds):.3f} s, one clip takes {needed:.3f} s",
        )
