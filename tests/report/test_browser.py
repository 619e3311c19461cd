"""The page in headless Chromium: no complaint, no request, sorting, dark, a telephone, paper.

The browser is driven by its DevTools protocol over a pipe, which needs no further package.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from specbench.report.page.html import read_findings, to_html
from specbench.report.reader import read_run

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")

PIPES = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
for fd, place in zip(high, (3, 4)):
    os.dup2(fd, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads its orders from descriptor 3 and answers on 4."""


class Browser:
    """One page of a headless Chromium, and everything it complained of or asked the network for."""

    def __init__(self, profile):
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        flags = "--headless=new --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe"
        command = [CHROMIUM, *flags.split(), f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PIPES, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        self.events = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method, **params):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self):
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 20)
            assert part, "chromium ended"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, path):
        self.events.clear()
        self("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def js(self, expression):
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def width(self, pixels):
        size = {"width": pixels, "height": 800, "deviceScaleFactor": 2, "mobile": pixels < 600}
        self("Emulation.setDeviceMetricsOverride", **size)

    def scheme(self, name, media=""):
        features = [{"name": "prefers-color-scheme", "value": name}]
        self("Emulation.setEmulatedMedia", media=media, features=features)

    def complaints(self):
        kinds = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}
        return [event for event in self.events if event.get("method") in kinds]

    def requests(self):
        sent = [one for one in self.events if one.get("method") == "Network.requestWillBeSent"]
        return [one["params"]["request"]["url"] for one in sent]

    def close(self):
        self._session = None
        self("Browser.close")
        os.close(self._to)
        os.close(self._from)
        self._process.wait(timeout=20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    names = ("asr-demo-h100", "micro-gamma-h100")
    runs = [read_run(REFERENCE / f"{name}.parquet") for name in names]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(to_html(read_findings(runs)), encoding="utf-8")
    return path


@pytest.fixture
def page(browser, path):
    browser.width(1280)
    browser.scheme("light")
    browser.open(path)
    return browser


COLUMN = """
(name) => {
  const isIt = (cell) =>
    [".name", "button"].some((part) => cell.querySelector(part).textContent === name);
  const table = Array.from(document.querySelectorAll("table")).find((one) =>
    Array.from(one.tHead.rows[0].cells).some(isIt));
  const header = Array.from(table.tHead.rows[0].cells).find(isIt);
  const rows = Array.from(table.querySelectorAll("tbody tr"));
  return {header, values: rows.map((row) => row.cells[header.cellIndex].textContent),
          blocks: Array.from(table.tBodies, (body) => body.rows.length)};
}
"""
"""The first column of that name, or of that name and unit."""


def column(page, name):
    return page.js(
        f"(() => {{ const found = ({COLUMN})({name!r}); delete found.header; return found; }})()"
    )


def press(page, name):
    page.js(f"({COLUMN})({name!r}).header.querySelector('button').click()")


def order(page, name):
    return page.js(f"({COLUMN})({name!r}).header.getAttribute('aria-sort')")


def test_it_complains_of_nothing_and_asks_nobody(page, path):
    assert page.complaints() == []
    assert page.requests() == [path.as_uri()]
    assert page.js("document.querySelectorAll('figure svg').length") == 9
    assert page.js("document.title") == "asr_demo + custom · specbench report"


def test_markup_in_a_file_does_not_run(browser, write_run, sweep, tmp_path):
    evil = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
    rows = [
        row | {"pair": evil, "hypothesis": evil} for row in sweep({"fused": {"2": 1.4, "4": 1.6}})
    ]
    path = tmp_path / "evil.html"
    path.write_text(to_html(read_findings([read_run(write_run(rows))])), encoding="utf-8")
    browser.open(path)
    assert browser.js("window.ran") is None
    assert browser.js("document.body.innerText.includes('window.ran = 1')")
    assert browser.requests() == [path.as_uri()]


def test_a_column_sorts_down_up_and_back(page):
    before = column(page, "host gap")
    numbers = [float(value) for value in before["values"]]
    assert numbers != sorted(numbers)
    press(page, "host gap")
    assert order(page, "host gap") == "descending"
    found = [float(value) for value in column(page, "host gap")["values"]]
    assert found == sorted(numbers, reverse=True)
    press(page, "host gap")
    assert order(page, "host gap") == "ascending"
    assert [float(value) for value in column(page, "host gap")["values"]] == sorted(numbers)
    press(page, "host gap")
    assert order(page, "host gap") == "none"
    assert column(page, "host gap") == before


def test_what_has_no_value_comes_last_both_ways(page):
    for direction in ("descending", "ascending"):
        press(page, "α %")
        assert order(page, "α %") == direction
        is_empty = [value == "–" for value in column(page, "α %")["values"]]
        assert is_empty == sorted(is_empty)
        assert is_empty.count(True) not in (0, len(is_empty))


def test_the_keyboard_sorts_too(page):
    page.js(f"({COLUMN})('tokens/s').header.querySelector('button').focus()")
    for kind in ("keyDown", "keyUp"):
        page("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
             windowsVirtualKeyCode=13)  # fmt: skip
    assert order(page, "tokens/s") == "descending"


def test_words_sort_by_the_alphabet_first(page):
    press(page, "method")
    values = column(page, "method")["values"]
    assert order(page, "method") == "ascending"
    assert values == sorted(values)


def test_thousands_are_numbers(page):
    press(page, "tokens/s")
    values = [float(v.replace(",", "")) for v in column(page, "tokens/s")["values"] if v != "–"]
    assert values == sorted(values, reverse=True)
    assert max(values) > 1000


def colours(page):
    """Ground and ink of the page, and the ink of a drawing's axis."""
    return page.js(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        " getComputedStyle(document.querySelector('figure svg text')).fill]"
    )


def test_dark_is_dark_in_the_drawings_too(page):
    light = colours(page)
    page.scheme("dark")
    dark = colours(page)

    def luminance(text):
        return sum(int(part) for part in text[4:-1].split(","))

    assert luminance(light[0]) > 700 > 200 > luminance(light[1])
    assert luminance(dark[0]) < 100 < 600 < luminance(dark[1])
    assert luminance(dark[2]) > 600


def test_paper_is_light_whatever_the_screen_is(page):
    page.scheme("dark", media="print")
    ground, ink, axis = colours(page)
    assert ground == "rgb(255, 255, 255)"
    assert ink == axis
    assert ink != ground
    printed = base64.b64decode(page("Page.printToPDF")["data"])
    assert printed.startswith(b"%PDF")
    assert len(printed) > 50_000


@pytest.mark.parametrize("width", [320, 360, 768])
def test_no_page_scrolls_sideways_and_figures_stay_legible(page, width):
    page.width(width)
    assert page.js("document.documentElement.scrollWidth") <= width
    sizes = page.js(
        "Array.from(document.querySelectorAll('figure svg'), (svg) =>"
        " svg.getBoundingClientRect().width / svg.viewBox.baseVal.width * 8.5)"
    )
    assert min(sizes) > 7.5  # CSS pixels of the smallest axis label


def test_no_text_leaves_its_drawing(page):
    outside = page.js("""
      Array.from(document.querySelectorAll('figure svg text')).filter((text) => {
        const box = text.getBoundingClientRect();
        const drawing = text.ownerSVGElement.getBoundingClientRect();
        return box.left < drawing.left - 1 || box.right > drawing.right + 1
            || box.top < drawing.top - 1 || box.bottom > drawing.bottom + 1;
      }).map((text) => text.textContent)""")
    assert outside == []


def test_every_control_has_a_name(page):
    tree = page("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "link", "img", "region", "table"}
    nameless = [
        node for node in tree
        if node.get("role", {}).get("value") in roles - {"table"}
        and not node.get("name", {}).get("value")
    ]  # fmt: skip
    assert nameless == []


def test_a_screenshot_shows_something(page):
    shot = base64.b64decode(page("Page.captureScreenshot", format="png")["data"])
    assert len(shot) > 30_000
