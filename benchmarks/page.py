"""How soon the page of an audit with many examples is open, in a headless Chromium.

    python benchmarks/page.py [--json PATH] [--runs N]

200 examples of real photographs at 256 pixels, one in ten a clip of 16 frames, each with three pictures, from a file.
Ours is seconds from the start of the navigation, other the limit of one second: until something is painted, until the
page has loaded, and until the pictures in the window are drawn. Below them the page's size in MB, against 100.
"""

import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
from harness import Row, main
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from skimage import data

from pipeline.report.audit import write_audit_page
from pipeline.report.audit_data import AuditData, AuditExample, Candidate, Estimate
from pipeline.report.pictures import triptych
from pipeline.store.files import Folder

EXAMPLES = 200
CLIP_EVERY = 10
NUM_FRAMES = 16
SIDE = 256
LIMIT_SECONDS = 1.0
LIMIT_MB = 100.0
_DRAWN = """async () => {
    const near = [...document.querySelectorAll("article")].filter(a => a.getBoundingClientRect().top < innerHeight);
    const canvases = near.flatMap(a => [...a.querySelectorAll("canvas")]);
    while (!canvases.every(c => c.dataset.frame !== undefined)) await new Promise(requestAnimationFrame);
    return performance.now() / 1000;
}"""


def photographs() -> list[np.ndarray]:
    """Colour photographs, uint8 [H, W, 3]."""
    return [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.hubble_deep_field(), data.retina()]


def crops(count: int) -> list[np.ndarray]:
    """Clips uint8 [T, SIDE, SIDE, 3]: places on photographs, of one frame, or of several that move over it."""
    random = np.random.default_rng(0)
    sources = photographs()
    clips = []
    for number in range(count):
        source = sources[number % len(sources)]
        num_frames = NUM_FRAMES if number % CLIP_EVERY == 0 else 1
        top, left = (random.integers(0, size - SIDE - num_frames + 1) for size in source.shape[:2])
        clips.append(np.stack([source[top + step :, left + step :][:SIDE, :SIDE] for step in range(num_frames)]))
    return clips


def reconstructed(clip: np.ndarray) -> np.ndarray:
    """Frames at a quarter of their size and back."""
    small = [Image.fromarray(frame).resize((SIDE // 4, SIDE // 4), Image.Resampling.BOX) for frame in clip]
    return np.stack([np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in small])


def audit() -> AuditData:
    """An audit of them."""
    examples = []
    for number, clip in enumerate(crops(EXAMPLES)):
        back = reconstructed(clip)
        psnr = 10 * np.log10(255**2 / np.square(clip.astype(float) - back).mean())
        examples.append(
            AuditExample(
                candidate="bicubic",
                key=f"clip-{number:04d}",
                media_uri="scikit-image",
                metrics={"psnr": float(psnr)},
                fps=8.0 if len(clip) > 1 else None,
                pictures=triptych(clip, back),
            )
        )
    mean = statistics.fmean(example.metrics["psnr"] for example in examples)
    counts = {"planned": EXAMPLES, "stored": EXAMPLES, "filtered": 0, "rejected": 0}
    bicubic = Candidate(name="bicubic", kind="codec", **counts, metrics={"psnr": Estimate(value=mean)})
    return AuditData(
        clips="photographs",
        metrics=["psnr"],
        candidates=[bicubic],
        examples=examples,
        protocol_id="none",
        protocol={},
        record={},
    )


def seconds_of(browser: Browser, url: str) -> tuple[float, float, float]:
    """Until something is painted, until the page has loaded, until the pictures in the window are drawn."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(url)
    drawn = page.evaluate(_DRAWN)
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
    page.close()
    return painted, loaded, drawn


def measure(runs: int) -> list[Row]:
    """Open the page several times, each in a new tab."""
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("no chromium on PATH (Debian and Ubuntu: apt install chromium)")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        write_audit_page(Folder(folder), "report.html", audit())
        page = Path(folder) / "report.html"
        size = page.stat().st_size / 1e6
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        found = [seconds_of(browser, page.as_uri()) for _ in range(runs)]
        browser.close()
    names = ("first paint", "loaded", "pictures in the window drawn")
    limit = [LIMIT_SECONDS] * runs
    rows = [Row.of(name, column, limit, "s") for name, column in zip(names, zip(*found, strict=True), strict=True)]
    return [*rows, Row.of(f"page with {EXAMPLES} examples", [size], [LIMIT_MB], "MB")]


if __name__ == "__main__":
    main(measure, description=str(__doc__), runs=5)
