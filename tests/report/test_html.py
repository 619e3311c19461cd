"""The page: whole, escaped, loading nothing, with the tables that `compare` prints."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from specbench.errors import NotComparableError
from specbench.report.compare import compare_runs
from specbench.report.page.html import read_findings, to_html
from specbench.report.reader import read_run
from specbench.report.recommend_text import advice
from specbench.report.render import comparison_sheets

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, all texts, ids; complains of what is not closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


@pytest.fixture
def page(write_run):
    def make(*rows, **metadata):
        runs = [read_run(write_run(part, **metadata)) for part in rows]
        text = to_html(read_findings(runs))
        return text, Page(text)

    return make


def test_every_element_is_closed_and_every_id_is_one_element_s(page, sweep):
    _, found = page(sweep({"fused": {"2": 1.4, "4": 1.6}}))
    assert found.open == []
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [one["href"] for one in found.all("a")]
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_two_runs_of_the_same_cases_share_no_id_and_no_heading(page, sweep):
    rows = sweep({"fused": {"2": 1.4, "4": 1.6}})
    _, found = page(rows, rows)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_it_loads_nothing(page, sweep):
    text, found = page(sweep({"fused": {"2": 1.4, "4": 1.6}}))
    assert not {tag for tag, _ in found.elements} & {"link", "img", "iframe", "object", "embed"}
    for tag, attributes in found.elements:
        assert "src" not in attributes, tag
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in text
    assert "url(" not in re.sub(r"url\(#\w+\)", "", text)


def test_only_our_script_may_run(page, sweep):
    text, found = page(sweep({"fused": {"2": 1.4}}))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(one["content"] for one in found.all("meta") if "http-equiv" in one)
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize(
    "column", ["pair", "task", "dataset", "method", "hypothesis", "device_name", "dtype", "metric"]
)
def test_what_a_file_holds_is_text_and_no_markup(page, sweep, column):
    rows = [row | {column: EVIL} for row in sweep({"fused": {"2": 1.4, "4": 1.6}}, samples=2)]
    text, found = page(rows)
    assert "<script>alert" not in text
    assert len(found.all("script")) == 1
    assert found.all("img") == []
    if column in {"pair", "method", "device_name"}:
        assert any(EVIL in one for one in found.texts)


def test_errors_and_metadata_are_text_too(page, sweep, row):
    rows = sweep({"fused": {"2": 1.4}}, samples=2)
    rows.append(row(case_id="x", status="failed", error=EVIL, repeat=9))
    about = {"argv": ["specbench", EVIL], "scenario": f"name: {EVIL}", "driver": EVIL}
    about |= {"packages": {EVIL: EVIL}, "cpu": {"model": EVIL}, "scenario_name": EVIL}
    about |= {"clocks": {EVIL: EVIL}}
    text, found = page(rows, **about)
    assert "<script>alert" not in text
    assert len(found.all("script")) == 1
    assert any(EVIL in one for one in found.texts)


def test_the_answer_comes_first_and_is_recommend_s(page, sweep):
    text, found = page(sweep({"fused": {"2": 1.4, "4": 1.6}}))
    place = [text.index(f'id="{name}"') for name in ("summary", "figures", "tables", "environment")]
    assert place == sorted(place)
    said = "Draft with fused at γ = 4: 1.60× plain decoding (1.60 to 1.60)."
    assert said in [one.strip() for one in found.texts]


def test_every_table_of_compare_is_on_it_cell_by_cell(write_run, demo):
    run = read_run(write_run(demo()))
    found = Page(to_html(read_findings([run])))
    texts = "\0".join(one.strip() for one in found.texts if one.strip())
    sheets = comparison_sheets(compare_runs([run]))
    assert sheets
    for sheet in sheets:
        assert sheet.title in texts
        for block in sheet.blocks:
            for row in block:
                assert "\0".join(cell.text for cell in row if cell.text) in texts


def test_synthetic_acceptance_and_random_weights_are_marked_on_the_first_screen(page, sweep):
    rows = sweep({"fused": {"2": 1.4}}, synthetic_acceptance=0.5, load_format="dummy")
    text, _ = page(rows)
    summary = text[text.index('id="summary"') : text.index('id="tables"')]
    assert "synthetic acceptance: no quality" in summary
    assert "random weights" in summary


def test_what_has_no_data_is_left_out_with_a_sentence(page, sweep):
    text, _ = page(sweep({"fused": {"2": 1.4}}))
    assert "tokens/s over γ: it takes at least two numbers for γ over 0" in text
    assert "throughput over the batch size: it takes at least two batch sizes" in text


def test_a_run_and_a_file_of_micro_go_together():
    names = ("asr-demo-h100", "micro-paper-h100")
    runs = [read_run(REFERENCE / f"{name}.parquet") for name in names]
    findings = read_findings(runs)
    found = Page(to_html(findings))
    texts = [one.strip() for one in found.texts]
    assert advice(findings.recommendations[0]) in texts
    assert "Roofline of the verify step" in texts
    assert any(one.startswith("Fastest exact at B = 1: fused") for one in texts)


def test_a_run_without_drafts_has_a_page_that_says_so(page, plain):
    text, _ = page([plain(repeat=r) for r in range(3)])
    assert "Note: no run drafted anything" in text


def test_runs_with_nothing_in_common_stand_for_themselves(page, sweep):
    text, _ = page(sweep({"fused": {"2": 1.4}}), sweep({"fused": {"2": 1.4}}, task="code"))
    assert "each run stands for itself" in text


def test_a_run_in_which_nothing_finished_is_refused(page, row):
    with pytest.raises(NotComparableError):
        page([row(status="failed", error="out of memory")])


def test_the_same_files_give_the_same_page(write_run, sweep):
    run = read_run(write_run(sweep({"fused": {"2": 1.4, "4": 1.6}})))
    assert to_html(read_findings([run])) == to_html(read_findings([run]))


def test_a_sheet_s_rows_know_their_place_and_headers_are_buttons(page, sweep):
    _, found = page(sweep({"fused": {"2": 1.4, "4": 1.6}}))
    assert len(found.all("th")) == len(found.all("button"))
    assert all(one["scope"] == "col" for one in found.all("th"))
    assert [one["role"] for one in found.all("svg")] == ["img"] * len(found.all("svg"))
    assert all(one["aria-label"] for one in found.all("svg"))
