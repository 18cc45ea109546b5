"""The group of all commands."""

import click

from rawnind.cli.checks import status, verify
from rawnind.cli.export import export
from rawnind.cli.fetch import fetch
from rawnind.cli.group import CommandGroup
from rawnind.cli.look import report, show
from rawnind.cli.noise import noise
from rawnind.cli.prepare import plan, prepare
from rawnind.cli.sources import index, sample
from rawnind.cli.train import evaluate, train
from rawnind.cli.use_model import denoise, export_model


@click.group(
    cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="rawnind")
def main() -> None:
    """Prepares RAW photo pairs for training denoisers: aligned, masked, scored, cropped, checked and listed.

    \b
    A first try:
      rawnind sample pairs                      make a small data set with known truth
      rawnind plan pairs                        estimate scenes, memory and disk
      rawnind prepare pairs --output out        process it
      rawnind status out                        list what was not collected, and why
      rawnind train out --steps 20              train on the result

    \b
    Exit codes of every command:
      0  complete
      1  verify or export found a problem, or an error in rawnind itself
      2  wrong usage: an option, the source or the output folder
      3  stopped early, or a server is not reachable; the same command resumes
      4  prepare collected nothing
      5  prepare --strict: a scene or a pair failed; fetch: a file failed for good
    """


for _command in (
    sample,
    index,
    fetch,
    plan,
    prepare,
    status,
    verify,
    report,
    show,
    noise,
    export,
    train,
    evaluate,
    denoise,
    export_model,
):  # in the order of their use
    main.add_command(_command)
