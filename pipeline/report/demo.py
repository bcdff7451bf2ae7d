"""The page of the demo: what its jobs did, the curves and pictures of all of them, and the way to their own pages."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.audit import summary_table
from pipeline.report.audit_data import AuditData
from pipeline.report.page import Films, write_page
from pipeline.report.training import Point, picture_card, picture_cards, training_charts
from pipeline.store.files import Folder


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoTraining:
    """One of the demo's trainings. Names are of files and folders in the demo's."""

    player: str
    points: Sequence[Point]
    """What was logged, by ascending step."""
    pictures: str
    """Folder of step-NNNNNNNN.png."""
    page: str
    """Its own."""

    def content(self, output: Folder, films: Films, *, num_charts: int, num_pictures: int) -> dict[str, object]:
        """Names of the template."""
        return {
            "charts": training_charts(self.points, player=self.player)[:num_charts],
            "pictures": picture_cards(films, output, self.pictures, most=num_pictures),
            "page": self.page,
        }


def write_demo_page(
    output: Folder,
    path: str,
    *,
    facts: Sequence[tuple[str, str]],
    tokenizer: DemoTraining,
    audit: AuditData,
    audit_page: str,
    generator: DemoTraining,
    samples: str,
) -> None:
    """Write the page of a finished demo.

    Args:
        output: The demo's folder.
        path: Name of the page in it.
        facts: Jobs, and what each did.
        tokenizer: Its training.
        audit: Of the tokenizer.
        audit_page: Name of the audit's own page.
        generator: Its training.
        samples: Name of a picture of samples.
    """
    films = Films()
    content = {
        "url": output.url,
        "facts": facts,
        "tokenizer": tokenizer.content(output, films, num_charts=3, num_pictures=2),
        "audit": {"summary": summary_table(audit), "page": audit_page},
        "generator": generator.content(output, films, num_charts=1, num_pictures=4),
        "samples": picture_card(films, output, samples, title="others, at the end"),
    }
    write_page(output, path, template="demo.html.j2", title="Demo", films=films, content=content)
