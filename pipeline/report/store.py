"""The page of a clip store or a latent store: what it holds, what it lost, where it comes from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from pipeline.report.latents import channel_charts
from pipeline.report.notation import fixed, size_text
from pipeline.report.page import Films, write_page
from pipeline.report.store_examples import StoredExample, clip_examples, latent_examples
from pipeline.report.store_outcomes import losses_of, runs_of
from pipeline.report.tables import Cell, Column, Table, number, word
from pipeline.store.documents import canonical_json
from pipeline.store.files import Folder
from pipeline.store.index import Store
from schemas.metadata import CLIP_STORE_FORMAT, LATENT_STORE_FORMAT

_TITLES: Mapping[str, str] = {CLIP_STORE_FORMAT: "Clip store", LATENT_STORE_FORMAT: "Latent store"}
_LATENTS_NOTE = (
    "Red, green and blue of a latent's picture are the first three principal components of the values of all latents "
    "shown here, a token a pixel."
)


def write_store_page(output: Folder, path: str, store: Store, *, clips: Store | None, num_examples: int) -> None:
    """Write the page of a finished store.

    Reads the index, the outcomes and the runs' records, and of the shards no more than holds the examples.

    Args:
        output: Folder that takes the page.
        path: Its name there.
        store: A clip store or a latent store.
        clips: Of a latent store: where its clips are looked for, to stand beside their latents.
        num_examples: How many clips are pictured, spread over the store.

    Raises:
        ValueError: A shard or a table of outcomes is damaged.
    """
    document = store.document
    is_latent = document["format"] == LATENT_STORE_FORMAT
    films = Films()
    examples = latent_examples(store, clips, num_examples) if is_latent else clip_examples(store, num_examples)
    charts = []
    if is_latent:
        normalisation = cast(Mapping[str, Mapping[str, Sequence[float]]], document["normalisation"])
        charts = channel_charts(mean=normalisation["all"]["mean"], std=normalisation["all"]["std"])
    content = {
        "url": store.folder.url,
        "facts": _facts(store, is_latent=is_latent),
        "buckets": _buckets(store),
        "charts": charts,
        "examples": [_card(films, example) for example in examples],
        "note": _LATENTS_NOTE if is_latent else "",
        "losses": _losses(store),
        "provenance": _provenance(store, is_latent=is_latent),
        "runs": _runs(store),
        "record": canonical_json(document).decode(),
    }
    write_page(
        output, path, template="store.html.j2", title=_TITLES[str(document["format"])], films=films, content=content
    )


def _facts(store: Store, *, is_latent: bool) -> list[tuple[str, str]]:
    counts = cast(Mapping[str, int], store.document["counts"])
    size_bytes = sum(row.size_bytes for row in store.rows)
    shards = sum(row.path is not None for row in store.rows)
    parts = " + ".join(f"{counts[name]:,} {name}" for name in ("stored", "filtered", "rejected"))
    facts = [
        ("clips", f"{counts['stored']:,}"),
        ("planned", f"{counts['planned']:,} = {parts}"),
        ("shards", f"{shards:,}"),
        ("size", f"{size_text(size_bytes)} ({size_bytes:,} bytes)"),
    ]
    if counts["stored"]:
        facts.append(("size of a clip", size_text(size_bytes / counts["stored"])))
    if is_latent:
        latent = cast(Mapping[str, object], store.document["latent"])
        columns = cast(Sequence[str], latent["columns"])
        facts.append(("latent", f"{', '.join(columns)}; {latent['channels']} channels, {latent['dtype']}"))
    return facts


def _buckets(store: Store) -> Table:
    sums: dict[str, list[int]] = {}
    for row in store.rows:
        values = (row.stored, row.filtered + row.rejected, 1 if row.path is not None else 0, row.size_bytes)
        sums[row.bucket] = [a + b for a, b in zip(sums.get(row.bucket, [0] * 4), values, strict=True)]
    names = ("clips", "lost", "shards")
    return Table(
        columns=[Column(name="grid", is_text=True), *(Column(name=name) for name in names), Column(name="size")],
        rows=[
            [word(bucket.removeprefix("grid=")), *(number(count, f"{count:,}") for count in counts), _size(size_bytes)]
            for bucket, (*counts, size_bytes) in sums.items()
        ],
    )


def _size(size_bytes: int) -> Cell:
    return number(size_bytes, size_text(size_bytes))


def _card(films: Films, example: StoredExample) -> dict[str, object]:
    return {
        "title": example.key,
        "notes": [line for line in (example.label, example.caption, example.media_uri) if line],
        "fps": "" if example.fps is None else f"{example.fps:g}",
        "pictures": [(name, films.add(film)) for name, film in example.pictures.items()],
    }


def _losses(store: Store) -> Table:
    columns = [Column(name=name, is_text=True) for name in ("outcome", "reason", "stage")]
    columns += [Column(name="clips"), Column(name="for example", is_text=True)]
    return Table(
        columns=columns,
        rows=[
            [
                word(loss.outcome),
                word(loss.reason),
                word(loss.stage),
                number(loss.count, f"{loss.count:,}"),
                word(loss.example_uri, small=loss.example_message),
            ]
            for loss in losses_of(store)
        ],
    )


def _provenance(store: Store, *, is_latent: bool) -> list[tuple[str, str]]:
    document = store.document
    facts = [("fingerprint", str(document["fingerprint"])), ("seal", str(document["seal"]))]
    if is_latent:
        tokenizer = cast(Mapping[str, object], document["tokenizer"])
        config = cast(Mapping[str, object], tokenizer["config"])
        facts += [("tokenizer", str(tokenizer["fingerprint"])), ("its config", _in_line(config))]
    facts += [("preprocessing", _in_line(cast(Mapping[str, object], document["preprocessing"])))]
    columns = cast(Mapping[str, str], document["columns"])
    return [*facts, ("further columns", _in_line(columns) or "none")]


def _in_line(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in _leaves(values))


def _leaves(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Names and values, those of mappings inside after a dot."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _runs(store: Store) -> Table:
    columns = [Column(name=name, is_text=True) for name in ("job", "started", "ended")]
    return Table(
        columns=[*columns, Column(name="seconds")],
        rows=[
            [
                word(run.job),
                word(run.started),
                word(run.error or "done"),
                number(run.seconds, fixed(run.seconds, 1)),
            ]
            for run in runs_of(store.folder)
        ],
    )
