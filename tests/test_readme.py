"""What README.md and the pages in docs/ promise: their commands run, their examples run, what they name exists."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from rawnind.cli import main
from rawnind.exit_codes import ExitCode
from rawnind.output.versions import COLUMNS_KEY, FORMAT_KEY
from tests.indexing.card import shoot

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
PAPERS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
RUN = [
    *(
        ROOT / "docs" / name
        for name in ("own-pairs.md", "read-elsewhere.md", "report.md", "train.md", "tutorial.md")
    ),
    ROOT / "CONTRIBUTING.md",
]
"""Pages whose examples and `rawnind` commands run in the folder that README.md's have made."""


def blocks(page, *kinds):
    """(kind, text) of every fenced block."""
    found = re.findall(
        r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return [(kind, text) for kind, text in found if kind in kinds]


def commands(text):
    """Commands of a shell block, without comments and with continued lines joined."""
    lines = (line.partition("#")[0].strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def runnable(page):
    for kind, text in blocks(page, "sh", "python"):
        if kind == "python":
            yield [sys.executable, "-c", text]
        else:
            yield from (shlex.split(line) for line in commands(text) if line.startswith("rawnind "))


@pytest.fixture(scope="module")
def folder(cluster, tmp_path_factory):
    """Where every command and example of README.md has run, one after the other: `pairs` and `out` are there."""
    made = tmp_path_factory.mktemp("readme")
    (made / "printed.txt").write_text(run(README, made, cluster))
    return made


def run(page, folder, cluster):
    """What the page's commands and examples print."""
    printed = ""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "RAY_ADDRESS": cluster}
    for command in runnable(page):
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{page.name}: {command}: {done.stderr}"
        assert done.stdout, f"{page.name}: {command} prints nothing"
        printed += done.stdout
    return printed


def provide(page, folder):
    """What a page takes as given: photos of one's own, or what `make demo` makes (of the same sample, with the same recipe)."""
    if page == "own-pairs.md":
        shoot(folder / "pairs", folder / "photos", "cat", "retina")
    elif page == "tutorial.md":
        shutil.copytree(folder / "out", folder / "out/demo/prepared", ignore=shutil.ignore_patterns("demo"))
        (folder / "out/demo/pairs").symlink_to(folder / "pairs")


@pytest.mark.ray
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_every_command_and_every_example_of_a_page_runs(page, folder, cluster):
    provide(page.name, folder)
    run(page, folder, cluster)


@pytest.mark.ray
def test_the_tutorial_shows_the_summary_that_prepare_prints(folder):
    ((_, summary),) = blocks(ROOT / "docs/tutorial.md", "text")
    assert summary.replace("out/demo/prepared", "out") in (folder / "printed.txt").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_has_options_that_exist(page):
    for _, text in blocks(page, "sh"):
        for line in commands(text):
            if match := re.match(r"(?:rawnind|.* python) (?:jobs/)?([a-z_]+)(?:\.py)?( .*|$)", line):
                name, given = match[1], shlex.split(match[2])
                if name in main.commands:
                    main.commands[name].make_context(name, given)
                else:
                    assert (ROOT / f"jobs/{name}.py").exists(), line


OTHERS_OPTIONS = {"--head", "--logdir", "--noise_dataset_yamlfpaths", "--clean_dataset_yamlfpaths", "--test_reserve",
                  "--val_crop_size", "--test_crop_size"}  # fmt: skip
"""Options of other programs that the pages name: Ray, TensorBoard, the RawNIND research code."""


def options_of(*commands):
    return {
        option
        for command in commands
        for each in command.params
        for option in (*each.opts, *each.secondary_opts)
    }


@pytest.mark.parametrize("page", PAPERS, ids=lambda page: page.name)
def test_every_option_that_text_and_examples_name_exists(page):
    """Beside the blocks of the test above: blocks that no test runs, because they need the network, and sentences."""
    text = page.read_text(encoding="utf-8")
    lines = "".join(block for _, block in blocks(page, "text")).replace("\\\n", " ").splitlines()
    ours = options_of(*main.commands.values()) | {"--help", "--version"}
    for span in [
        *lines,
        *re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)),
    ]:
        command = re.match(r" *(?:rawnind |python jobs/)(\w[\w-]*)", span)
        known = (
            options_of(main.commands[command[1]]) | {"--help"}
            if command and command[1] in main.commands
            else ours
        )
        named = re.findall(r"(?<![\w-])--[a-z][\w-]*", span) if command or span.startswith("--") else []
        assert set(named) <= known | OTHERS_OPTIONS, span


def test_the_command_line_check_finds_an_option_that_does_not_exist():
    with pytest.raises(click.NoSuchOption):
        main.commands["prepare"].make_context("prepare", ["pairs", "--output", "out", "--no-such-option"])


@pytest.mark.parametrize("page", PAPERS, ids=lambda page: page.name)
def test_every_make_target_that_it_names_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = re.findall(
        r"`make ([a-z-]+)`|^ +make ([a-z-]+)$|^make ([a-z-]+)", page.read_text(), flags=re.MULTILINE
    )
    assert {word for match in named for word in match if word} <= targets


@pytest.mark.parametrize("page", PAPERS, ids=lambda page: page.name)
def test_every_file_and_every_python_name_that_it_mentions_exists(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\b(?:jobs|docs|rawnind|benchmarks|tests)/[\w./-]*\w", text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"
    keys = {key.decode() for key in (FORMAT_KEY, COLUMNS_KEY)}  # of Parquet metadata
    for name in set(re.findall(r"\brawnind(?:\.\w+)+", text)) - keys:
        assert found(name), f"{page.name} names {name}"


def found(name):
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


def test_a_name_that_does_not_exist_is_found_out():
    assert found("rawnind.imaging.pair.align_pair")
    assert not found("rawnind.imaging.pear")
    assert not found("rawnind.imaging.pair.align_pear")


def test_every_link_of_the_readme_leads_to_a_file():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text()):
        assert (ROOT / target).exists(), target


def test_the_exit_codes_are_the_same_in_both_places():
    tables = [re.findall(r"^\| (\d+) \| (.+) \|$", page.read_text(), flags=re.MULTILINE) for page in
              (README, ROOT / "docs/exit-codes.md")]  # fmt: skip
    assert tables[0] == tables[1]
    assert [int(code) for code, _ in tables[0]] == list(ExitCode)
