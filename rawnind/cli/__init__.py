"""The `rawnind` command: one module per command or two, which imports what it needs when it is called."""

from rawnind.cli.interrupted import interrupted

try:
    from rawnind.cli.commands import main
except KeyboardInterrupt:  # Ctrl-C in the first moment
    interrupted()

__all__ = ["main"]
