"""How near tiles come to the whole: PSNR of tiled reconstructions of stored clips.

    python benchmarks/tiling.py --tokenizer FOLDER --shards CLIP_STORE [--tile 8x64x64] [--overlap 4x32x32]

Medians over clips, in dB. First row: ours is tiled against whole, other whole against the clip, so the ratio says how
far the tiles' error lies below the tokenizer's own. Second row: ours is tiled against the clip, other whole against it.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from harness import Row, table
from torch import Tensor

from pipeline.store.clipshard import Clip, read_clips
from pipeline.store.files import Folder
from pipeline.store.index import open_store
from schemas.metadata import CLIP_STORE_FORMAT
from vitok.config import Grid
from vitok.metrics.pixel import psnr
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import load_checkpoint
from vitok.model.tiling import Tiling, reconstruct_tiled
from vitok.pixels import from_uint8, to_uint8


@dataclass(frozen=True, kw_only=True, slots=True)
class SeamPsnr:
    """PSNR in dB, one number a clip."""

    tiled_whole: list[float]
    tiled_clip: list[float]
    whole_clip: list[float]


@torch.inference_mode()
def seam_psnr(model: AutoEncoder, clips: Iterable[Tensor], tiling: Tiling) -> SeamPsnr:
    """Reconstruct clips, uint8 [T, H, W, 3] each, whole and by tiles, through the posterior's mode."""
    found = SeamPsnr(tiled_whole=[], tiled_clip=[], whole_clip=[])
    device = next(model.parameters()).device
    for clip in clips:
        stored = clip[None].to(device)
        pixels = from_uint8(stored)
        latent = model.encode(pixels).mode()
        whole = to_uint8(model.decode(latent, num_frames=len(clip)))
        tiled = to_uint8(reconstruct_tiled(model, pixels, tiling))
        found.tiled_whole.append(psnr(whole, tiled).item())
        found.tiled_clip.append(psnr(stored, tiled).item())
        found.whole_clip.append(psnr(stored, whole).item())
    return found


def stored_clips(url: str) -> Iterable[Clip]:
    """Clips of a store in its order."""
    store = open_store(Folder(url), format_name=CLIP_STORE_FORMAT)
    for row in store.rows:
        if row.path is not None:
            with store.folder.open(row.path) as stream:
                yield from read_clips(stream, where=store.folder.path(row.path))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="folder of config.json and model.safetensors")
    parser.add_argument("--shards", required=True, help="clip store of clips larger than a tile")
    parser.add_argument("--tile", default="8x64x64", help="frames x height x width in pixels (default: %(default)s)")
    parser.add_argument("--overlap", default="4x32x32", help="of neighbouring tiles (default: %(default)s)")
    parser.add_argument("--num-clips", type=int, default=16, help="clips measured (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where the model runs (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    tile, overlap = Grid.parse(arguments.tile), Grid.parse(arguments.overlap)
    tiling = Tiling(
        frames=tile.frames,
        height=tile.height,
        width=tile.width,
        overlap_frames=overlap.frames,
        overlap_height=overlap.height,
        overlap_width=overlap.width,
    )
    model = load_checkpoint(arguments.tokenizer).eval().to(arguments.device)
    clips = islice(stored_clips(arguments.shards), arguments.num_clips)
    found = seam_psnr(model, (torch.tensor(clip.pixels) for clip in clips), tiling)
    if not found.tiled_whole:
        raise ValueError(f"--shards {arguments.shards}: holds no clips")
    name = f"tile {arguments.tile}, overlap {arguments.overlap}"
    rows = [
        Row.of(f"{name}: tiled against whole", found.tiled_whole, found.whole_clip, "dB"),
        Row.of(f"{name}: tiled against clip", found.tiled_clip, found.whole_clip, "dB"),
    ]
    sys.stdout.write(table(rows))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        flags = f"--tile {arguments.tile} --overlap {arguments.overlap} --num-clips {arguments.num_clips}"
        document = {
            "command": f"python benchmarks/tiling.py --tokenizer FOLDER --shards CLIP_STORE {flags}",
            "tokenizer": asdict(model.config),
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
