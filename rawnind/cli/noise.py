"""The command `noise`."""

from pathlib import Path

import click

from rawnind.cli.progress_line import every_two_seconds
from rawnind.printing import print_lines


@click.command()
@click.argument("source")
@click.option("-o", "--output", "to", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Where to write; for an output folder by default its sub-folder noise.")  # fmt: skip
@click.option("--dark", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="RAW files taken with the cap on, at least two of each ISO: read noise and row noise.")  # fmt: skip
def noise(source: str, to: Path | None, dark: Path | None) -> None:
    """Write noise profiles of cameras: for each ISO and colour the photon noise a, the read noise and the row noise.

    SOURCE is an output folder, whose pairs were measured by prepare, or a folder or index of RAW files, whose photos and bursts of
    ground truths are read. Written are noise.json (every number with error, number of photos and confidence, and curves over
    ISO), noise.svg, and noiseprofiles.json in darktable's format.

    \b
    Examples:
      rawnind noise out
      rawnind noise pairs -o profiles --dark dark-frames
    """
    from rawnind.noise.run import describe
    from rawnind.noise.run import noise as run_noise

    cameras, place = run_noise(source, to=to, dark=dark, progress=every_two_seconds("read", "scenes"))
    print_lines(describe(cameras))
    click.echo(f"{place}: noise.json, noise.svg, noiseprofiles.json")
