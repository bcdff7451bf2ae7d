"""The tables on disk have the columns of the rows that the code reads into."""

from dataclasses import fields

import pytest

from pipeline.media.source import Media
from pipeline.store.index import IndexRow
from pipeline.store.planned_clips import PlannedClip
from schemas.manifest import INDEX_SCHEMA, MEDIA_SCHEMA, PLANNED_CLIP_SCHEMA


@pytest.mark.parametrize(("schema", "row"), [(MEDIA_SCHEMA, Media), (INDEX_SCHEMA, IndexRow)])
def test_columns_are_the_fields_of_their_row(schema, row):
    assert sorted(schema.names) == sorted(field.name for field in fields(row))
    assert [field.name for field in fields(row) if "None" in str(field.type) or field.name == "columns"] == [
        field.name for field in schema if field.nullable
    ]


def test_a_planned_clip_and_its_media_are_the_columns_of_the_plan():
    own = {field.name for field in fields(PlannedClip)} - {"media"}
    assert set(PLANNED_CLIP_SCHEMA.names) == own | set(MEDIA_SCHEMA.names)
