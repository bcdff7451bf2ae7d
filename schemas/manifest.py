"""What a run must process: media, planned clips, planned shards; and the index of what was committed."""

import pyarrow as pa

MEDIA_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),  # unique: absolute path or URL, with "#" and the place inside it
        pa.field("kind", pa.string(), nullable=False),  # "image" or "video"
        pa.field("size_bytes", pa.int64()),  # null where the input does not say
        pa.field("version", pa.string(), nullable=False),  # etag, or modification time; "" where the input does not say
        pa.field("container", pa.string()),  # tar or Parquet file that holds the bytes; null: the uri itself
        pa.field("offset", pa.int64()),  # in the container: first byte in a tar, row in a Parquet file
        pa.field("label", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("columns", pa.string()),  # pass-through columns, a JSON object; null where there are none
    ]
)
"""Columns of `plan/media.parquet`: every media of the run, in order."""

PLANNED_CLIP_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # unique; a safe file name
        *MEDIA_SCHEMA,  # of the clip's media
        pa.field("clip_index", pa.int64(), nullable=False),  # position of the clip in its media, from 0
        pa.field("first_frame", pa.int64()),  # start of the clip in frames at the clip's rate; null for an image
    ]
)
"""Columns of `plan/clips-NNNNN.parquet`: one row group is one shard, in shard order."""

PLANNED_SHARD_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int64(), nullable=False),  # position in the plan, from 0
        pa.field("bucket", pa.string(), nullable=False),  # "grid=4x16x16"
        pa.field("num_clips", pa.int64(), nullable=False),
        pa.field("sources", pa.list_(pa.string()), nullable=False),  # clip shards this one is made of; [] in prepare
    ]
)
"""Columns of `plan/shards.parquet`."""

CLIP_BUCKET_FIELD = pa.field("clip_bucket", pa.string())  # "grid=17x32x32": of the clips; null where it is `bucket`
"""One column more, where latents are made of media by a tokenizer whose grid is not that of the clips' tubelets."""

INDEX_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("bucket", pa.string(), nullable=False),
        pa.field("planned", pa.int64(), nullable=False),  # = stored + filtered + rejected
        pa.field("stored", pa.int64(), nullable=False),
        pa.field("filtered", pa.int64(), nullable=False),
        pa.field("rejected", pa.int64(), nullable=False),
        pa.field("path", pa.string()),  # relative to the store; null where nothing was stored
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("outcomes_path", pa.string()),  # null where everything was stored
        pa.field("outcomes_sha256", pa.string()),
        pa.field("record_sha256", pa.string(), nullable=False),  # of the shard's ledger record
    ]
)
"""Columns of `index.parquet`: one row a shard, in plan order."""
