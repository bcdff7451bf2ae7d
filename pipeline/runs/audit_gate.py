"""The gate of an audit: conditions on its metrics that fail it, such as "rfid>2.0"."""

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_CONDITION = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*(<=|>=|<|>)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_FAMILIES = {
    "fid": ("fid_2015", "fid_torchvision"),
    "rfid": ("fid_2015", "fid_torchvision"),
    "is": ("inception_score_2015", "inception_score_torchvision"),
    "ris": ("inception_score_2015", "inception_score_torchvision"),
    "rfvd": ("fvd",),
    "rpsnr": ("psnr",),
    "rssim": ("ssim",),
}
"""What the literature calls metrics: each stands for the one of these that is measured."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Fails an audit whose metric compares so."""

    metric: str
    comparison: str
    """One of <, <=, >, >=."""
    limit: float

    def __str__(self) -> str:
        return f"{self.metric}{self.comparison}{self.limit!r}"

    def failure(self, candidate: str, values: Mapping[str, float]) -> str | None:
        """Why a candidate with these values fails, or None. A metric without a value fails: nothing was shown."""
        value = values.get(self.metric)
        if value is None:
            return f"{candidate}: {self.metric} has no value, and {self} asks for one"
        if _COMPARE[self.comparison](value, self.limit):
            return f"{candidate}: {self.metric} is {value:.6g}, and {self} fails"
        return None


def parse_condition(text: str, metrics: Sequence[str]) -> Condition:
    """A condition on one of the metrics that are measured.

    >>> parse_condition("rfid > 2.0", ["psnr", "fid_2015"])
    Condition(metric='fid_2015', comparison='>', limit=2.0)

    Raises:
        ValueError: It is none, its metric is not measured, or it may mean two of them.
    """
    match = _CONDITION.fullmatch(text)
    try:
        limit = float(match[3]) if match else math.nan
    except ValueError:  # two points
        limit = math.nan
    if match is None or not math.isfinite(limit):
        raise ValueError(f'--fail-if: got {text!r}, expected a metric, one of < <= > >=, and a number, as "psnr<26"')
    name = match[1].lower()
    meant = [metric for metric in _FAMILIES.get(name, (name,)) if metric in metrics]
    if len(meant) != 1:
        raise ValueError(
            f"--fail-if: {text!r} is about {name}, which is {'more than one' if meant else 'none'} of the metrics that "
            f"are measured, {', '.join(metrics)}: name one of them{'' if meant else ', or measure it (--metrics)'}"
        )
    return Condition(meant[0], match[2], limit)
