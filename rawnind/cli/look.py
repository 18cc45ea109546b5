"""Commands that show what a run made: show."""

from pathlib import Path

import click

from rawnind.printing import print_lines


@click.command()
@click.argument("output")
@click.argument("what", metavar="CROP_ID|PAIR|SCENE")
@click.option("-o", "picture", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png",
              help="The picture to write.")  # fmt: skip
def show(output: str, what: str, picture: Path) -> None:
    """Draw a crop, a pair or a scene of OUTPUT.

    The picture has the ground truth, the noisy photo at its brightness, the mask with the causes of invalid pixels, the difference,
    and for pairs the score of every crop. OUTPUT may be a URI, and `prepare` may still be running on it.

    \b
    Examples:
      rawnind show out kitchen -o kitchen.png
      rawnind show out 367c79c5093d-5b1a2ab7c0de-1-514 -o crop.png
    """
    from rawnind.report.show import show as run_show

    shown = run_show(output, what)
    shown.save(picture)
    print_lines([f"{picture}: {shown.title}"])
