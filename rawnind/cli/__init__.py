"""The `rawnind` command: one module per command or two, which imports what it needs when it is called."""

try:
    from rawnind.cli.commands import main
except KeyboardInterrupt:  # Ctrl-C in the first moment
    from rawnind.cli.interrupted import interrupted

    interrupted()

__all__ = ["main"]
