"""`rawnind prepare` as a script for `ray job submit --working-dir . -- python jobs/prepare.py ...`."""

import sys

from rawnind.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
