"""The protocol of an audit: what it depends on and what not, and the paper's by name."""

from dataclasses import replace

import pytest

from pipeline.runs.audit_protocol import NAMED_PROTOCOLS, check_named, measured_by, protocol_of
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.store.documents import fingerprint
from pipeline.store.files import Folder
from pipeline.store.index import Store
from vitok.metrics.registry import METRICS
from vitok.networks.weights import FOLDER_VARIABLE, MissingWeightsError


def clip_store(command, tmp_path, *, planned, rejected=0):
    """A store as the flags of a `vitok prepare` command line would describe it."""
    words = command.split()[2:]
    flags = {
        name.removeprefix("--").replace("-", "_"): value for name, value in zip(words[::2], words[1::2], strict=True)
    }
    spans = {"clips": flags.pop("clips", "all"), "clips_per_media": int(flags.pop("clips_per_media", 1))}
    spans["seed"] = int(flags.pop("seed", 0))
    numbers = {name: int(flags[name]) for name in ("resolution", "num_frames")}
    config = PrepareConfig(**flags | numbers | {"input": ("x",)})
    config = replace(config, spans=replace(config.spans, **spans))
    counts = {"planned": planned, "stored": planned - rejected, "filtered": 0, "rejected": rejected}
    document = {"preprocessing": config.protocol().to_json(), "counts": counts}
    return Store(folder=Folder(str(tmp_path)), document=document, rows=())


@pytest.mark.parametrize("name", sorted(NAMED_PROTOCOLS))
def test_what_the_printed_command_prepares_is_taken(name, tmp_path):
    protocol = NAMED_PROTOCOLS[name]
    wrong = clip_store("vitok prepare --output x --resolution 64 --num-frames 1 --tubelet 1x8", tmp_path, planned=3)
    command = protocol.command(wrong)
    assert "--tubelet 1x8" in command
    if protocol.num_frames > 1:
        command = command.replace("1x8", "4x8")
    right = clip_store(command.replace("--input YOUR_COPY ", ""), tmp_path, planned=protocol.media)
    check_named(name, right)
    assert set(protocol.metrics) <= set(METRICS)


def test_what_was_prepared_otherwise_is_refused_line_by_line(tmp_path):
    command = "vitok prepare --output x --resolution 512 --num-frames 1 --tubelet 1x16 --kernel bicubic"
    store = clip_store(command, tmp_path, planned=50_000, rejected=2)
    with pytest.raises(ValueError, match=r"--protocol imagenet-256: .* was prepared otherwise") as error:
        check_named("imagenet-256", store)
    lines = str(error.value).splitlines()
    assert "  kernel: 'bilinear', now 'bicubic'" in lines
    assert "  media.rejected: 0, now 2" in lines
    assert "  sizes: [[256, 256]], now [[512, 512]]" in lines
    assert any(line.startswith("  pixels: 'lossless', now {'name': 'jpeg'") for line in lines)
    assert "--resolution 256 --kernel bilinear --codec png --tubelet 1x16 --num-frames 1" in lines[-1]
    assert not any("num_frames" in line or "fps" in line for line in lines)


def test_a_part_of_the_media_is_not_the_data_set(tmp_path):
    protocol = NAMED_PROTOCOLS["coco-256"]
    command = "vitok prepare --output x --resolution 256 --num-frames 1 --tubelet 1x16 --codec png"
    whole = clip_store(command, tmp_path, planned=protocol.media)
    preprocessing = dict(whole.document["preprocessing"])
    preprocessing["filters"] = preprocessing["filters"] | {"min_side": 300}
    filtered = replace(whole, document=dict(whole.document) | {"preprocessing": preprocessing})
    assert protocol.differences(whole) == []
    assert protocol.differences(filtered) == ["filters.min_side: 0, now 300"]


def test_the_protocol_id_hangs_on_pixels_metrics_and_networks_alone(tmp_path):
    command = "vitok prepare --output x --resolution 64 --num-frames 16 --tubelet 4x8"
    store = clip_store(command, tmp_path, planned=3)
    options = {"content": "ab" * 32, "metrics": measured_by(["psnr"]), "precision": "float32", "device": "cpu"}

    def identity(source=store, **changes):
        return fingerprint(protocol_of(source, **options | changes))

    assert identity() == identity()
    same = clip_store(command.replace("4x8", "2x16") + " --codec png", tmp_path / "elsewhere", planned=3)
    assert identity(same) == identity()
    bicubic = clip_store(command + " --kernel bicubic", tmp_path, planned=3)
    others = [
        identity(bicubic),
        identity(content="cd" * 32),
        identity(metrics=measured_by(["psnr", "ssim"])),
        identity(precision="bfloat16"),
        identity(device="cuda"),
    ]
    assert len({identity(), *others}) == 6


def test_weights_that_are_not_there_are_one_error(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert measured_by(["psnr"])["psnr"]["weights"] == {}
    with pytest.raises(MissingWeightsError, match="inception_2015"):
        measured_by(["psnr", "fid_2015"])
