"""A group of commands that turns errors into one sentence and an exit code."""

from typing import Any

import click

from rawnind.cli.interrupted import interrupted, noting_ctrl_c
from rawnind.errors import RawnindError
from rawnind.exit_codes import exit_code
from rawnind.printing import print_lines


class CommandGroup(click.Group):
    """Lists commands in the order of their use, and ends with one sentence and an exit code where there was an error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which they were added."""
        del ctx
        return list(self.commands)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Gives each command -h; click would name its help option after the context that asks for it first."""
        cmd.add_help_option = False
        super().add_command(click.help_option("-h", "--help")(cmd), name)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """As click's; Ctrl-C while arguments are read ends as it does while the command runs."""
        try:
            return super().make_context(*args, **extra)
        except KeyboardInterrupt:
            interrupted()

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; an error of ours or Ctrl-C ends it with a sentence and an exit code."""
        with noting_ctrl_c() as pressed:
            try:
                return super().invoke(ctx)
            except RawnindError as error:
                print_lines([f"rawnind: {error}"], err=True)
                ctx.exit(exit_code(error))
            except KeyboardInterrupt:
                interrupted()
            except Exception:
                if pressed():
                    interrupted()
                raise
