"""Pictures of an audit: the clips that came back worst and best, reconstructed once more in this process."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.media.reject import RejectClip
from pipeline.report.audit_data import AuditExample
from pipeline.report.pictures import triptych
from pipeline.store.clipshard import read_clips
from pipeline.store.files import Folder
from pipeline.store.index import Store
from pipeline.store.plan import Plan

if TYPE_CHECKING:  # torch, by way of the metrics
    from pipeline.runs.audit_candidates import Candidate
    from pipeline.runs.audit_fold import Ranked
    from pipeline.stages.tokenizer import Inference


def picture(
    candidate: "Candidate", ranked: "Sequence[Ranked]", audit: Folder, source: Store, inference: "Inference"
) -> list[AuditExample]:
    """Examples of some clips of an audit; a clip that is not finite alone, though it was in its batch, is left out.

    Args:
        candidate: What gives them back.
        ranked: The clips.
        audit: Folder of the candidate's store.
        source: The clip store.
        inference: Of the audit; here one clip at a time goes through, on the CPU, and nothing is compiled for so few.
    """
    if not ranked:
        return []
    plan = Plan.load(audit)
    assert plan is not None, "a finished store has a plan"
    wanted = {clip.key: clip for clip in ranked}
    reconstructor = candidate.make(replace(inference, batch_size=1, device="cpu", compile=False))
    examples = []
    for number in sorted({clip.shard for clip in ranked}):
        for path in plan.shards[number].sources:
            with source.folder.open(path) as stream:
                for clip in read_clips(stream, where=source.folder.path(path)):
                    found = wanted.get(clip.metadata.key)
                    if found is None:
                        continue
                    (result,) = reconstructor([clip]).results
                    if not isinstance(result, RejectClip):
                        examples.append(
                            AuditExample(
                                candidate=candidate.name,
                                key=found.key,
                                media_uri=found.media_uri,
                                label=found.label,
                                metrics=found.values,
                                fps=found.fps,
                                pictures=triptych(clip.pixels, result.pixels),
                            )
                        )
    return examples
