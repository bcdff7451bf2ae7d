"""Show a store: its page, in its folder or elsewhere. Needs no Ray."""

import logging
from dataclasses import dataclass
from typing import Annotated

import tyro

from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from pipeline.store.verify import open_any_store
from schemas.metadata import AUDIT_FORMAT, CLIP_STORE_FORMAT, LATENT_STORE_FORMAT

REPORT_FILE = "report.html"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowConfig:
    """Write a page about a clip store or a latent store: counts, buckets, statistics, examples, losses, origin."""

    store: Annotated[str, tyro.conf.Positional]
    """Folder of the store: path or URL."""
    output: str = ""
    """The page, an .html file: path or URL; empty: report.html in the store's folder."""
    shards: str = ""
    """Clip store that a latent store's clips are looked for in; empty: the one it was encoded from, if it is there."""
    num_examples: int = 24
    """Clips that are pictured."""

    def __post_init__(self) -> None:
        if self.output and not self.output.endswith(".html"):
            raise ValueError(f"--output: got {self.output!r}, expected the name of an .html file")
        if self.num_examples < 0:
            raise ValueError(f"--num-examples: got {self.num_examples}, expected 0 or more")


def show(config: ShowConfig) -> str:
    """Write the page; its path or URL.

    Raises:
        ValueError: There is no finished clip store or latent store, it is damaged, or --shards names no clip store.
    """
    from pipeline.report.store import write_store_page

    store = open_any_store(Folder(config.store))
    if store.document["format"] not in (CLIP_STORE_FORMAT, LATENT_STORE_FORMAT):
        hint = "an audit has its report.html" if store.document["format"] == AUDIT_FORMAT else ""
        raise ValueError(f"{store.folder.url}: holds {store.document['format']}, which has no such page: {hint}")
    folder, slash, name = (config.output or f"{store.folder.url}/{REPORT_FILE}").rpartition("/")
    output = Folder(folder or slash or ".")
    write_store_page(output, name, store, clips=_clips(config, store), num_examples=config.num_examples)
    return f"{output.url}/{name}"


def _clips(config: ShowConfig, store: Store) -> Store | None:
    from pipeline.report.store_outcomes import clip_store_urls

    if store.document["format"] == CLIP_STORE_FORMAT:
        return None
    if config.shards:
        return open_store(Folder(config.shards), format_name=CLIP_STORE_FORMAT)
    for url in clip_store_urls(store.folder):
        try:
            return open_store(Folder(url), format_name=CLIP_STORE_FORMAT)
        except ValueError as error:
            logger.info("show: no pictures of clips from %s: %s", url, error)
    return None
