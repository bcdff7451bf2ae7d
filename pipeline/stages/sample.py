"""Sample a shard: latents of a generator, each from its own seed, decoded and written as one clip shard."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.media.reject import RejectClip
from pipeline.stages.stage import ShardReport, StepClock, reject_clip
from pipeline.stages.tokenizer import Inference, Tokenizer
from pipeline.store.clipshard import Clip, ClipShardWriter, PixelCodec, code_clip
from pipeline.store.files import Folder
from pipeline.store.ledger import OutcomeRow, commit_shard
from pipeline.store.planned_shards import PlannedShard
from schemas.clip import ClipMetadata
from schemas.outcome import Reason, Stage
from vitok.config import Grid
from vitok.generator.checkpoint import load_generator
from vitok.generator.sampler import SampleSettings, sample_latents
from vitok.pixels import to_uint8


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleOrder:
    """Which samples there are: `per_class` of each class, class after class, numbered from 0."""

    classes: tuple[int, ...]
    per_class: int
    shard_size: int
    seed: int
    grid: Grid
    num_frames: int

    @property
    def num_samples(self) -> int:
        """Of all classes."""
        return len(self.classes) * self.per_class

    def class_of(self, number: int) -> int:
        """Class of a sample."""
        return self.classes[number // self.per_class]

    def seed_of(self, number: int) -> int:
        """Of a sample's noise: a function of (seed, number) alone."""
        return int(np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64)[0])


class SampleShard:
    """Every sample of a planned shard, written as one tar."""

    def __init__(
        self,
        *,
        output: Folder,
        generator_url: str,
        tokenizer_url: str,
        order: SampleOrder,
        settings: SampleSettings,
        inference: Inference,
        codec: PixelCodec,
    ) -> None:
        clock = StepClock()
        with clock.step("weights"):
            self._tokenizer = Tokenizer(tokenizer_url, inference)
            self._generator = load_generator(generator_url)
            self._generator.network.eval().to(inference.device)
            self._fingerprint = self._generator.fingerprint
        self._start_seconds = clock.seconds
        self._output = output
        self._generator_url = generator_url
        self._order = order
        self._settings = settings
        self._inference = inference
        self._codec = codec

    def __call__(self, shard: PlannedShard) -> ShardReport:
        """Draw, decode, write and commit one shard."""
        clock = StepClock()
        clock.seconds, self._start_seconds = self._start_seconds, {}
        first = shard.index * self._order.shard_size
        outcomes: list[OutcomeRow] = []
        with self._output.stage(shard.name + ".tar") as staged:
            writer = ClipShardWriter(staged.stream)
            for start in range(first, first + shard.num_clips, self._settings.batch_size):
                numbers = range(start, min(start + self._settings.batch_size, first + shard.num_clips))
                with clock.step("sample"):
                    latents = self._draw(numbers)
                with clock.step("decode"):
                    pixels = self._tokenizer.decode(latents, num_frames=self._order.num_frames)
                with clock.step("write"):
                    for number, clip in zip(numbers, pixels, strict=True):
                        metadata = self._metadata(number, height=clip.shape[2], width=clip.shape[3])
                        if clip.isfinite().all():
                            levels = to_uint8(clip[None])[0].numpy()
                            writer.write(code_clip(Clip(pixels=levels, metadata=metadata), self._codec))
                        else:
                            error = RejectClip(Reason.NONFINITE_RECONSTRUCTION, "NaN or Inf among the decoded pixels")
                            outcomes.append(reject_clip(error, metadata, Stage.RECONSTRUCT))
            with clock.step("commit"):
                writer.close()
                file = staged.commit() if writer.num_clips else None
        with clock.step("commit"):
            record = commit_shard(self._output, shard, file=file, stored=writer.num_clips, outcomes=outcomes, sums={})
        return ShardReport(record=record, seconds=clock.seconds)

    def _draw(self, numbers: range) -> Tensor:
        device: Literal["cpu", "cuda"] = self._inference.device

        def network(latents: Tensor, times: Tensor, classes: Tensor) -> Tensor:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self._inference.precision == "bfloat16"):
                outputs: Tensor = self._generator.network(latents, times, classes)
            return outputs

        return sample_latents(
            self._generator.config,
            network,
            classes=[self._order.class_of(number) for number in numbers],
            seeds=[self._order.seed_of(number) for number in numbers],
            settings=self._settings,
            grid=self._order.grid,
            device=torch.device(device),
        )

    def _metadata(self, number: int, *, height: int, width: int) -> ClipMetadata:
        """The sample as a clip whose media is the generator."""
        drawn = self._order.class_of(number)
        labels = self._generator.config.classes
        return ClipMetadata(
            key=f"sample-{number:09d}",
            media_uri=self._generator_url,
            media_sha256=self._fingerprint,
            clip_index=number,
            start_seconds=None,
            end_seconds=None,
            fps=None,
            num_frames=self._order.num_frames,
            height=height,
            width=width,
            source_height=height,
            source_width=width,
            orientation=1,
            pixel_aspect=1.0,
            color="srgb",
            interlaced=False,
            crop_left=0.0,
            crop_top=0.0,
            crop_right=float(width),
            crop_bottom=float(height),
            label=labels[drawn] if drawn < len(labels) else None,
            caption=None,
            columns={},
        )
