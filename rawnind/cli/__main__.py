"""`python -m rawnind.cli` is the `rawnind` command."""

from rawnind.cli import main

main(prog_name="rawnind")
