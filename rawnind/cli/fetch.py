"""The command `fetch`."""

import os
import shlex
import signal
import sys

import click

from rawnind.errors import first_of
from rawnind.exit_codes import ExitCode
from rawnind.printing import print_lines, told
from rawnind.records import Cfa
from rawnind.words import counted


@click.command()
@click.argument("source")
@click.option("--root", required=True, type=click.Path(file_okay=False), metavar="DIR",
              help="Folder or URI (such as s3://bucket/folder) to fetch into; `rawnind prepare DIR` reads it.")  # fmt: skip
@click.option("--cfa", type=click.Choice([str(cfa) for cfa in Cfa]), help="Only scenes with this CFA.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Number of scenes.  [default: all]")
@click.option("--scene", "scenes", multiple=True, metavar="PATTERN", help="Only scenes of such a name, with * and ?; may be repeated.")  # fmt: skip
@click.option("--iso", "isos", multiple=True, metavar="N|N-M",
              help="Only noisy photos of such an ISO, and their ground truths; may be repeated.")  # fmt: skip
@click.option("--camera", "cameras", multiple=True, metavar="PATTERN",
              help="Only photos of such a maker or file type, such as sony or raf; may be repeated.")  # fmt: skip
@click.option("--exclude-test-reserve", is_flag=True, help="Leave out scenes reserved for testing.")
@click.option("--jobs", type=click.IntRange(1, 64), default=4, show_default=True, metavar="N", help="Downloads at a time.")  # fmt: skip
@click.option("--retry-failed", is_flag=True, help="Try files in quarantine again.")
@click.option("--server", metavar="URL", help="Dataverse server to ask.  [default: DATAVERSE_SERVER, or where the DOI leads]")  # fmt: skip
@click.option("--progress", type=click.Choice(["auto", "live", "plain", "none"]), default="auto", show_default=True,
              help="A live view, plain lines, or no output; auto: live on a terminal.")  # fmt: skip
def fetch(
    source: str, root: str, cfa: str | None, limit: int | None, scenes: tuple[str, ...], isos: tuple[str, ...],
    cameras: tuple[str, ...], jobs: int, server: str | None, progress: str, *, exclude_test_reserve: bool, retry_failed: bool,
) -> None:  # fmt: skip
    """Download the photos of SOURCE that DIR does not have yet, and check each; run it again to resume.

    SOURCE is the DOI of a data set on a Dataverse server or the address of its page, a saved reply of such a server, an index
    YAML of RawNIND, or a list of URLs with checksums. A file gets its name only when its length and checksums are right; files
    that are right already are not touched. Files that the server does not have, or has with other bytes, are listed in
    DIR/.rawnind-fetch/quarantine.json; only --retry-failed tries them again. A token for files that are not public is read
    from DATAVERSE_API_TOKEN; proxies and certificates from HTTPS_PROXY, NO_PROXY and REQUESTS_CA_BUNDLE.

    \b
    Examples:
      rawnind fetch doi:10.14428/DVN/DEQCIM --root RawNIND --limit 3
      rawnind fetch doi:10.14428/DVN/DEQCIM --root RawNIND --cfa bayer --iso 3200-65535 --jobs 8
      rawnind fetch urls.txt --root photos

    Exit: 0 complete, 2 wrong usage, 3 stopped early or not reachable (run again to resume), 5 a file failed for good.
    """
    from rawnind.fetch.run import fetch as fetch_files
    from rawnind.fetch.selection import IsoRange, Wanted
    from rawnind.fetch.sources import files_of
    from rawnind.locations import local_path
    from rawnind.planning import SceneFilter
    from rawnind.progress.fetch_view import watching_fetch
    from rawnind.source.dataverse import SERVER
    from rawnind.source.http_client import HttpClient

    if server:
        os.environ[SERVER] = server
    wanted = Wanted(
        scenes=SceneFilter(
            cfa=Cfa(cfa) if cfa else None, exclude_test_reserve=exclude_test_reserve, limit=limit
        ),
        patterns=scenes,
        isos=tuple(IsoRange.parse(each) for each in isos),
        cameras=cameras,
    )
    client = HttpClient() if progress == "none" else HttpClient(told=told)
    selection = files_of(source, wanted, client)
    print_lines(first_of(selection.notes), err=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with watching_fetch(progress) as show:
        done = fetch_files(
            selection.files, local_path(root), show, jobs=jobs, retry_failed=retry_failed, client=client
        )
    print_lines(
        first_of(f"failed: {each.path}: {each.reason}: {each.detail}" for each in done.failures), err=True
    )
    counts = done.counts
    click.echo(
        f"{counted(counts.files, 'file')}: {counts.here} were there, {counts.fetched} fetched ({counts.transferred / 1e6:.1f} MB), "
        f"{counts.failed} failed"
    )
    if not selection.has_scenes and counts.here + counts.fetched:
        click.echo(f"No name says a scene. Next: rawnind index {shlex.quote(root)} -o pairs.yaml")
    if done.quarantine:
        click.echo(f"{done.quarantine} lists what only --retry-failed tries again", err=True)
    if not done.is_complete:
        sys.exit(ExitCode.STOPPED if done.may_come else ExitCode.FAILED)
