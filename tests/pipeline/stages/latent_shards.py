"""What the tests of encoding know of its latent shards."""

import pyarrow.parquet as pq
import torch

from schemas.latent import latent_columns

GRID = (2, 2, 2)
CHANNELS = 4
MIRRORED = latent_columns(logvar=True, flip=True)


def contents(folder):
    return {path: folder.read_bytes(path) for path in folder.find()}


def assert_columns_equal(found, expected):
    """Two sides of (latents by key, names of columns): equal to the bit, column by column."""
    (found, found_names), (expected, expected_names) = found, expected
    assert list(found) == list(expected)
    for key in found:
        for name, other in zip(found_names, expected_names, strict=True):
            assert torch.equal(found[key][name], expected[key][other]), (key, name, other)


def read_outcomes_of(output, report):
    with output.open(report.record.outcomes.path) as stream:
        return pq.ParquetFile(stream).read(use_threads=False).to_pylist()
