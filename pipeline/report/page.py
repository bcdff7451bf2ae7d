"""Every page: one HTML file with its style, script and pictures inside, which nothing else may run in."""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files

import jinja2
from markupsafe import Markup

from pipeline.report.pictures import Film
from pipeline.store.files import Folder

_TEMPLATES = "templates"


class Films:
    """The films of a page, each of them in it once."""

    def __init__(self) -> None:
        self._films: dict[str, Film] = {}

    def add(self, film: Film) -> dict[str, object]:
        """Take a film in; what the page's script needs to show it."""
        self._films[film.name] = film
        return {
            "name": film.name,
            "width": film.width,
            "height": film.height,
            "frames": film.num_frames,
            "columns": film.num_columns,
        }

    def encoded(self) -> Iterator[tuple[str, str]]:
        """Name and base64 of each."""
        for name, film in self._films.items():
            yield name, base64.b64encode(film.webp).decode()


def write_page(
    output: Folder, path: str, *, template: str, title: str, films: Films, content: Mapping[str, object]
) -> None:
    """Write a page that says what `content` holds; everything in it is text, whatever its letters.

    Args:
        output: Folder that takes it.
        path: Its name there.
        template: A file of `templates/` that extends `base.html.j2`.
        title: Its heading.
        films: Those that `content` refers to.
        content: Names of the template.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", _TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = files("pipeline.report").joinpath(_TEMPLATES)
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    html = environment.get_template(template).render(
        **content,
        title=title,
        films=films.encoded(),
        style=Markup(style),  # noqa: S704  a file of ours
        script=Markup(script),  # noqa: S704  a file of ours
        style_hash=_content_hash(style),
        script_hash=_content_hash(script),
    )
    output.write_bytes(path, html.encode())


def _content_hash(text: str) -> str:
    """As a Content-Security-Policy names what it lets run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
