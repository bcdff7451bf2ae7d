"""The page of an audit: its table, charts, gallery, slices, latents and protocol."""

import json
import math
from collections.abc import Callable, Mapping, Sequence

from pipeline.report.audit_data import AuditData, AuditExample, Candidate, Estimate, Skipped, Slice
from pipeline.report.charts import COLOURS, Chart, Mark
from pipeline.report.latents import latent_view
from pipeline.report.notation import fixed, metric_style, metric_text, size_text
from pipeline.report.page import Films, write_page
from pipeline.report.pictures import DIFFERENCE_GAIN, LONGEST_SIDE, LOSSLESS_PIXELS, MOST_FRAMES, QUALITY
from pipeline.report.tables import Column, Table, metric_cells, metric_columns, number, word
from pipeline.store.documents import canonical_json
from pipeline.store.files import Folder

_PICTURES_NOTE = (
    f"The figures and the differences are of the clips themselves. Shown are WebP pictures of at most {LONGEST_SIDE} "
    f"pixels and {MOST_FRAMES} frames: without loss up to {LOSSLESS_PIXELS:,} pixels a clip, beyond that at quality "
    f"{QUALITY}, which alone is some 37 dB from a detailed photograph."
)


def write_audit_page(output: Folder, path: str, data: AuditData) -> None:
    """Write the report of a finished audit.

    Args:
        output: The audit's folder.
        path: Name of the page in it.
        data: What it shows.

    Raises:
        ValueError: A metric has no known way to be written (`pipeline.report.notation`).
    """
    films = Films()
    colours = _colours(data.candidates)
    content = {
        "clips": data.clips,
        "summary": summary_table(data),
        "intervals": data.intervals,
        "skipped": _skipped(data.skipped),
        "charts": [*_against_bytes(data, colours), *_distributions(data, colours)],
        "candidates": list(dict.fromkeys(example.candidate for example in data.examples)),
        "orders": _orders(data.metrics, data.examples),
        "examples": [_example(films, example) for example in _worst_first(data.metrics, data.examples)],
        "gain": DIFFERENCE_GAIN,
        "pictures_note": _PICTURES_NOTE,
        "slices": [_slice(data, each) for each in data.slices],
        "latents": [latent_view(films, health) for health in data.latents],
        "protocol_id": data.protocol_id,
        "protocol": canonical_json(data.protocol).decode(),
        "record": canonical_json(data.record).decode(),
    }
    write_page(output, path, template="audit.html.j2", title="Reconstruction audit", films=films, content=content)


def _skipped(skipped: Sequence[Skipped]) -> list[tuple[str, str, str]]:
    """Metric, candidates and reason, a line for what one reason keeps from several."""
    candidates: dict[tuple[str, str], list[str]] = {}
    for item in skipped:
        candidates.setdefault((metric_style(item.metric).label, item.reason), []).append(item.candidate)
    return [(label, ", ".join(filter(None, names)), reason) for (label, reason), names in candidates.items()]


def _colours(candidates: Sequence[Candidate]) -> dict[str, int]:
    """One for each candidate; the settings of one codec share theirs."""
    groups = list(dict.fromkeys(candidate.line or candidate.name for candidate in candidates))
    return {candidate.name: groups.index(candidate.line or candidate.name) for candidate in candidates}


def summary_table(data: AuditData) -> Table:
    """A row for each candidate; a price that none has has no column."""
    candidates, colours = data.candidates, _colours(data.candidates)
    prices: list[tuple[str, list[float | None], Callable[[float], str]]] = [
        ("bytes a clip", [each.bytes_per_clip for each in candidates], size_text),
        ("floats a clip", [each.floats_per_clip for each in candidates], lambda value: fixed(value, 0)),
        ("GMAC a clip", [each.gmac_per_clip for each in candidates], lambda value: fixed(value, 2)),
        ("clips/s", [each.clips_per_second for each in candidates], lambda value: fixed(value, 1)),
    ]
    known = [price for price in prices if any(value is not None for value in price[1])]
    columns = [
        Column(name="candidate", is_text=True),
        *metric_columns(data.metrics),
        *(Column(name=name) for name, _, _ in known),
        Column(name="clips"),
    ]
    rows = []
    for place, each in enumerate(candidates):
        small = each.detail if each.kind == "tokenizer" else ", ".join(filter(None, ("codec", each.detail)))
        costs = [(values[place], written) for _, values, written in known]
        rows.append(
            [
                word(each.name, small=small, colour=colours[each.name] % COLOURS),
                *metric_cells(data.metrics, each.metrics),
                *(number(cost, written(cost) if cost is not None else "") for cost, written in costs),
                number(each.stored, f"{each.stored:,}", small=_losses(each)),
            ]
        )
    return Table(columns=columns, rows=rows)


def _losses(candidate: Candidate) -> str:
    """What became of the planned clips that were not measured; "" where all were."""
    if candidate.stored == candidate.planned:
        return ""
    lost = [(candidate.filtered, "filtered"), (candidate.rejected, "rejected")]
    return f"of {candidate.planned:,}: " + ", ".join(f"{count:,} {what}" for count, what in lost if count)


def _against_bytes(data: AuditData, colours: Mapping[str, int]) -> list[Chart]:
    """The first metric over the bytes of a clip; none where fewer than two candidates have both."""
    metric = data.metrics[0]
    style = metric_style(metric)
    groups: dict[str, list[tuple[float, Estimate, Candidate]]] = {}
    for each in data.candidates:
        if each.bytes_per_clip and metric in each.metrics:
            groups.setdefault(each.line or each.name, []).append((each.bytes_per_clip, each.metrics[metric], each))
    if sum(map(len, groups.values())) < 2:
        return []
    marks = []
    for name, found in groups.items():
        points = sorted(found, key=lambda point: point[0])
        estimates = [estimate for _, estimate, _ in points]
        marks.append(
            Mark(
                name=name,
                x=[size for size, _, _ in points],
                y=[estimate.value for estimate in estimates],
                form="line and dots",
                colour=colours[points[0][2].name],
                low=[each.value if each.low is None else each.low for each in estimates],
                high=[each.value if each.high is None else each.high for each in estimates],
                details=[
                    f"{each.name}: {metric_text(metric, estimate.value)} {style.unit} at {size_text(size)}"
                    for size, estimate, each in points
                ],
            )
        )
    return [
        Chart(
            title=f"{style.label} against bytes",
            x_label="bytes a clip",
            y_label=style.axis,
            marks=marks,
            log_x=True,
        )
    ]


def _distributions(data: AuditData, colours: Mapping[str, int]) -> list[Chart]:
    """Histograms; of a codec at several settings none is shown, unless there are only such."""
    lines = [each.line for each in data.candidates if each.line]
    alone = [each.name for each in data.candidates if lines.count(each.line) < 2]
    charts = []
    for each in data.distributions:
        shown = [name for name in each.counts if name in alone] or list(each.counts)
        marks = [
            Mark(name=name, x=each.edges, y=each.counts[name], form="steps", colour=colours[name]) for name in shown
        ]
        style = metric_style(each.metric)
        charts.append(Chart(title=f"{style.label} of clips", x_label=style.axis, y_label="clips", marks=marks))
    return charts


def _orders(metrics: Sequence[str], examples: Sequence[AuditExample]) -> list[tuple[str, str]]:
    """Ways to sort the gallery: sign and metric, as the page's script takes them, and what they are called."""
    known = [name for name in metrics if any(name in example.metrics for example in examples)]
    orders = []
    for end in ("worst", "best"):
        for name in known:
            style = metric_style(name)
            orders.append(
                ("+" if style.higher_is_better == (end == "worst") else "-", name, f"{end} {style.label} first")
            )
    return [(sign + name, text) for sign, name, text in orders]


def _worst_first(metrics: Sequence[str], examples: Sequence[AuditExample]) -> list[AuditExample]:
    """By the first metric that examples have; what lacks it comes last."""
    name = next((name for name in metrics if any(name in example.metrics for example in examples)), None)
    if name is None:
        return list(examples)
    sign = 1 if metric_style(name).higher_is_better else -1
    return sorted(examples, key=lambda example: sign * example.metrics.get(name, sign * math.inf))


def _example(films: Films, example: AuditExample) -> dict[str, object]:
    pictures = example.pictures
    shown = [(metric_style(name), metric_text(name, value)) for name, value in example.metrics.items()]
    return {
        "candidate": example.candidate,
        "key": example.key,
        "label": example.label or "",
        "media_uri": example.media_uri,
        "fps": "" if example.fps is None else f"{example.fps:g}",
        "shown": [f"{style.label} {text} {style.unit}".rstrip() for style, text in shown],
        # An infinite PSNR: 1e999 is JSON, and what a script reads as infinite.
        "order": json.dumps(example.metrics).replace("Infinity", "1e999").replace("NaN", "null"),
        "original": films.add(pictures.original),
        "reconstruction": films.add(pictures.reconstruction),
        "difference": films.add(pictures.difference),
    }


def _slice(data: AuditData, each: Slice) -> dict[str, object]:
    several = len({row.candidate for row in each.rows}) > 1
    columns = [Column(name=each.column, is_text=True), Column(name="candidate", is_text=True), Column(name="clips")]
    rows = [
        [
            word(row.value),
            word(row.candidate),
            number(row.clips, f"{row.clips:,}"),
            *metric_cells(data.metrics, row.metrics),
        ]
        for row in each.rows
    ]
    if not several:
        columns = [columns[0], *columns[2:]]
        rows = [[row[0], *row[2:]] for row in rows]
    table = Table(columns=[*columns, *metric_columns(data.metrics)], rows=rows)
    return {"column": each.column, "count": len({row.value for row in each.rows}), "table": table}
