"""Commands that look at or make what `prepare` reads: sample, index."""

from pathlib import Path

import click

from rawnind.cli.run_options import FOLLOW_LINKS
from rawnind.errors import OutputError, first_of
from rawnind.printing import print_lines
from rawnind.records import Cfa


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--seed", default=0, show_default=True, help="Seed of the noise and of where the photos are cut from."
)
@click.option("--height", default=800, show_default=True, help="Rows of each photo.")
@click.option("--width", default=1216, show_default=True, help="Columns of each photo.")
def sample(out: Path, seed: int, height: int, width: int) -> None:
    """Write a small RawNIND-like data set into OUT.

    It has 34 DNG files of 12 scenes, some of them damaged, and truth.json with their true shifts, gains and noise.

    \b
    Example:
      rawnind sample pairs --height 1024 --width 1536
    """
    from rawnind.sample import make_sample

    truth = make_sample(out, seed=seed, height=height, width=width)
    click.echo(
        f"{out}: {len(truth.scenes)} scenes, {len(truth.files)} files; truth.json holds their true shifts, gains and noise"
    )


@click.command()
@click.argument("source")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the index as YAML."
)
@FOLLOW_LINKS
def index(source: str, output: Path | None, *, follow_links: bool | None) -> None:
    """Print how many scenes and photos SOURCE has.

    SOURCE is a folder of RAW files, an index YAML, the DOI of a data set on a Dataverse server, or a saved reply of one.

    \b
    Examples:
      rawnind index RawNIND/ -o dataset_index.yaml
      rawnind index doi:10.14428/DVN/DEQCIM
    """
    from rawnind.source.catalog import is_published, load_catalog
    from rawnind.source.index import index_to_yaml, load_index

    if is_published(source):
        catalog = load_catalog(source)
        found = catalog.index
        print_lines(first_of(f"differs: {note}" for note in catalog.notes), err=True)
    else:
        found = load_index(source, follow_links=bool(follow_links))
    print_lines(first_of(f"refused: {refused.file}: {refused.why}" for refused in found.refused), err=True)
    click.echo(f"{len(found.scenes)} scenes: {', '.join(f'{found.count(cfa)} {cfa}' for cfa in Cfa)}")
    click.echo(f"{found.test_reserve} test-reserve, {found.unknown_sensor} unknown-sensor")
    click.echo(f"{found.ground_truths} ground-truth and {found.noisy} noisy photos; {found.skipped_files}")
    if output:
        _write_text(output, index_to_yaml(found))


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
