"""README's tree names every file there is, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("schemas", "vitok", "pipeline", "jobs", "benchmarks")


def test_the_tree_is_true():
    text = (ROOT / "README.md").read_text()
    tree = text.split("## The tree")[1].split("```")[1]
    named: list[str] = []
    folders: list[str] = []
    for line in tree.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        first = line.split()[0]
        if first.endswith("/"):
            folders = [*folders[:depth], first]
        else:
            names = re.match(r"\s*((?:\S+\.py ?)+)", line)
            assert names is not None, line
            named += ["".join(folders[:depth]) + name for name in names[1].split()]
    there = {
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert len(named) == len(set(named))
    assert set(named) == there
