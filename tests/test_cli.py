"""The `rawnind` command as its user meets it, as far as it needs no Ray."""

import os

import pytest
from click.testing import CliRunner

from rawnind.cli import USAGE, main


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
def test_examples_in_the_help_keep_their_lines(command):
    text = CliRunner().invoke(main, [*command, "--help"]).output
    assert "\\b" not in text
    assert "\b" not in text
    assert any(line.startswith("    rawnind ") for line in text.splitlines())


def test_index_says_once_what_was_set_aside(sample_set):
    text = CliRunner().invoke(main, ["index", str(sample_set)]).output
    assert text.count("set aside") == 1


def test_a_pipe_for_an_index_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "dataset_index.yaml")
    for source in (tmp_path, tmp_path / "dataset_index.yaml"):
        said = CliRunner().invoke(main, ["index", str(source)])
        assert said.exit_code == USAGE
        assert "is not a file" in said.stderr


@pytest.mark.parametrize(
    "name", ["shards/cat.dng", "attempts/mine.txt", "parts/note.txt", "manifest.parquet", "pairs.parquet"]
)
def test_what_another_program_wrote_is_neither_swept_nor_replaced(sample_set, tmp_path, name):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("precious")
    said = CliRunner().invoke(main, ["prepare", str(sample_set), "--output", str(tmp_path), "--progress", "none"])
    assert said.exit_code == USAGE
    assert "Choose a new --output" in said.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "precious"
