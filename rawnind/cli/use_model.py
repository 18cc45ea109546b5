"""The commands `denoise` and `export-model`, which use what `train` wrote."""

from pathlib import Path

import click

from rawnind.cli.progress_line import every_two_seconds

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("photo", type=_FILE)
@click.option("--checkpoint", required=True, type=_FILE, metavar="FILE",
              help="What `rawnind train` wrote, or a .dtmodel.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="A new file: .dng for a linear DNG with the sensor's own colours, .tif for sRGB with 16 bits.")  # fmt: skip
def denoise(photo: Path, checkpoint: Path, output: Path) -> None:
    """Denoise a RAW photo with a trained network.

    PHOTO is any RAW file of a Bayer or X-Trans sensor. A network that was trained with --input raw takes Bayer alone, one that was
    trained with --input rgb both. The linear DNG opens in darktable, RawTherapee and others like a RAW file.

    \b
    Example:
      rawnind denoise DSC01234.ARW --checkpoint out/checkpoint.pt -o DSC01234-denoised.dng
    """
    from rawnind.denoise.run import denoise as run_denoise

    progress = every_two_seconds("denoised", "tiles")
    click.echo(run_denoise(photo, output, checkpoint=checkpoint, progress=progress))


@click.command("export-model")
@click.argument("checkpoints", nargs=-1, required=True, type=_FILE, metavar="CHECKPOINT...")
@click.option("--to", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="NAME.dtmodel",
              help="A new file; darktable calls the model NAME.")  # fmt: skip
@click.option("--data", metavar="OUTPUT",
              help="Folder of the training data, for the model card.  [default: that of the checkpoint]")  # fmt: skip
@click.option("--card", type=_FILE, metavar="FILE",
              help="YAML with fields of the model card, such as author and license.")  # fmt: skip
def export_model(checkpoints: tuple[Path, ...], to: Path, data: str | None, card: Path | None) -> None:
    """Write trained networks as a model of darktable's raw denoiser.

    Give a checkpoint of --input raw, one of --input rgb, or both: the first is for Bayer, the second for all other sensors. The
    networks are compared with torch, and the file is checked, before it gets its name. What the folder of the training data
    does not say is unknown in the model card.

    \b
    Example:
      rawnind export-model bayer.pt rgb.pt --to rawdenoise-mine.dtmodel --data out
    """
    from rawnind.darktable.export import export_model as run_export

    click.echo(run_export(checkpoints, to, data=data, card=card))
