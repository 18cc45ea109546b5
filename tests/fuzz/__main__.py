"""Damages files of every kind and lets rawnind read them; `make fuzz` does it with five thousand inputs and a new seed."""

import argparse
import secrets
import sys

from tests.fuzz.harness import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to repeat one")
    parser.add_argument(
        "--seed", type=int, default=secrets.randbits(32), help="of an earlier run, to repeat it"
    )
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    sys.exit(main(arguments))
