"""The documentation as a built site: complete, true to the code, and independent of other servers."""

import html
import importlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import rawnind
from docs import generate
from rawnind.cli import main
from rawnind.imaging.coordinates import frame_in_visible, grid, to_visible
from rawnind.imaging.levels import tile_planes
from rawnind.imaging.warp import Warp
from rawnind.reasons import Reason
from rawnind.recipe import Recipe
from rawnind.records import Cfa
from rawnind.shooting import check

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `make check` builds it; a page outside the menu or a dead link fails."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_generated_parts_of_the_pages_are_what_the_code_says():
    for page in (ROOT / "docs").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert text == generate.generate(text), f"{page.name} differs from the code: run `make docs`"


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
    for name in {*rawnind.__all__, "reasons.Reason", "errors.ConfigError"} - {"__version__"}:
        assert f'id="rawnind.{name}"' in page


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


def test_the_architecture_page_names_every_module_once():
    page = (ROOT / "docs/architecture.md").read_text()
    named = Counter(re.findall(r"`(rawnind/[\w/]+\.py)`", page))
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "rawnind").rglob("*.py")
        if path.stem[:2] != "__" and path.parent.name != "cli"  # named by their commands
    }
    assert named == dict.fromkeys(modules, 1)


def test_the_pixel_of_the_architecture_page_goes_where_the_page_says():
    cfa, site, origin, shift = Cfa.BAYER, (100, 200), (1, 0), (3, -2)
    frame = frame_in_visible((2001, 3000), origin, cfa.period)
    y, x = site[0] - frame.top, site[1] - frame.left
    shape = frame.height, frame.width
    rect = Warp.constant(shape, shift).overlap(shape, shape, cfa.period)
    first = grid(rect, 512, 512, cfa.period)[:1]
    ((top, left),) = first.tolist()
    in_window = y - top, x - left - 128
    plane = tile_planes(cfa)[in_window[0] % 2, in_window[1] % 2]
    page = (ROOT / "docs/architecture.md").read_text()
    for said in (
        f"our site is ({y}, {x}) of the",
        f"partner is ({y + shift[0]}, {x + shift[1]}) in the",
        f"in cell ({y // cfa.cell}, {x // cfa.cell}) of",
        f"starts at ({top}, {left}) of the frame",
        f"`y, x` = {tuple(to_visible(first, origin)[0].tolist())}",
        f"`noisy_raw[{y - top}, {x - left}]`",
        f"row {in_window[0]}, column {in_window[1]}: `[{in_window[0] // 2}, {in_window[1] // 2}]` of the third",
    ):
        assert said in " ".join(page.split()), said
    assert plane == 2


def test_every_constant_of_a_page_has_the_value_that_the_page_says():
    rows = [
        row
        for page in (ROOT / "docs").glob("*.md")
        for row in re.findall(
            r"^\| `(rawnind[\w.]+)\.(\w+)` \| ([-\d.]+) \|", page.read_text(), flags=re.MULTILINE
        )
    ]
    assert rows
    for module, name, value in rows:
        assert getattr(importlib.import_module(module), name) == pytest.approx(float(value)), name


def test_the_limits_of_the_page_about_shooting_are_those_of_the_recipe_and_of_the_check():
    page = (ROOT / "docs/shooting.md").read_text()
    rows = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", page, flags=re.MULTILINE)[1:]
    recipe, said = Recipe(), {what: by for what, _, _, by in rows}
    limits = {
        key: value or cell
        for _, cell, *_ in rows
        for key, value in re.findall(r"`(\w+)`(?: ([\d.]+))?", cell)
    }
    for key, text in limits.items():
        number, percent = re.search(r"([\d.]+)( %)?", text.replace("twice", "2")).groups()
        assert getattr(recipe, key) == pytest.approx(float(number) / (100 if percent else 1)), key
    assert len(limits) == 8
    assert {name for _, _, reason, _ in rows for name in re.findall(r"`(\w+)`", reason)} <= set(Reason)
    assert said["shift between the photos"] == f"{check.MOST_SHIFT * recipe.max_shift:g} sites"
    assert said["rotation, zoom, parallax"].startswith(f"{check.MOST_ROTATION:g} degrees")
    assert said["light across the frame"] == f"{100 * check.MOST_DRIFT * recipe.max_light_drift:g} %"
    assert said["clipped or black cells of a photo"].startswith(f"{100 * check.MOST_CLIPPED:g} %")
    assert f"below {100 * check.SOFT:g} % or above {100 * check.SOFT_TRUTH:g} %" in said["sharpness"]
