"""`rawnind train` as a script for `ray job submit --working-dir . -- python jobs/train.py ...`."""

import sys

from rawnind.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
