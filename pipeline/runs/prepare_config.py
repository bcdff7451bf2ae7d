"""The flags of prepare_corpus."""

from dataclasses import dataclass

from pipeline.runs.clip_flags import ClipFlags
from pipeline.stages.protocol import ClipProtocol
from pipeline.store.clipshard import CodecName, PixelCodec, Subsampling
from vitok.config import Tubelet


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig(ClipFlags):
    """Decode images and videos into clip shards."""

    input: tuple[str, ...]
    """Files, folders, globs; WebDataset tars; Parquet tables; lists (.txt, .csv, .tsv, .jsonl): paths or URLs."""
    output: str
    """Folder of the clip store: path or URL."""
    tubelet: str = "4x8"
    """QxP, frames by pixels, as the tokenizer will cut."""
    codec: CodecName = "jpeg"
    """How pixels stand in the shards."""
    quality: int = 98
    """JPEG quality, 1 to 100."""
    subsampling: Subsampling = "444"
    """JPEG chroma: whole, or halved across, or both ways."""
    shard_size: int = 1024
    """Clips of one shard."""
    num_workers: int = 0
    """Workers; 0 fills the cluster. Changes no output byte."""
    max_reject_fraction: float = 1.0
    """Share of the planned clips that may be rejected before the run stops."""
    append: bool = False
    """Add the media that the store does not have yet, in new shards; its old ones stay as they are."""
    dry_run: bool = False
    """Prepare a small sample aside, and print what the whole would be."""
    break_claim: bool = False
    """Take over an object-store folder whose run is known to be dead."""

    def __post_init__(self) -> None:
        ClipFlags.__post_init__(self)  # `super()` does not find its class where dataclasses make slots
        if not self.input:
            raise ValueError("--input: got nothing, expected at least one file, folder or glob")
        if self.append and self.dry_run:
            raise ValueError("--append and --dry-run: got both, expected one: a dry run is of a whole corpus")
        if self.shard_size < 1:
            raise ValueError(f"--shard-size: got {self.shard_size}, expected at least 1")
        if self.num_workers < 0:
            raise ValueError(f"--num-workers: got {self.num_workers}, expected 0 (fill the cluster) or more")
        if not 0 <= self.max_reject_fraction <= 1:
            raise ValueError(f"--max-reject-fraction: got {self.max_reject_fraction}, expected 0 to 1")
        self.protocol()

    def protocol(self) -> ClipProtocol:
        """What the flags make of media.

        Raises:
            ValueError: A flag is out of its range.
        """
        codec = PixelCodec(name=self.codec, quality=self.quality, subsampling=self.subsampling)
        return self.clip_protocol(Tubelet.parse(self.tubelet), codec)
