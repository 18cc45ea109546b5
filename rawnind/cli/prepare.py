"""The commands `plan` and `prepare`."""

import sys
from typing import TYPE_CHECKING, Any

import click

from rawnind.cli.run_options import options_from, run_options
from rawnind.errors import ConfigError
from rawnind.exit_codes import ExitCode
from rawnind.options import Options
from rawnind.printing import describe, print_lines, told, uncollected
from rawnind.records import Summary

if TYPE_CHECKING:
    from rawnind.planning import Plan


@click.command()
@click.argument("source")
@click.option("--check", is_flag=True,
              help="Decode the photos too, and say of each pair whether it would be lost, and what to shoot again.")  # fmt: skip
@run_options
def plan(source: str, *, check: bool, **values: Any) -> None:
    """Estimate what `prepare` would do and need.

    Prints scenes, pairs, crops, disk, memory and workers, from file headers alone. Refuses a run that could do nothing. Of a DOI
    or a saved Dataverse reply it prints bytes to download, disk, time and memory per camera and ISO, from the list of files.

    With --check, for use before shooting is over, it looks at the pixels at reduced size: exposure, movement, light, focus, noise,
    and which ISOs of each camera are missing.

    \b
    Examples:
      rawnind plan RawNIND/ --cfa x-trans --crop-size 256
      rawnind plan doi:10.14428/DVN/DEQCIM
      rawnind plan pairs.yaml --check
    """
    from rawnind.estimate import estimate
    from rawnind.source.catalog import is_published

    options = options_from(values)
    if is_published(source):
        from rawnind.download_estimate import estimate_download
        from rawnind.source.http_client import HttpClient

        if check:
            raise ConfigError("--check looks at pixels: fetch the photos first, and name their folder")
        print_lines(estimate_download(source, options, HttpClient(told=told)).lines())
        return
    estimated = estimate(source, options)
    print_lines(estimated.lines())
    if check:
        _check(estimated.plan)


def _check(plan: "Plan") -> None:
    """Looks at the pairs of the selected scenes."""
    from rawnind.indexing.table import table_console
    from rawnind.progress.counter import counting
    from rawnind.shooting.check import check_scene
    from rawnind.shooting.table import print_checks

    checks = []
    with counting() as report:
        report("scenes", 0, len(plan.selected))  # the first one may compile for a minute
        for scene in plan.selected:
            checks.append(check_scene(scene, plan.recipe))
            report("scenes", len(checks), len(plan.selected))
    print_checks(table_console(), checks)


@click.command()
@click.argument("source")
@click.option(
    "-o", "--output", required=True, metavar="OUT", help="Folder or URI (such as s3://bucket/folder)."
)
@click.option("--progress", type=click.Choice(["auto", "live", "plain", "none"]), default="auto", show_default=True,
              help="A live view, plain lines, or no output; auto: live on a terminal.")  # fmt: skip
@click.option(
    "-q", "--quiet", is_flag=True, help="Print nothing but errors; the exit code says how it ended."
)
@click.option("-v", "--verbose", is_flag=True,
              help="List every scene and pair that is not collected, not only the first 20, and print harmless warnings of Ray too.")  # fmt: skip
@run_options
def prepare(source: str, output: str, progress: str, *, quiet: bool, verbose: bool, **values: Any) -> None:
    """Process the scenes of SOURCE; run it again to resume.

    Every scene of SOURCE, a folder of RAW files or an index YAML, here or on an object store, ends with an outcome. OUT/manifest.parquet lists the crops.
    Of a DOI, a saved Dataverse reply, a list of URLs, or an index YAML whose root is a DOI, photos are fetched while others are
    processed, and removed when their scene is done.

    \b
    Examples:
      rawnind prepare RawNIND/ --output out
      rawnind prepare dataset_index.yaml --output s3://bucket/out --cfa bayer --crop-size 256 --stride 256
      rawnind prepare RawNIND/ --output out --retry-failed missing_file
      rawnind prepare doi:10.14428/DVN/DEQCIM --output out --limit 3 --disk-budget 20

    Exit: 0 complete, 2 wrong usage, 3 stopped early (run again to resume), 4 nothing collected, 5 --strict and a scene
    or a pair failed.
    """
    from rawnind.source.catalog import is_published
    from rawnind.source.index import check_source

    if not is_published(source):
        check_source(source)  # before Ray and numba are imported, which takes seconds
    options = options_from(values)

    from rawnind.output.store import Store
    from rawnind.output.white_levels import white_level_warnings
    from rawnind.pipeline.run import run
    from rawnind.progress.progress import choose

    summary = run(source, output, options, choose("none" if quiet else progress, verbose=verbose))
    if not quiet:
        print_lines(describe(summary, output).splitlines())
        print_lines(uncollected(summary, output, None if verbose else 20))
        print_lines(white_level_warnings(Store(output)))
    sys.exit(_exit_code_of(summary, options))


def _exit_code_of(summary: Summary, options: Options) -> ExitCode:
    if options.strict and (summary.scenes.failed or summary.pairs.failed):
        return ExitCode.FAILED
    return ExitCode.COMPLETE if summary.crops else ExitCode.NOTHING_COLLECTED
