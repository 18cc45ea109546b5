"""The options that `plan` and `prepare` share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rawnind.options import Options, load_config
from rawnind.reasons import Reason
from rawnind.recipe import Compression, Pairing
from rawnind.records import Cfa

FOLLOW_LINKS = click.option("--follow-links", is_flag=True, default=None,
                             help="Read files outside of SOURCE that links in it lead to.")  # fmt: skip


def _failure_reason(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """The value of --retry-failed, which may be left out: what follows the option must then not be taken for it."""
    if value and value not in list(Reason) and Path(value).exists():
        raise click.BadParameter(
            f"{value} was taken for a reason. To try all failed scenes again, write --retry-failed=all, or put the option last."
        )
    return value


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that `plan` and `prepare` share. They have no default here, because a config file may set them."""
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


_RUN_OPTIONS = (
    click.option("--max-scenes", type=int, metavar="N",
                 help="Scenes in flight at once, and workers at most.  [default: 32 per worker, and no worker that is not worth its start]"),
    click.option("--limit", type=int, metavar="N", help="Number of scenes to process.  [default: all]"),
    click.option("--timeout", type=int, metavar="SECONDS",
                 help="Stop cleanly that long after the first scene started; run again to resume.  [default: none]"),
    click.option("--scene-timeout", type=float, metavar="SECONDS", help="Fail a scene that takes longer, or of which a chunk does.  [default: none]"),
    click.option("--cfa", type=click.Choice([str(cfa) for cfa in Cfa]), help="Only scenes with this CFA."),
    click.option("--exclude-test-reserve", is_flag=True, default=None, help="Leave out scenes reserved for testing."),
    FOLLOW_LINKS,
    click.option("--keep-raw/--no-keep-raw", default=None,
                 help="Keep photos that are fetched from a DOI, in OUT/raw.  [default: no]"),
    click.option("--disk-budget", type=float, metavar="GB",
                 help="Room for fetched photos of all scenes in flight.  [default: unlimited]"),
    click.option("--crop-size", type=int, metavar="SITES", help="Side of a crop, a multiple of 32.  [default: 512]"),
    click.option("--stride", type=int, metavar="SITES", help="Distance between neighbouring crops.  [default: 512]"),
    click.option("--pairing", type=click.Choice([str(pairing) for pairing in Pairing]),
                 help="Each noisy photo with the GT that aligns best, or with all.  [default: best]"),
    click.option("--min-msssim", type=float, metavar="0..1", help="Leave out crops that score lower.  [default: none]"),
    click.option("--compression", type=click.Choice([str(kind) for kind in Compression]),
                 help="Compression of the shards; zstd for slow storage.  [default: none]"),
    click.option("--cpus-per-scene", type=float, metavar="N", help="CPUs per worker; a worker processes one scene at a time.  [default: 1]"),
    click.option("--address", metavar="ADDRESS", help="Ray cluster; local: a new one here.  [default: RAY_ADDRESS, or a local one]"),
    click.option("--dashboard", is_flag=True, default=None, help="Start Ray's dashboard with a local Ray."),
    click.option("--retry-failed", metavar="REASON", is_flag=False, flag_value="all", callback=_failure_reason,
                 help="Try failed scenes again: all, or those with this reason."),
    click.option("--config", type=click.Path(path_type=Path), help="YAML with any of these options and recipe values."),
    click.option("--strict", is_flag=True, default=None, help="Exit with 5 when a scene or a pair failed."),
)  # fmt: skip


def options_from(values: dict[str, Any]) -> Options:
    """What the config file says, and over it what the command line says."""
    config = values.pop("config")
    from_command_line = {key: value for key, value in values.items() if value is not None}
    return Options.from_dict((load_config(config) if config else {}) | from_command_line)
