"""Commands that look at or make what `prepare` reads: sample, index."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rawnind.cli.run_options import FOLLOW_LINKS
from rawnind.errors import ConfigError, IndexInvalidError, OutputError, first_of
from rawnind.printing import print_lines, told
from rawnind.records import Cfa
from rawnind.words import counted

if TYPE_CHECKING:
    from rawnind.indexing.grouping import Grouping
    from rawnind.source.collector import Index


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--seed", default=0, show_default=True, help="Seed of the noise and of where the photos are cut from."
)
@click.option("--height", default=800, show_default=True, help="Rows of each photo.")
@click.option("--width", default=1216, show_default=True, help="Columns of each photo.")
@click.option(
    "--scenes",
    default=12,
    show_default=True,
    help="Number of scenes; those after the twelfth are drawn from the seed.",
)
def sample(out: Path, seed: int, height: int, width: int, scenes: int) -> None:
    """Write a small RawNIND-like data set into OUT.

    It has 34 DNG files of 12 scenes, some of them damaged, and truth.json with their true shifts, gains and noise.

    \b
    Example:
      rawnind sample pairs --height 1024 --width 1536
      rawnind sample pairs --scenes 60              enough to train a denoiser on
    """
    from rawnind.sample import make_sample

    truth = make_sample(out, seed=seed, height=height, width=width, scenes=scenes)
    click.echo(
        f"{out}: {counted(len(truth.scenes), 'scene')}, {counted(len(truth.files), 'file')}; truth.json holds their true shifts, gains and noise"
    )


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the index as YAML. One that exists keeps what it lists and what you edited. Of an index or a RawNIND "
                   "folder, FILE must be new; FILE.parquet is written as Parquet, for many thousands of scenes.")  # fmt: skip
@click.option(
    "--by-time", metavar="GAP", help="A scene ends where a camera pauses for longer: 60 (seconds), 5m, 1h."
)
@click.option("--csv", "table", type=click.Path(path_type=Path, dir_okay=False),
              help="A table with the columns file, scene and, where wanted, role (gt, noisy).")  # fmt: skip
@click.option("--scene-regex", metavar="REGEX",
              help="The scene is what this finds in a file's path: its group, or all of it.")  # fmt: skip
@FOLLOW_LINKS
def index(
    sources: tuple[str, ...],
    output: Path | None,
    by_time: str | None,
    table: Path | None,
    scene_regex: str | None,
    *,
    follow_links: bool | None,
) -> None:
    """Find the scenes of SOURCE: any folders of RAW files, RawNIND's, an index YAML, or a published data set.

    Files keep their names and places. A scene is a folder, unless --by-time, --csv or --scene-regex says otherwise. Its ground
    truths are the photos in a folder gt, or those of the lowest ISO and, among them, of the longest exposure. Check the table:
    what is doubtful has a question mark. Every choice is a line of the YAML, which you may edit; prepare takes it as SOURCE.

    \b
    Examples:
      rawnind index photos/ -o pairs.yaml
      rawnind index /media/card/DCIM -o pairs.yaml --by-time 60
      rawnind index RawNIND/ -o dataset_index.yaml
      rawnind index s3://bucket/photos -o pairs.yaml
      rawnind index doi:10.14428/DVN/DEQCIM
      rawnind index pairs.yaml -o pairs.parquet
    """
    from rawnind.indexing.grouping import CsvTable, by_folder, by_regex, parse_gap
    from rawnind.indexing.grouping import by_time as by_gap
    from rawnind.source.catalog import is_published
    from rawnind.source.index import is_own_photos

    given = [option for option in (by_time, table, scene_regex) if option is not None]
    if len(given) > 1:
        raise ConfigError("--by-time, --csv and --scene-regex exclude each other: each says what a scene is")
    if (
        not given
        and len(sources) == 1
        and (
            is_published(sources[0]) or not is_own_photos(sources[0], output, follow_links=bool(follow_links))
        )
    ):
        _print_index(sources[0], output, follow_links=bool(follow_links))
        return
    grouping: Grouping = by_folder
    if by_time is not None:
        grouping = by_gap(parse_gap(by_time))
    elif table is not None:
        grouping = CsvTable(table)
    elif scene_regex is not None:
        grouping = by_regex(scene_regex)
    _index_own(sources, output, grouping, follow_links=bool(follow_links))


def _print_index(source: str, output: Path | None, *, follow_links: bool) -> None:
    """The counts of an index that stands in names, in a YAML, or in what a server answers."""
    from rawnind.source.catalog import is_published, load_catalog
    from rawnind.source.http_client import HttpClient
    from rawnind.source.index import load_index

    if is_published(source):
        catalog = load_catalog(source, HttpClient(told=told))
        catalog.require_scenes()
        found = catalog.index
        print_lines(first_of(f"differs: {note}" for note in catalog.notes), err=True)
    else:
        found = load_index(source, follow_links=follow_links)
    print_lines(first_of(f"refused: {refused.file}: {refused.why}" for refused in found.refused), err=True)
    click.echo(
        f"{counted(len(found.scenes), 'scene')}: {', '.join(f'{found.count(cfa)} {cfa}' for cfa in Cfa)}"
    )
    click.echo(f"{found.test_reserve} test-reserve, {found.unknown_sensor} unknown-sensor")
    click.echo(
        f"{found.ground_truths} ground-truth and {counted(found.noisy, 'noisy photo')}; {found.skipped_files}"
    )
    if output:
        _write_index(output, found)


def _index_own(
    sources: tuple[str, ...], output: Path | None, grouping: "Grouping", *, follow_links: bool
) -> None:
    """Indexes files of any names, and prints the table."""
    from rawnind.indexing.build import index_photos
    from rawnind.indexing.table import print_table, summary, table_console, without_truth
    from rawnind.locations import is_uri
    from rawnind.progress.counter import counting
    from rawnind.source.index import require_source
    from rawnind.source.parquet_index import SUFFIX

    if output and output.suffix.lower() == SUFFIX:
        raise ConfigError(
            f"{output}: your choices are kept in a YAML, which you can edit; write that first, then `rawnind index PAIRS.yaml -o {output}`"
        )
    folders = [source if is_uri(source) else require_source(source) for source in sources]
    if file := next((folder for folder in folders if isinstance(folder, Path) and not folder.is_dir()), None):
        raise IndexInvalidError(f"{file} is not a folder; name the folders that hold the RAW files")
    with counting() as report:
        found = index_photos(folders, output, grouping, report, follow_links=follow_links)
    if not found.choices:
        print_lines(summary(found), err=True)
        raise IndexInvalidError(f"{', '.join(sources)}: no RAW photo that can be used has a scene")
    print_table(table_console(), found.choices)
    print_lines(summary(found))
    if merged := found.merged:
        kept = len(found.choices) - len(merged.added)
        print_lines(
            [f"{output}: {counted(len(merged.added), 'photo')} added, {kept} kept as they are listed"]
        )
        print_lines(f"moved: {old} is now {new}" for old, new in merged.moved)
        print_lines(first_of(f"listed and not there: {name}" for name in merged.missing))
        print_lines(without_truth(found.choices, output))
        click.echo(f"Next: rawnind plan {output}")


def _write_index(path: Path, index: "Index") -> None:
    """Writes an index as YAML, or as Parquet where the file's name says so; a file of that name is left alone."""
    from rawnind.output.atomic_file import atomic_file
    from rawnind.source.index import index_to_yaml
    from rawnind.source.parquet_index import SUFFIX, write_parquet_index

    try:
        with atomic_file(path, replace=False) as file:
            if path.suffix.lower() == SUFFIX:
                write_parquet_index(file, index, path.parent)
            else:
                file.write(index_to_yaml(index).encode())
    except FileExistsError:
        raise ConfigError(f"{path} exists already; choose another name or remove it") from None
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
