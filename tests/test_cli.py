"""The command refuses bad input in one clear sentence and with the right exit code, and loses nothing."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import termios

import pytest
import yaml
from click.testing import CliRunner

from rawnind import api
from rawnind.cli import main
from rawnind.exit_codes import ExitCode
from rawnind.output.status import Status, Uncollected
from rawnind.reasons import Outcome, Reason


@pytest.fixture
def rawnind():
    """Runs the command; its exit code, its last line of errors and everything it said."""

    def rawnind(*words):
        result = CliRunner().invoke(main, [str(word) for word in words])
        said = result.stderr.strip().splitlines()
        return result.exit_code, said[-1] if said else "", result.output

    return rawnind


def everything(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("doi:garbage", "doi:garbage is not a DOI; one looks like doi:10.14428/DVN/DEQCIM"),
        (
            "https://example.org/photos",
            "https://example.org/photos is not the page of a data set on a Dataverse server",
        ),
        ("", "SOURCE is empty"),
        ("gone", "gone does not exist"),
        ("gone.yaml", "gone.yaml does not exist"),
        ("gone.json", "gone.json does not exist"),
        ("gone.txt", "gone.txt does not exist"),
        ("words", "words, line 1: hello is no http address, checksum or length"),
    ],
)
def test_a_source_that_is_none_is_one_sentence_whatever_the_command(
    rawnind, tmp_path, monkeypatch, source, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").write_text("hello world")
    said = {
        command: rawnind(command, source, *options)[:2]
        for command, *options in (
            ("index",),
            ("plan",),
            ("prepare", "--output", "out"),
            ("fetch", "--root", "root"),
        )
    }
    assert len(set(said.values())) == 1, said
    code, line = said["fetch"]
    assert (code, says in line) == (ExitCode.USAGE, True), line
    assert not (tmp_path / "out").exists()


@pytest.fixture
def out(prepared):
    """A prepared folder that must come out as it was."""
    before = everything(prepared)
    yield prepared
    assert everything(prepared) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--crop-size", "100"], "crop_size must be a positive multiple of 32, got 100"),
        (["--crop-size", "-32"], "crop_size must be a positive multiple of 32, got -32"),
        (["--stride", "0"], "stride must be a positive whole number, got 0"),
        (["--min-msssim", "2"], "min_msssim must lie between 0 and 1, got 2.0"),
        (["--max-scenes", "0"], "max_scenes must be a whole number of at least 1, got 0"),
        (["--timeout", "-1"], "timeout must be a whole number of at least 1, got -1"),
        (["--scene-timeout", "1e300"], "scene_timeout must be at most a year, 31536000 seconds, got 1e+300"),
        (["--timeout", "99999999999999999999"], "timeout must be at most a year"),
        (["--scene-timeout", "nan"], "scene_timeout must be a number of seconds above 0, got nan"),
        (["--cpus-per-scene", "0"], "cpus_per_scene must be a number above 0, got 0.0"),
        (["--retry-failed", "exposure"], "retry_failed takes"),
        (["--retry-failed", "nonsense"], "retry_failed takes all, all_zero, incomplete, invalid_result"),
        (["--crop-size", "96"], "was made with another recipe (crop_size 64 there and 96 now"),
        (["--cfa", "foveon"], "Invalid value for '--cfa'"),
        (["--no-such-option"], "No such option"),
        (["--timeout", "soon"], "'soon' is not a valid integer"),
        (["--config", "/nowhere.yaml"], "cannot read /nowhere.yaml: No such file or directory"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(rawnind, sample_set, out, options, says):
    fitting = [] if "--crop-size" in options else ["--crop-size", "64"]
    code, said, _ = rawnind("prepare", sample_set, "--output", out, *fitting, *options)
    assert code == 2
    assert says in said


def test_retry_failed_does_not_take_the_source_for_a_reason(rawnind, sample_set, tmp_path):
    code, said, _ = rawnind("prepare", "--retry-failed", sample_set, "--output", tmp_path / "out")
    assert code == 2
    assert "was taken for a reason" in said
    assert "--retry-failed=all" in said


@pytest.mark.parametrize("output", ["foo://x", "file:///a b", "s3://"])
def test_an_output_that_is_no_location_is_wrong_usage(rawnind, sample_set, output):
    code, said, _ = rawnind("prepare", sample_set, "--output", output)
    assert code == 2
    assert output in said


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("/nowhere", "/nowhere does not exist"),
        ("s3://key:secret@bucket/photos", "s3://***@bucket/photos has credentials"),
    ],
)
def test_a_wrong_source_is_refused_before_anything_slow_is_imported(source, says):
    script = (
        "import sys; from rawnind.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print({'ray', 'numba', 'torch'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", script, "prepare", source, "--output", "/nowhere/out"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "set()\n")
    assert says in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("crop_sise: 64", "unknown option 'crop_sise'; known are"),
        ("[1, 2]", "must hold option names with values"),
        ("crop_size: [", "is not valid YAML"),
        ("crop_size: large", "crop_size must be a positive multiple of 32, got 'large'"),
        ("recipe: {crop_size: 64}", "unknown option 'recipe'"),
        ("max_scenes: true", "max_scenes must be a whole number"),
    ],
)
def test_a_wrong_config_is_named(rawnind, sample_set, out, tmp_path, text, says):
    (tmp_path / "config.yaml").write_text(text)
    code, said, output = rawnind("prepare", sample_set, "--output", out, "--config", tmp_path / "config.yaml")
    assert code == 2
    assert says in output
    assert said.startswith("rawnind: ")


def test_sources_that_hold_no_photo_are_refused(rawnind, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.dng").write_bytes(b"raw")
    for source, says in [
        (tmp_path / "empty", "holds no RAW photo that can be used"),
        (tmp_path / "file.dng", "is neither a folder nor an index YAML"),
        (tmp_path / "nowhere", "does not exist"),
    ]:
        code, said, _ = rawnind("prepare", source, "--output", tmp_path / "out")
        assert (code, says in said) == (2, True), said
        assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file(rawnind, sample_set, tmp_path):
    (tmp_path / "out").write_text("mine")
    code, said, _ = rawnind("prepare", sample_set, "--output", tmp_path / "out")
    assert code == 2
    assert "is a file; --output needs a folder" in said
    assert (tmp_path / "out").read_text() == "mine"


def test_an_output_that_cannot_be_written(rawnind, sample_set):
    code, said, _ = rawnind("prepare", sample_set, "--output", "/proc/rawnind")
    assert code == 3
    assert "cannot write" in said


def test_running_again_is_reported_and_exits_as_before(rawnind, sample_set, out, capfd):
    same = [
        "prepare",
        sample_set,
        "--output",
        out,
        "--crop-size",
        "64",
        "--stride",
        "96",
        "--progress",
        "plain",
    ]
    assert rawnind(*same)[0] == 0
    assert "12 already collected, 0 to do" in capfd.readouterr().err
    assert rawnind(*same, "--strict")[0] == 5


def test_nothing_collected_has_its_own_exit_code(rawnind, cluster, sample_set, tmp_path):
    (tmp_path / "set").mkdir()
    (photo,) = sample_set.glob("*deep-field*")
    os.link(photo, tmp_path / "set" / photo.name)
    code, _, output = rawnind("prepare", tmp_path / "set", "--output", tmp_path / "out", "--crop-size", "64")
    assert code == 4
    assert "1 no_ground_truth" in output


@pytest.mark.parametrize(
    "words",
    [
        ["index", "nowhere"],
        ["plan", "nowhere"],
        ["prepare", "nowhere", "--output", "out"],
        ["status", "nowhere"],
        ["verify", "nowhere"],
        ["export", "nowhere", "--to", "exported"],
        ["train", "nowhere"],
    ],
    ids=lambda words: words[0],
)
def test_a_missing_folder_has_the_same_exit_code_in_every_command(rawnind, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, said, _ = rawnind(*words)
    assert code == ExitCode.USAGE
    assert said.startswith("rawnind: ")
    assert "nowhere" in said
    assert not list(tmp_path.iterdir())


def test_status_and_verify_of_a_folder_that_was_never_prepared(rawnind, tmp_path):
    for command in ("status", "verify"):
        code, said, _ = rawnind(command, tmp_path)
        assert code == ExitCode.USAGE
        assert said.startswith("rawnind: ")


def test_prepare_and_status_list_what_is_not_collected(rawnind, sample_set, out):
    _, _, said = rawnind(
        "prepare", sample_set, "--output", out, "--crop-size", 64, "--stride", 96, "--progress", "none"
    )
    _, _, status = rawnind("status", out)
    for text in (said, status):
        assert "Scenes that are not collected: 3\n" in text
        assert "Pairs that are not collected: 4\n" in text
        for scene in ("bayer/coins", "bayer/deep-field", "bayer/moon", "bayer/two-motifs"):
            assert f": {scene}: Bayer_{scene[6:]}_ISO" in text


def test_status_works_while_the_manifest_is_written(rawnind, out, tmp_path):
    between = shutil.copytree(out, tmp_path / "between")
    (between / "pairs.parquet").write_bytes(b"of the next manifest")
    code, _, said = rawnind("status", between)
    assert code == ExitCode.COMPLETE
    assert "is writing the manifest now" in said


def test_a_quiet_run_prints_nothing_and_errors_are_printed_all_the_same(rawnind, sample_set, out, capfd):
    same = ["prepare", sample_set, "-o", out, "--crop-size", "64", "--stride", "96", "-q"]
    assert rawnind(*same) == (0, "", "")
    assert capfd.readouterr().err == ""
    code, said, _ = rawnind(*same, "--limit", "0")
    assert code == ExitCode.USAGE
    assert "limit" in said


def test_a_verbose_summary_lists_all_and_the_other_one_twenty():
    each = Uncollected(scene="bayer/tea", outcome=Outcome.FAILED, reason=Reason.TRUNCATED, detail="cup.dng")
    status = Status(
        recipe="", run=None, open=None, unfinished=(), scenes=(), crops=0, summary=None, uncollected_scenes=(),
        uncollected_pairs=(each,) * 25, filtered=(), failures=(), retry=(), retried_scenes=0,
    )  # fmt: skip
    assert len(list(status.uncollected())) == 26
    assert list(status.uncollected(20))[-1] == "... and 5 more"


def test_completion_offers_the_commands():
    words = {"_RAWNIND_COMPLETE": "bash_complete", "COMP_WORDS": "rawnind pre", "COMP_CWORD": "1"}
    code = "from rawnind.cli import main; main(prog_name='rawnind')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | words, capture_output=True, text=True, check=True
    )
    assert done.stdout == "plain,prepare\n"


def test_a_terminal_s_lines_break_between_words_and_file_names_stay_whole(out):
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 40, 0, 0))
    code = f"from rawnind.cli import main; main(['status', {str(out)!r}])"
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    subprocess.run([sys.executable, "-c", code], env=environment, stdout=theirs, check=True)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:  # its end is an EIO
        while block := terminal.read(4096):
            shown += block
    lines = shown.decode().splitlines()
    assert " ".join(lines).split() == " ".join(api.status(out).lines()).split()
    assert all(len(line) <= 40 or len(line.split()) == 1 for line in lines)


def test_status_names_every_failed_file(rawnind, out):
    code, _, output = rawnind("status", out)
    assert code == 0
    assert "Failed files: 2" in output
    assert "truncated: moon" in output
    assert "sha1_mismatch: coins" in output
    assert "[1 attempt]" in output


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
def test_examples_in_the_help_keep_their_lines(command):
    text = CliRunner().invoke(main, [*command, "--help"]).output
    assert "\\b" not in text
    assert "\b" not in text
    assert any(line.startswith("    rawnind ") for line in text.splitlines())


def test_the_help_lists_every_exit_code():
    text = CliRunner().invoke(main, ["--help"]).output
    assert [int(code) for code in re.findall(r"^    (\d)  \w", text, re.MULTILINE)] == list(ExitCode)


def test_index_prints_once_what_was_set_aside(sample_set):
    text = CliRunner().invoke(main, ["index", str(sample_set)]).output
    assert text.count("set aside") == 1


def test_index_replaces_no_file_that_it_did_not_write(sample_set, tmp_path):
    mine, ours = tmp_path / "mine.yaml", tmp_path / "ours.yaml"
    mine.write_text("precious")
    codes = [
        CliRunner().invoke(main, ["index", str(sample_set), "-o", str(to)]).exit_code
        for to in (mine, ours, ours)
    ]
    assert codes == [ExitCode.USAGE, ExitCode.COMPLETE, ExitCode.USAGE]
    assert mine.read_text() == "precious"


def test_many_refused_files_are_twenty_lines_and_a_count(tmp_path):
    layout = {f"\x1b[2Jscene {number}": {} for number in range(3000)}
    (tmp_path / "index.yaml").write_text(yaml.safe_dump({"Bayer": layout}))
    said = CliRunner().invoke(main, ["index", str(tmp_path / "index.yaml")])
    assert said.exit_code == ExitCode.USAGE  # no scene is left
    good = {"clean_images": [], "noisy_images": [], "test_reserve": False, "unknown_sensor": False}
    photo = {"filename": f"Bayer_cat_ISO6400_sha1={'0' * 40}.dng", "sha1": "0" * 40}
    layout["cat"] = {**good, "noisy_images": [photo]}
    (tmp_path / "index.yaml").write_text(yaml.safe_dump({"Bayer": layout}))
    said = CliRunner().invoke(main, ["index", str(tmp_path / "index.yaml")])
    assert said.exit_code == ExitCode.COMPLETE
    lines = said.stderr.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and 2980 more"
    assert all(line.isprintable() for line in lines)


def test_a_pipe_for_an_index_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "dataset_index.yaml")
    for source in (tmp_path, tmp_path / "dataset_index.yaml"):
        said = CliRunner().invoke(main, ["index", str(source)])
        assert said.exit_code == ExitCode.USAGE
        assert "is not a file" in said.stderr


@pytest.mark.parametrize(
    "name", ["shards/cat.dng", "attempts/mine.txt", "parts/note.txt", "manifest.parquet", "pairs.parquet"]
)
def test_what_another_program_wrote_is_neither_swept_nor_replaced(sample_set, tmp_path, name):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("precious")
    said = CliRunner().invoke(
        main, ["prepare", str(sample_set), "--output", str(tmp_path), "--progress", "none"]
    )
    assert said.exit_code == ExitCode.USAGE
    assert "Choose a new --output" in said.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "precious"
