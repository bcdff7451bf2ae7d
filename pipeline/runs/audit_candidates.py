"""The candidates of an audit: tokenizers, latents that are stored, and codecs as reference lines."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

from pipeline.runs.audit_protocol import shown_preprocessing
from pipeline.runs.clips import ClipRunConfig, OpenedTokenizer, TokenizerRunConfig, bucket_shapes, open_tokenizer
from pipeline.store.documents import fingerprint
from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from schemas.metadata import LATENT_STORE_FORMAT, differences

if TYPE_CHECKING:  # torch, which flags do without
    from pipeline.stages.reconstruct import Reconstructor
    from pipeline.stages.tokenizer import Inference
    from vitok.adapters.protocol import ClipShape

Codec = Literal["jpeg", "webp", "bicubic"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Something that gives clips back."""

    name: str
    """Unique in the audit."""
    stem: str
    """Begins the name of its folder; the same whatever other candidates there are."""
    kind: Literal["tokenizer", "codec", "original"]
    line: str = ""
    """Of a codec: that of its other settings."""
    detail: str
    """In a few words."""
    settings: Mapping[str, object]
    """All of it that can change a pixel; JSON."""
    make: "Callable[[Inference], Reconstructor]"
    """Picklable."""
    floats: "Mapping[ClipShape, int] | None" = None
    """Numbers of a latent by clip shape."""
    macs: "Mapping[ClipShape, int] | None" = None
    """Multiply-accumulates of a clip by its shape; None: not known."""

    @property
    def folder(self) -> str:
        """Of its store, inside the audit's: named by what it is, so that another never goes on in its place."""
        if self.kind == "original":
            return "reference"
        safe = re.sub(r"[^A-Za-z0-9._=-]+", "-", self.stem).strip("-.")[:64]
        return f"candidates/{safe}-{fingerprint(self.settings)[:8]}"


def originals() -> Candidate:
    """The clips themselves, whose features the others' are compared with."""
    from pipeline.stages.reconstruct_codecs import Originals

    return Candidate(
        name="originals",
        stem="reference",
        kind="original",
        detail="the clips themselves",
        settings={"kind": "original"},
        make=partial(_without_inference, Originals()),
    )


def tokenizer_candidates(
    config: ClipRunConfig, tokenizers: Sequence[str], source: Store, *, latents: str
) -> list[Candidate]:
    """One for each tokenizer.

    Args:
        config: Flags of the job.
        tokenizers: As `--tokenizer` has them.
        source: The clip store.
        latents: Store of latents of these clips, which are decoded in place of encoding; empty: none.

    Raises:
        ValueError: A tokenizer cannot be used, two are the same, or the latents are not of the one there is, or not of
            these clips.
        FileNotFoundError: There is no such tokenizer.
    """
    flags = {field.name: getattr(config, field.name) for field in fields(ClipRunConfig)}
    opened = [open_tokenizer(TokenizerRunConfig(**flags, tokenizer=tokenizer), source) for tokenizer in tokenizers]
    by_fingerprint = {run.tokenizer_fingerprint: run.tokenizer_url for run in opened}
    if len(by_fingerprint) < len(opened):
        raise ValueError(f"--tokenizer: got {', '.join(tokenizers)}, of which two are the same: name each once")
    names = short_names([run.tokenizer_url for run in opened])
    if latents:
        if len(opened) != 1:
            raise ValueError(f"--latents: got {len(opened)} tokenizers, expected the one that made the latents")
        return [_stored(names[0], opened[0], source, Folder(latents))]
    return [_encoding(name, run, source) for name, run in zip(names, opened, strict=True)]


def codec_candidates(
    codecs: Sequence[Codec], qualities: Sequence[int], tokenizers: Sequence[Candidate]
) -> list[Candidate]:
    """JPEG and WebP at each quality; bicubic at as many numbers as each tokenizer's latents have.

    Raises:
        ValueError: Bicubic has no tokenizer to be compared with.
    """
    from pipeline.stages.reconstruct_codecs import Bicubic, ImageCodec

    candidates = [
        Candidate(
            name=f"{codec} {quality}",
            stem=f"{codec}-{quality}",
            kind="codec",
            line=codec,
            detail=f"quality {quality}, frame by frame",
            settings={"kind": "codec", "codec": codec, "quality": quality},
            make=partial(_without_inference, ImageCodec(name=codec, quality=quality)),
        )
        for codec in codecs
        if codec != "bicubic"
        for quality in qualities
    ]
    if "bicubic" not in codecs:
        return candidates
    if not tokenizers:
        raise ValueError(
            "--codecs bicubic: at as many floats as a tokenizer has, and there is no --tokenizer: name one"
        )
    sizes: dict[str, Candidate] = {}
    for tokenizer in tokenizers:
        assert tokenizer.floats is not None, "tokenizers have latents"
        floats = {"x".join(map(str, shape)): number for shape, number in sorted(tokenizer.floats.items())}
        sizes.setdefault(
            fingerprint(floats),
            Candidate(
                name="bicubic" if len(tokenizers) == 1 else f"bicubic, floats of {tokenizer.name}",
                stem="bicubic",
                kind="codec",
                line="bicubic",
                detail=f"fewer pixels, at most as many numbers as {tokenizer.name}",
                settings={"kind": "codec", "codec": "bicubic", "floats": floats},
                make=partial(_without_inference, Bicubic(floats=dict(tokenizer.floats))),
            ),
        )
    return candidates + list(sizes.values())


def short_names(urls: Sequence[str]) -> list[str]:
    """The shortest ends of paths, or whole module:function names, that tell them apart.

    >>> short_names(["/runs/a/tokenizer", "/runs/b/tokenizer"])
    ['a-tokenizer', 'b-tokenizer']
    >>> short_names(["/runs/a/tokenizer"])
    ['tokenizer']
    """
    parts = [[part for part in url.split("/") if part] for url in urls]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["-".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(urls)


def _last_part(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


def _encoding(name: str, run: OpenedTokenizer, source: Store) -> Candidate:
    from pipeline.stages.reconstruct_latents import ENCODED_DTYPE, TokenizerReconstructor

    return Candidate(
        name=name,
        stem=_last_part(run.tokenizer_url),
        kind="tokenizer",
        detail=f"{_detail(run)}; bytes as {ENCODED_DTYPE}",
        settings={"kind": "tokenizer", "tokenizer": run.tokenizer_fingerprint, "latents": "encoded"},
        make=partial(TokenizerReconstructor, run.tokenizer_url),
        floats=_floats(run, source),
        macs=_macs(run, source),
    )


def _stored(name: str, run: OpenedTokenizer, source: Store, folder: Folder) -> Candidate:
    store = open_store(folder, format_name=LATENT_STORE_FORMAT)
    made_by = cast(Mapping[str, object], store.document["tokenizer"])["fingerprint"]
    if made_by != run.tokenizer_fingerprint:
        raise ValueError(
            f"--latents: those of {folder.url} are of the tokenizer {made_by}, and {run.tokenizer_url} is "
            f"{run.tokenizer_fingerprint}: give the tokenizer that made them"
        )
    if lines := differences(shown_preprocessing(source), shown_preprocessing(store)):
        raise ValueError(
            f"--latents: those of {folder.url} are of clips that were prepared otherwise than {source.folder.url}; "
            "what differs:\n  " + "\n  ".join(lines)
        )
    latent = cast(Mapping[str, object], store.document["latent"])
    return Candidate(
        name=name,
        stem=_last_part(run.tokenizer_url),
        kind="tokenizer",
        detail=f"{_detail(run)}; latents as stored, {latent['dtype']}",
        settings={"kind": "tokenizer", "tokenizer": run.tokenizer_fingerprint, "latents": store.identity},
        make=partial(_decoding, run.tokenizer_url, folder),
        floats=_floats(run, source),
        macs=_macs(run, source),
    )


def _decoding(url: str, latents: Folder, inference: "Inference") -> "Reconstructor":
    from pipeline.stages.reconstruct_latents import StoredReconstructor

    return StoredReconstructor(url, inference, latents)


def _without_inference(codec: "Reconstructor", _: "Inference") -> "Reconstructor":
    return codec


def _detail(run: OpenedTokenizer) -> str:
    from vitok.card import variant_name
    from vitok.config import AutoEncoderConfig

    config = run.description.config
    kind = str(config["adapter"]) if "adapter" in config else variant_name(AutoEncoderConfig.from_json(config))
    return f"{kind}, {run.description.channels} channels"


def _floats(run: OpenedTokenizer, source: Store) -> "dict[ClipShape, int]":
    grids = {shape: run.description.grid_of(shape) for shape in bucket_shapes(source).values()}
    return {shape: grid.num_tokens * run.description.channels for shape, grid in grids.items()}


def _macs(run: OpenedTokenizer, source: Store) -> "dict[ClipShape, int] | None":
    from vitok.config import AutoEncoderConfig
    from vitok.model.count import count

    if "adapter" in run.description.config:
        return None
    config = AutoEncoderConfig.from_json(run.description.config)
    return {
        (frames, height, width): count(config, num_frames=frames, height=height, width=width).macs.total
        for frames, height, width in bucket_shapes(source).values()
    }
