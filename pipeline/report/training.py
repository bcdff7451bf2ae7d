"""The page of a training: its loss terms and what held-out clips reach over its steps, and how these come back."""

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from pipeline.report.charts import Chart, Mark
from pipeline.report.notation import fixed
from pipeline.report.page import Films, write_page
from pipeline.report.pictures import film_of
from pipeline.store.documents import canonical_json
from pipeline.store.files import Folder

Point = tuple[int, Mapping[str, float]]
"""Step, and values by name, as training logs them ("tokenizer/pixel", "validation/psnr")."""

_LOSS_TERMS = ("total", "pixel", "kl", "lpips", "gan", "noise", "bound", "velocity")
_HELD_OUT = "validation/"
_PICTURED: Mapping[str, str] = {
    "tokenizer": "Held-out clips: originals above, their reconstructions below.",
    "generator": "Samples, class after class: at each step of the same noise.",
}
"""What the pictures of a training show, by player."""
_LABELS: Mapping[str, str] = {"psnr": "PSNR [dB]", "ssim": "SSIM", "lpips": "LPIPS"}
_PICTURE = re.compile(r"/step-(\d+)\.png$")
_MOST_PICTURES = 6
_LONGEST_SIDE = 1536
"""Of a picture with several clips in it."""


def write_training_page(
    output: Folder,
    path: str,
    *,
    points: Sequence[Point],
    player: str,
    pictures: str,
    identity: Mapping[str, object],
) -> None:
    """Write the page of a finished training.

    Args:
        output: The training's folder.
        path: Name of the page in it.
        points: What was logged, by ascending step.
        player: Whose loss.
        pictures: Folder in `output` of step-NNNNNNNN.png, clips above their reconstructions; it may be absent.
        identity: Everything that can change a weight; JSON.
    """
    films = Films()
    content = {
        "url": output.url,
        "facts": _facts(points, player),
        "charts": training_charts(points, player=player),
        "pictures": picture_cards(films, output, pictures, most=_MOST_PICTURES),
        "pictured": _PICTURED[player],
        "record": canonical_json(identity).decode(),
    }
    write_page(output, path, template="training.html.j2", title="Training", films=films, content=content)


def picture_cards(films: Films, output: Folder, folder: str, *, most: int) -> list[dict[str, object]]:
    """Cards of at most so many of a training's pictures, evenly apart, with the first and the last; later steps first.

    Args:
        films: Take the pictures in.
        output: A folder.
        folder: In it, of step-NNNNNNNN.png; it may be absent.
        most: At least two.
    """
    found = [(int(step[1]), name) for name in output.find(folder) if (step := _PICTURE.search(name))]
    shown = min(len(found), most)
    spread = [found[place * (len(found) - 1) // max(shown - 1, 1)] for place in range(shown)]
    return [picture_card(films, output, name, title=f"step {step:,}") for step, name in spread[::-1]]


def picture_card(films: Films, output: Folder, name: str, *, title: str) -> dict[str, object]:
    """Card of a picture with several clips in it.

    Args:
        films: Take the picture in.
        output: A folder.
        name: In it.
        title: Above the picture.
    """
    with Image.open(io.BytesIO(output.read_bytes(name))) as image:
        frame = np.asarray(image.convert("RGB"))
    film = films.add(film_of(frame[None], longest_side=_LONGEST_SIDE))
    return {"title": title, "notes": [], "fps": "", "pictures": [("picture", film)]}


def training_charts(points: Sequence[Point], *, player: str) -> list[Chart]:
    """Loss terms on a logarithmic axis, each measure of held-out clips, then all else; of one step alone, nothing."""
    logged = dict.fromkeys(name for _, values in points for name in values)
    names = [name for name in logged if len(_curve(points, name)[0]) > 1]
    terms = [name for term in _LOSS_TERMS if (name := f"{player}/{term}") in names]
    terms = [name for name in terms if min(_curve(points, name)[1]) > 0]
    charts = []
    if terms:
        marks = [_mark(points, name, label=name.removeprefix(f"{player}/"), colour=i) for i, name in enumerate(terms)]
        charts.append(
            Chart(title="Loss terms, unweighted", x_label="optimizer steps", y_label="loss", marks=marks, log_y=True)
        )
    first = [_HELD_OUT + name for name in _LABELS if _HELD_OUT + name in names]
    held_out = [*first, *(name for name in names if name.startswith(_HELD_OUT) and name not in first)]
    others = [name for name in names if name not in (*terms, *held_out)]
    for name in (*held_out, *others):
        label = name.rpartition("/")[2]
        label = _LABELS.get(label, label.replace("_", " "))
        title = f"Held-out clips: {label}" if name in held_out else label.capitalize()
        mark = _mark(points, name, label=label, colour=0)
        charts.append(Chart(title=title, x_label="optimizer steps", y_label=label, marks=[mark]))
    return charts


def _facts(points: Sequence[Point], player: str) -> list[tuple[str, str]]:
    """The last step, and what was last found."""
    last: dict[str, float] = {}
    for _, values in points:
        last |= values
    facts = [("steps", f"{points[-1][0]:,}")] if points else []
    if f"{player}/total" in last:
        facts.append(("loss", fixed(last[f"{player}/total"], 4)))
    shown = [(name, last[_HELD_OUT + name]) for name in _LABELS if _HELD_OUT + name in last]
    return facts + [(f"held-out {_LABELS[name]}", fixed(value, 3)) for name, value in shown]


def _mark(points: Sequence[Point], name: str, *, label: str, colour: int) -> Mark:
    x, y = _curve(points, name)
    return Mark(name=label, x=x, y=y, form="line", colour=colour)


def _curve(points: Sequence[Point], name: str) -> tuple[list[float], list[float]]:
    found = [(float(step), values[name]) for step, values in points if name in values]
    return [step for step, _ in found], [value for _, value in found]
