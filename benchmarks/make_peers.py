"""Make the virtual environments of the peers that benchmarks run beside us: one each, from its pinned requirements.

    python benchmarks/make_peers.py            all peers of benchmarks/peers/*.txt
    python benchmarks/make_peers.py img2dataset

A peer's interpreter is then `.peers/NAME/bin/python`. Peers have environments of their own because their pins
contradict each other's and ours.
"""

import argparse
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "benchmarks" / "peers"
ENVIRONMENTS = ROOT / ".peers"


def interpreter(name: str) -> Path:
    """Python of a peer's environment, made where it is absent or its requirements have changed.

    Raises:
        FileNotFoundError: There is no such peer.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    made = folder / "requirements.sha256"
    if not made.exists() or made.read_text() != digest:
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", requirements], check=True)
        made.write_text(digest)
    return python


def main() -> None:
    """Make the environments named on the command line."""
    known = sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=known, metavar="NAME", help=f"of {', '.join(known)}")
    for name in parser.parse_args().names:
        sys.stdout.write(f"{name}: {interpreter(name)}\n")


if __name__ == "__main__":
    main()
