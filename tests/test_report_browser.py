"""The report and the comparison in a real browser: nothing is loaded, everything shows, sorts, fits and prints."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fake_exp import write_fake_exp
from fake_study import add_study
from speechmerge.cli import main

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from browser import NoBrowser, browser  # noqa: E402

PAGES = ("index.html", "compare.html")
PHONE, PAPER = 360, 1037  # CSS pixels: a small phone; A4 landscape without its margins

SORTS = """() => [...document.querySelectorAll("table")].flatMap((table) =>
  [...table.querySelectorAll("thead th")].map((head, column) => {
    const button = head.querySelector("button");
    if (!button) return null;
    const keys = () => [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim());
    const state = () => [head.getAttribute("aria-sort"), keys()];
    const before = keys();
    button.click(); const first = state();
    button.click(); const second = state();
    return { name: head.textContent.trim(), rule: head.dataset.first, before, first, second };
  }).filter(Boolean))"""


@pytest.fixture(scope="module")
def chromium():
    try:
        with browser(install=True) as found:
            yield found
    except NoBrowser as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with both pages of a made-up study; the second experiment is the first with other hypotheses."""
    root = write_fake_exp(tmp_path_factory.mktemp("study"), utterances=12, splits=("test",))
    write_fake_exp(root / "other", utterances=12, merges=("uniform",), splits=("test",))
    add_study(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["report", "--exp-dir", "exp", "--output-dir", "report", "--max-examples", "1"]) == 0
        assert main(["report", "--compare", "exp", "other/exp", "--output-dir", "report"]) == 0
    return root / "report"


@pytest.fixture(params=PAGES)
def page(request, chromium, made):
    """An open page; whatever it asks for or complains of is in page.asked and page.said."""
    page = chromium.new_page(viewport={"width": 1200, "height": 800})
    page.asked, page.said = [], []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.on("console", lambda said: page.said.append(said.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.address = (made / request.param).as_uri()
    page.goto(page.address)
    yield page
    page.close()


def test_nothing_is_loaded_and_nothing_fails(page):
    page.evaluate("document.querySelectorAll('button').forEach((button) => button.click())")
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    page.evaluate("document.querySelectorAll('audio').forEach((audio) => audio.load())")
    assert [url for url in page.asked if not url.startswith(("data:", page.address))] == []
    assert page.said == []


def test_every_picture_is_there_and_said_in_words(page):
    images = page.evaluate("[...document.images].map((i) => [i.complete, i.naturalWidth, i.naturalHeight, i.alt, i.width, i.height])")
    assert len(images) >= (14 if page.address.endswith("index.html") else 2)
    for complete, width, height, alt, shown, tall in images:
        assert complete and width > 100 and len(alt) > 20
        assert shown / tall == pytest.approx(width / height, rel=0.02)


def ordered(keys: list[str], up: bool) -> bool:
    """Empty keys are last; numbers as numbers, words with their numbers as numbers, as people sort."""
    filled = [key for key in keys if key != ""]
    if keys[len(filled):] != [""] * (len(keys) - len(filled)):
        return False
    for one, two in zip(filled, filled[1:]):
        if number(one) is not None and number(two) is not None:
            a, b = number(one), number(two)
        else:
            a, b = words(one), words(two)
        if (a > b) if up else (a < b):
            return False
    return True


def number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?\d+\.?\d*(e[-+]?\d+)?", text) else None


def words(text: str) -> list:
    """Letters without their case and marks, which the collation looks at last."""
    return [(0, int(part)) if part.isdecimal() else (1, re.sub(r"[^a-z]", "", part.lower()))
            for part in re.split(r"(\d+)", text) if part.isdecimal() or re.sub(r"[^a-z]", "", part.lower())]


def test_every_table_sorts(page):
    columns = page.evaluate(SORTS)
    assert len(columns) >= (60 if page.address.endswith("index.html") else 15)
    assert page.evaluate("[...document.querySelectorAll('table:not(.hyps)')].every((table) => table.querySelector('th button'))")
    for column in columns:
        (said, first), (then, second) = column["first"], column["second"]
        assert said == column["rule"] and {said, then} == {"ascending", "descending"}
        assert sorted(first) == sorted(second) == sorted(column["before"])
        assert ordered(first, said == "ascending"), column
        assert ordered(second, then == "ascending"), column
        if len({key for key in first if key}) > 1:
            assert first != second, column["name"]


def test_a_phone_shows_all_without_moving_sideways(page):
    page.set_viewport_size({"width": PHONE, "height": 740})
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    wide = page.evaluate("""(width) => [...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroll")
        && e.getBoundingClientRect().right > width + 1).map((e) => e.outerHTML.slice(0, 120))""", PHONE)
    assert wide == []


def test_headings_are_in_order_and_the_contents_lead_to_them(page):
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))
    links = page.evaluate("[...document.querySelectorAll('nav a, .contents a')].map((a) => a.getAttribute('href').slice(1))")
    sections = page.evaluate("[...document.querySelectorAll('main section')].map((s) => s.id)")
    assert set(sections) <= set(links) and all(page.locator(f"[id='{link}']").count() == 1 for link in links)


def test_it_prints_whole(page):
    """The outline of the PDF names all headings; on paper nothing is folded away, cut off or scrolled."""
    pdf = page.pdf(outline=True, tagged=True, prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF-")
    printed = [title.decode("latin-1").replace("\\(", "(").replace("\\)", ")") for title in re.findall(rb"/Title \((.*?)(?<!\\)\)", pdf)]
    for title in page.evaluate("[...document.querySelectorAll('h2, h3')].map((h) => h.textContent.trim())"):
        assert not title.isascii() or title in printed
    folded = page.locator("details:not([open])").count()
    page.set_viewport_size({"width": PAPER, "height": 700})
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every((details) => details.open)")
    cut = page.evaluate("""(width) => [...document.querySelectorAll("main *")].filter((e) =>
        e.getBoundingClientRect().right > width + 1 || ["auto", "scroll"].includes(getComputedStyle(e).overflowX))
        .map((e) => e.outerHTML.slice(0, 120))""", PAPER)
    assert cut == []
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == folded > 0 or page.address.endswith("compare.html")


def test_players_have_sound(page):
    found = page.evaluate("""async () => Promise.all([...document.querySelectorAll("audio")].map((audio) => new Promise((ready) => {
        audio.addEventListener("loadedmetadata", () => ready(audio.duration));
        audio.addEventListener("error", () => ready(0));
        audio.preload = "metadata"; audio.load(); })))""")
    if page.address.endswith("index.html"):
        assert len(found) == 4 + 2 + 2  # an utterance per task, two sounds of a trial; two of an analysis
    assert all(duration == pytest.approx(0.6, abs=0.1) for duration in found)


def test_the_screenshot_tool(chromium, made, tmp_path):
    """Of a phone's window, and of one element; what is not there is said."""
    def shot(*words):
        tool = Path(__file__).resolve().parents[1] / "tools/screenshot.py"
        return subprocess.run([sys.executable, str(tool), *map(str, words)], capture_output=True, text=True, timeout=120)

    assert shot(made / "index.html", tmp_path / "phone.png", "--width", 390, "--height", 700).returncode == 0
    assert png_size(tmp_path / "phone.png") == (390, 700)
    assert shot(made / "index.html", tmp_path / "heat.png", "--selector", "#generation .heat", "--scale", 2).returncode == 0
    width, height = png_size(tmp_path / "heat.png")
    assert width > 1500 and height > 1000
    assert "nothing matches --selector '#nowhere'" in shot(made / "index.html", tmp_path / "x.png", "--selector", "#nowhere").stderr
    assert not (tmp_path / "x.png").exists()


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
