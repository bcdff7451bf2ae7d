"""Pictures of a training: its loss terms and what held-out clips reach, over its steps."""

from collections.abc import Iterable, Mapping

from pipeline.report.plots import Series, curves

LOSS_TERMS = ("total", "pixel", "kl", "lpips", "gan")


def draw_training(points: Iterable[tuple[int, Mapping[str, float]]]) -> dict[str, bytes]:
    """PNG by file name: loss terms on a logarithmic axis, and held-out PSNR where there was any.

    Args:
        points: Step and values by name, as training logs them ("tokenizer/pixel", "validation/psnr").
    """
    held = list(points)
    drawings = {}
    terms = [_series(held, f"tokenizer/{term}", name=term) for term in LOSS_TERMS]
    shown = [series for series in terms if series.y and min(series.y) > 0]
    if shown:
        drawings["loss.png"] = curves(
            shown, x_label="optimizer steps", y_label="loss terms, unweighted", log_y=True
        ).png
    psnr = _series(held, "validation/psnr", name="held-out clips")
    if psnr.y:
        drawings["psnr.png"] = curves([psnr], x_label="optimizer steps", y_label="PSNR [dB]").png
    return drawings


def _series(points: Iterable[tuple[int, Mapping[str, float]]], key: str, *, name: str) -> Series:
    found = [(step, values[key]) for step, values in points if key in values]
    return Series(name=name, x=tuple(step for step, _ in found), y=tuple(value for _, value in found))
