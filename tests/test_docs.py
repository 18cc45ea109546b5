"""The documentation as a built site: complete, true to the code, and independent of other servers."""

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rawnind.cli import main
from rawnind.records import Reason

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `make check` builds it; a page outside the menu or a dead link fails."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_the_page_of_reasons_has_every_reason_with_its_sentence(site):
    page = (site / "reasons/index.html").read_text()
    sections = re.findall(r'<h2 id="(\w+)">.*?<tbody>(.*?)</tbody>', page, flags=re.DOTALL)
    shown = {
        (outcome, name, html.unescape(sentence))
        for outcome, rows in sections
        for name, sentence in re.findall(r"<td><code>(\w+)</code></td>\s*<td>(.*?)</td>", rows)
    }
    assert shown == {(reason.outcome, reason, reason.sentence) for reason in Reason}


def test_the_page_of_commands_has_every_command(site):
    page = html.unescape((site / "commands/index.html").read_text())
    for name, command in main.commands.items():
        assert f'id="rawnind-{name}"' in page
        assert command.help.split(".")[0][:40] in page


def test_the_api_page_documents_what_people_import(site):
    page = (site / "api/index.html").read_text()
    for name in (
        "rawnind.pipeline.run.prepare",
        "rawnind.feed.dataset.CropDataset",
        "rawnind.records.Reason",
    ):
        assert f'id="{name}"' in page


def test_no_page_loads_anything_from_another_server(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?([^\"\s>]+)", text)
        loaded += re.findall(
            r"<link[^>]*rel=\"?(?:stylesheet|preconnect|icon)[^>]*\shref=\"?([^\"\s>]+)", text
        )
        assert loaded
        assert not [target for target in loaded if re.match(r"(?:https?:)?//", target)], page
        assert "class=mermaid" not in text, "mermaid is loaded from another server"


def test_every_drawing_stands_on_its_own():
    for drawing in (ROOT / "docs/images").glob("*.svg"):
        text = drawing.read_text()
        assert not re.search(r"(?:href|src)=|url\((?!#)", text), drawing
        assert "<title>" in text, drawing
