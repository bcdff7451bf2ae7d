"""How far a dataset is read: a few numbers, whatever it holds, and the order that they belong to."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, cast

from vitok.latents.plan import DatasetSource
from vitok.latents.steps import Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a dataset stands between two steps; the same on all ranks."""

    epoch: int = 0
    step: int = 0
    """Steps made, of all epochs."""
    first_step: int = 0
    """The one that worker 0 of a DataLoader began with; the others take the following in turn."""
    consumed: Mapping[Grid, int] = field(default_factory=dict)
    """Samples of each bucket that this epoch's steps have taken."""

    def to_json(self) -> dict[str, object]:
        """Plain numbers and strings."""
        consumed = {"x".join(map(str, grid)): count for grid, count in self.consumed.items()}
        return {"epoch": self.epoch, "step": self.step, "first_step": self.first_step, "consumed": consumed}

    @classmethod
    def from_json(cls, document: object) -> Self:
        """What `to_json` gave."""
        numbers = cast(Mapping[str, int], document)
        consumed = cast(Mapping[str, int], numbers["consumed"])
        grids = {name: cast(Grid, tuple(map(int, name.split("x")))) for name in consumed}
        return cls(
            epoch=numbers["epoch"],
            step=numbers["step"],
            first_step=numbers["first_step"],
            consumed={grids[name]: count for name, count in consumed.items()},
        )


def order_document(*, seed: int, shuffle: bool, window: int, sources: Sequence[DatasetSource]) -> dict[str, object]:
    """What decides the order of a dataset's samples."""
    return {
        "seed": seed,
        "shuffle": shuffle,
        "window": window,
        "stores": [source.index.sha256 for source in sources],
        "weights": [str(source.weight) for source in sources],
        "positions": [
            None if source.positions is None else hashlib.sha256(source.positions.tobytes()).hexdigest()
            for source in sources
        ],
    }


def check_order(found: object, expected: Mapping[str, object]) -> None:
    """Refuse a state of another order.

    Raises:
        ValueError: It differs; what differs is named.
    """
    documents = cast(Mapping[str, object], found)
    differing = [name for name in expected if documents.get(name) != expected[name]]
    if differing:
        listed = ", ".join(f"{name} {documents.get(name)!r} (here {expected[name]!r})" for name in differing)
        raise ValueError(f"the state is of a dataset in another order: {listed}; no sample would be in its place")
