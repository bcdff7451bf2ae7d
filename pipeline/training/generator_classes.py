"""Classes of a latent store: its labels, sorted, so that a class number is a function of the store alone."""

import json

from pipeline.store.files import Folder
from pipeline.store.index import open_store
from pipeline.store.tables import read_table
from schemas.metadata import LATENT_STORE_FORMAT
from vitok.latents.tar import read_samples


def labels_of(url: str) -> tuple[str, ...]:
    """Different labels of a latent store: one column of each Parquet shard is read, of tars all, in this process.

    Raises:
        ValueError: There is no latent store.
    """
    store = open_store(Folder(url), format_name=LATENT_STORE_FORMAT)
    found: set[str] = set()
    for row in store.rows:
        if row.path is not None:
            found |= _labels_of_shard(store.folder, row.path)
    return tuple(sorted(found))


def _labels_of_shard(folder: Folder, path: str) -> set[str]:
    with folder.open(path) as stream:
        if path.endswith(".parquet"):
            labels = read_table(stream, columns=["label"]).column("label").unique().to_pylist()
        else:
            labels = [json.loads(members["json"])["label"] for _, members in read_samples(stream, where=path)]
    return {label for label in labels if label is not None}
