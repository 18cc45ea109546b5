"""Commands that show what a run made: report, show."""

from pathlib import Path

import click

from rawnind.cli.progress_line import every_two_seconds
from rawnind.printing import print_lines


@click.command()
@click.argument("output")
@click.option("--scene", metavar="NAME", help="A page about this scene alone, with larger pictures.")
@click.option("--worst", type=click.IntRange(0, 1000), default=20, show_default=True, metavar="N",
              help="Crops in each list of the worst.")  # fmt: skip
def report(output: str, scene: str | None, worst: int) -> None:
    """Write OUTPUT/report/index.html: a page that shows what was kept, what was thrown away, and why.

    It needs no network and no server, also where OUTPUT is a URI, and `prepare` may still be running on it.

    \b
    Examples:
      rawnind report out
      rawnind report out --scene kitchen
    """
    from rawnind.report.page import report as run_report

    place = run_report(output, scene=scene, worst_count=worst, progress=every_two_seconds("made", "pictures"))
    print_lines([f"{place}: open it in a browser"])


@click.command()
@click.argument("output")
@click.argument("what", metavar="CROP_ID|PAIR|SCENE|PHOTO")
@click.option("-o", "picture", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png",
              help="The picture to write.")  # fmt: skip
def show(output: str, what: str, picture: Path) -> None:
    """Draw a crop, a pair, a scene, or the pairs of a photo of OUTPUT.

    The picture has the ground truth, the noisy photo at its brightness, the mask with the causes of invalid pixels, the difference,
    and for pairs the score of every crop. OUTPUT may be a URI, and `prepare` may still be running on it.

    \b
    Examples:
      rawnind show out kitchen -o kitchen.png
      rawnind show out DSC01016 -o pair.png
      rawnind show out 367c79c5093d-5b1a2ab7c0de-1-514 -o crop.png
    """
    from rawnind.report.show import show as run_show

    shown = run_show(output, what)
    shown.save(picture)
    print_lines([f"{picture}: {shown.title}"])
