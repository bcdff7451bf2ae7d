"""How far our metrics are from public implementations on the same inputs.

Inputs: 34 tiles of 256 x 256 of scikit-image's photographs, and the same tiles averaged over blocks of 4 x 4. lpips and
torch-fidelity need torchvision, which has no build beside CPU torch: they were run once, by hand, on these very tiles
and weights with torchvision's names stubbed, and what they said is written here.

    python benchmarks/metrics.py [--json PATH]      needs the metrics extra, torchmetrics, and the weights
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import files, version
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import _compute_fid

from vitok.metrics.features import frame_features
from vitok.metrics.frechet import FeatureMoments, frechet_distance
from vitok.metrics.inception_score import InceptionScoreState
from vitok.metrics.perceptual import lpips
from vitok.metrics.pixel import psnr, ssim
from vitok.networks.i3d import I3d
from vitok.networks.inception import InceptionV3, prepare
from vitok.networks.lpips import Lpips
from vitok.networks.weights import weights_folder

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "retina.jpg", "rocket.jpg")
TILE = 256
LPIPS_SAID = 0.26335833155933547
TORCH_FIDELITY_SAID = 161.428708625061
FVD_SAID = {10: 569.23, 11: 486.36, 30: 151.39244}
"""Frames -> FVD of black against white clips by the original TensorFlow I3D."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """One number, ours and theirs."""

    metric: str
    peer: str
    ours: float
    other: float
    difference: float


def agreement(metric: str, peer: str, ours: float, other: float) -> Agreement:
    """A row."""
    return Agreement(metric=metric, peer=peer, ours=ours, other=other, difference=ours - other)


def tiles() -> torch.Tensor:
    """uint8 [34, 1, 256, 256, 3]."""
    paths = {file.name: Path(str(file.locate())) for file in files("scikit-image") or ()}
    cut = []
    for name in PHOTOGRAPHS:
        with Image.open(paths[name]) as image:
            pixels = np.asarray(image.convert("RGB"))
        rows, columns = (length // TILE for length in pixels.shape[:2])
        whole = pixels[: rows * TILE, : columns * TILE]
        cut.append(rearrange(whole, "(R H) (S W) C -> (R S) 1 H W C", R=rows, S=columns))
    return torch.from_numpy(np.concatenate(cut))


def degraded(clips: torch.Tensor) -> torch.Tensor:
    """Each block of 4 x 4 pixels its mean, rounded down."""
    means = reduce(clips.int(), "N T (H h) (W w) C -> N T H W C", "sum", h=4, w=4) // 16
    blocks = means.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    return blocks.to(torch.uint8)


def measure() -> list[Agreement]:
    """All rows."""
    originals = tiles()
    copies = degraded(originals)
    return [*pixel_rows(originals, copies), *network_rows(originals, copies), *formula_rows(), *fvd_rows()]


def pixel_rows(originals: torch.Tensor, copies: torch.Tensor) -> list[Agreement]:
    """PSNR and SSIM, means over tiles."""
    scikit, metrics = f"scikit-image {version('scikit-image')}", f"torchmetrics {version('torchmetrics')}"
    frames = list(zip(originals[:, 0].numpy(), copies[:, 0].numpy(), strict=True))
    windows = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    images = [rearrange(clips, "N 1 H W C -> N 1 C H W").double() for clips in (copies, originals)]
    pairs = list(zip(*images, strict=True))
    peak = np.mean([peak_signal_noise_ratio(*pair, data_range=255.0).item() for pair in pairs])
    of_frames, whole = zip(
        *(structural_similarity_index_measure(*pair, data_range=255.0, return_full_image=True) for pair in pairs),
        strict=True,
    )
    wang = [structural_similarity(*pair, data_range=255, channel_axis=-1, **windows) for pair in frames]
    our_psnr, our_ssim = (metric(originals, copies).mean().item() for metric in (psnr, ssim))
    return [
        agreement("psnr", f"{metrics}, data_range=255, per image", our_psnr, float(peak)),
        agreement("ssim", scikit, our_ssim, float(np.mean(wang))),
        agreement(
            "ssim",
            f"{metrics}, windows inside the frame",
            our_ssim,
            float(np.mean([similarity[..., 5:-5, 5:-5].mean().item() for similarity in whole])),
        ),
        agreement(
            "ssim",
            f"{metrics}, its default: also windows over mirrored pixels",
            our_ssim,
            float(np.mean([one.item() for one in of_frames])),
        ),
    ]


def network_rows(originals: torch.Tensor, copies: torch.Tensor) -> list[Agreement]:
    """LPIPS and FID."""
    network = InceptionV3.load("2015")
    script = torch.jit.load(weights_folder() / "inception_2015_fid.pt", map_location="cpu")
    ours, theirs = [], []
    for clips in (originals, copies):
        ours.append(frame_features(network, clips))
        images = rearrange(clips, "N 1 H W C -> N C H W")
        with torch.no_grad():
            theirs.append(torch.cat([script(prepare(part, "2015")) for part in images.split(8)]))
    fid = frechet_distance(*(FeatureMoments.of(features.numpy()) for features in ours))
    farthest = max((one - other).abs().max().item() for one, other in zip(ours, theirs, strict=True))
    return [
        agreement("lpips", "lpips 0.1.4", lpips(Lpips.load(), originals, copies).mean().item(), LPIPS_SAID),
        agreement("fid_2015", "torch-fidelity 0.4.0", fid, TORCH_FIDELITY_SAID),
        agreement("fid_2015", "TorchScript's features, torchmetrics' formula", fid, by_torchmetrics(*theirs)),
        agreement("inception 2015, farthest feature", "its TorchScript", farthest, 0.0),
    ]


def formula_rows() -> list[Agreement]:
    """Formulas on given numbers."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for name, samples, width in (("many samples", 3000, 64), ("fewer samples than features", 100, 512)):
        sets = [torch.randn(samples, width, generator=generator) * scale for scale in (1.0, 1.3)]
        ours = frechet_distance(*(FeatureMoments.of(features.numpy()) for features in sets))
        peer = f"torchmetrics {version('torchmetrics')}, {name}"
        rows.append(agreement("frechet distance", peer, ours, by_torchmetrics(*sets)))
    logits = torch.randn(500, 1000, generator=generator).double() * 3
    p, log_p = logits.softmax(dim=1), logits.log_softmax(dim=1)
    score = (p * (log_p - p.mean(dim=0).log())).sum(dim=1).mean().exp().item()
    ours = InceptionScoreState.of(logits.numpy()).score()
    return [*rows, agreement("inception score", "formula of torch-fidelity and torchmetrics, one split", ours, score)]


def fvd_rows() -> list[Agreement]:
    """FVD of black against white clips."""
    network = I3d.load()
    rows = []
    for frames, said in FVD_SAID.items():
        black, white = (network(torch.full((1, 3, frames, 224, 224), level)) for level in (-1.0, 1.0))
        # Twice the same clip: a covariance needs two samples.
        moments = [FeatureMoments.of(logits.repeat(2, 1).numpy()) for logits in (black, white)]
        rows.append(agreement(f"fvd, {frames} frames", "original I3D", frechet_distance(*moments), said))
    return rows


def by_torchmetrics(reference: torch.Tensor, candidate: torch.Tensor) -> float:
    """Torchmetrics' Frechet distance of two sets of features."""
    sets = [features.double() for features in (reference, candidate)]
    return float(_compute_fid(*(part for features in sets for part in (features.mean(dim=0), features.T.cov()))))


def main() -> None:
    """Print the table; write it where `--json PATH` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    rows = measure()
    versions = {name: version(name) for name in ("torch", "numpy", "pillow", "scikit-image", "torchmetrics")}
    width = max(len(row.peer) for row in rows)
    for row in rows:
        sys.stdout.write(
            f"{row.metric:33} {row.peer:{width}} {row.ours:14.7f} {row.other:14.7f} {row.difference:11.1e}\n"
        )
    sys.stdout.write(f"{versions}\n")
    if arguments.json is not None:
        document = {
            "command": "python benchmarks/metrics.py",
            "versions": versions,
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
