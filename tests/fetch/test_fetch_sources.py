"""What `rawnind fetch` takes as a source: a reply, a saved one, a list of URLs; and what of it it fetches."""

import hashlib
import json
import shutil

import pytest
from click.testing import CliRunner

from rawnind.cli import main
from rawnind.errors import IndexInvalidError
from rawnind.fetch.selection import IsoRange, Wanted
from rawnind.fetch.sources import files_of
from rawnind.planning import SceneFilter
from rawnind.records import Cfa
from rawnind.source.catalog import load_catalog
from rawnind.source.http_client import HttpClient
from rawnind.source.index import load_index
from tests.fetch.dataverse_server import DataverseServer
from tests.fetch.downloads import EVERYTHING, HASTY, below


def test_a_cut_reply_is_asked_for_again_and_one_that_stays_cut_is_refused(server, run, tmp_path):
    server.reply_faults = [lambda reply: reply[: len(reply) // 2]]
    assert run().is_complete
    saved = tmp_path / "reply.json"
    saved.write_bytes(server.reply()[:-20])
    with pytest.raises(IndexInvalidError, match="not a whole Dataverse reply"):
        load_catalog(str(saved))


def test_only_what_the_chosen_scenes_need_is_fetched(server, root, run):
    wanted = Wanted(scenes=SceneFilter(cfa=Cfa.BAYER, limit=1), isos=(IsoRange.parse("800-65535"),))
    run(wanted=wanted)
    index = load_index(root)
    assert len(index.scenes) == 1
    assert index.scenes[0].ground_truths
    assert all(ref.iso >= 800 for ref in index.scenes[0].noisy)
    assert len(below(root)) < len(server.files)


def test_a_saved_reply_and_a_list_of_urls_are_sources_too(server, root, run, tmp_path, monkeypatch):
    monkeypatch.setenv("DATAVERSE_SERVER", server.url)
    saved = tmp_path / "reply.json"
    saved.write_bytes(server.reply())
    assert run(str(saved)).counts.fetched == len(server.files)
    shutil.rmtree(root)
    number, name = next(iter(server.files.items()))
    sha1 = hashlib.sha1(server.data(name)).hexdigest()
    listed = tmp_path / "urls.txt"
    listed.write_text(
        f"\ufeff{sha1} *{server.url}/api/access/datafile/{number}\r\n# one photo\r\n", encoding="utf-8"
    )
    assert run(str(listed)).is_complete
    assert (root / str(number)).read_bytes() == server.data(name)


def test_files_of_one_name_in_several_folders_are_fetched_into_these(server, root, run, tmp_path):
    data = [server.data(name) for name in list(server.files.values())[:2]]
    for folder, each in zip("ab", data, strict=True):
        (tmp_path / "card" / folder).mkdir(parents=True)
        (tmp_path / "card" / folder / "DSC00001.DNG").write_bytes(each)
    with DataverseServer(tmp_path / "card", names=["a/DSC00001.DNG", "b/DSC00001.DNG"]) as other:
        entries = json.loads(other.reply())
        for file in entries["data"]["latestVersion"]["files"]:
            file["directoryLabel"], file["dataFile"]["filename"] = file["dataFile"]["filename"].split("/")
        other._reply = json.dumps(entries).encode()
        listed = tmp_path / "urls.txt"
        sums = [hashlib.sha1(each).hexdigest() for each in data]
        listed.write_text("".join(f"{sha1}  {other.url}/api/access/datafile/{name.replace('/', '%2F')}\n" for sha1, name in zip(sums, other.files.values(), strict=True)))  # fmt: skip
        for source in (other.page, str(listed)):
            assert run(source).is_complete
            assert {name: (root / name).read_bytes() for name in below(root) if (root / name).is_file()} == dict(zip(other.files.values(), data, strict=True))  # fmt: skip
            shutil.rmtree(root)
        for url, says in (
            (f"{other.url}/a.dng\n{sums[0]}  {other.url}/a.dng", "a.dng is listed twice"),
            ("http://[x/a.dng", "is no http address"),
            ("http://127.0.0.1:99999/a.dng", "is no http address"),
            (f"{other.url}/photos/", "ends without the name of a file"),
            (other.url, "ends without the name of a file"),
        ):
            listed.write_text(f"{sums[0]}  {url}\n")
            with pytest.raises(IndexInvalidError, match=says):
                run(str(listed))


def test_files_that_no_name_puts_into_scenes_are_fetched_and_the_next_command_is_named(
    small_set, root, tmp_path
):
    (tmp_path / "card").mkdir()
    for number, path in enumerate(sorted(small_set.glob("*_cat_*"))):
        shutil.copy(path, tmp_path / "card" / f"DSC0000{number}.DNG")
    with DataverseServer(tmp_path / "card") as server:
        done = CliRunner().invoke(main, ["fetch", server.page, "--root", str(root)])
        looked = CliRunner().invoke(main, ["index", server.page])
        listed = tmp_path / "urls.txt"
        listed.write_text(f"{'0' * 40}  {server.url}/api/access/datafile/{next(iter(server.files))}\n")
        failed = CliRunner().invoke(main, ["fetch", str(listed), "--root", str(tmp_path / "other")])
    assert failed.exit_code == 5
    assert "1 failed" in failed.output
    assert "Next:" not in failed.output
    assert done.exit_code == 0, done.output
    assert "refused" not in done.output
    assert f"No name says a scene. Next: rawnind index {root} -o pairs.yaml" in done.output
    assert below(root) == set(server.files.values())
    pairs = tmp_path / "pairs.yaml"
    CliRunner().invoke(main, ["index", str(root), "-o", str(pairs)])
    with pytest.raises(IndexInvalidError, match="does not say where its photos are published"):
        files_of(str(pairs), EVERYTHING, HttpClient(HASTY))
    assert looked.exit_code == 2
    assert "run `rawnind fetch` first, then `rawnind index` on the folder" in looked.output
