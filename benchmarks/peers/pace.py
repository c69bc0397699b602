"""Trains a side and draws from it again and again, as it is told, for `speed.py`.

    python -m peers.pace SCRIPT DATA.npz [--variant NAME] [--recipe JSON]

Once the side is built, has taken its first step and has drawn its first images, it prints a line
with its parameters; then, for each line of seconds that it reads, one with what `contract.paced`
and `contract.drawing` return. Both begin with MARK, because packages print as well.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

from peers import contract

MARK = "pace:"
MINUTES = 60.0  # what our schedules are made for; no side is told to train that long


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("script")
    parser.add_argument("data", type=Path)
    options, rest = parser.parse_known_args()
    given = contract.parser(None).parse_args(
        [str(options.data), "unused", "--minutes", str(MINUTES), *rest]
    )
    side = importlib.import_module(f"peers.{options.script}").build(
        contract.read(given.data), given
    )
    side.train(0.0)  # one step, in which it compiles
    contract.drawing(side)
    print(MARK, json.dumps({"parameters": int(side.parameters)}), flush=True)
    for line in sys.stdin:
        measured = contract.paced(side, float(line)) | contract.drawing(side)
        print(MARK, json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
