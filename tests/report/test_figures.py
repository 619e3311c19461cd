"""The figures: drawn where there are data, left out where not, the same bytes each time, legible."""

from __future__ import annotations

import itertools
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from specbench.report.compare import within
from specbench.report.figures import KINDS
from specbench.report.figures.chart import Material, Source
from specbench.report.figures.style import DARK, LIGHT, METHODS, THEMES, series
from specbench.report.micro import read_bench
from specbench.report.papers import write_figures
from specbench.report.reader import read_run
from specbench.report.repeats import by_repeat, case_key

SVG = "{http://www.w3.org/2000/svg}"
REFERENCE = Path(__file__).parents[2] / "results" / "reference"


def material(*paths):
    runs = [read_run(path) for path in paths]
    sources = [Source(within(run)) for run in runs if run.kind == "run"]
    return Material(sources, [read_bench(run) for run in runs if run.kind == "micro"])


def reference(name):
    return material(REFERENCE / f"{name}.parquet")


EXPECTED = {
    "asr-demo-h100": [
        *["gamma-speed", "gamma-tau", "gamma-verify", "phases", "accepted", "law", "gpu"],
    ],
    "sigmoid-range-cpu": [*["phases"] * 3, *["accepted"] * 3, *["law"] * 3, "sigmoid-range"],
    "bass-h100": [*["phases"] * 3, *["accepted"] * 3, "batch-throughput", "batch-latency", "gpu"],
    "attention-h100": [
        *["phases"] * 8,
        *["accepted"] * 8,
        *["batch-throughput", "batch-latency"] * 2,
        "gpu",
    ],
    "micro-paper-h100": ["roofline", "micro-gamma"],
    "micro-gamma-h100": ["roofline", "micro-gamma"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_committed_file_has_the_figures_that_its_data_hold(name):
    charts = [chart for kind in KINDS.values() for chart in kind.charts(reference(name))]
    assert sorted(chart.kind for chart in charts) == sorted(EXPECTED[name])
    for chart in charts:
        ET.fromstring(chart.svg(LIGHT))


def test_nothing_is_drawn_of_a_run_that_decoded_nothing_with_drafts(write_run, plain):
    found = material(write_run([plain(repeat=r) for r in range(2)]))
    drawn = [name for name, kind in KINDS.items() if kind.charts(found)]
    assert drawn == ["phases"]


def test_every_drawing_has_a_file_of_its_own(write_run, sweep, tmp_path):
    rows = [
        row | {"dtype": dtype, "pair": "/a/long/path/" * 12 + f"target+/to/{pair}/draft"}
        for dtype in ("float16", "float32")
        for pair in ("one", "One", "a-name-long-enough-to-hide-what-stands-before-it-" * 2)
        for row in sweep({"fused": {"2": 1.4, "4": 1.6}})
    ]
    run = Path(write_run(rows))
    long = run.rename(run.with_name(f"{'a-long-name-' * 12}.parquet"))
    found = material(long, REFERENCE / "asr-demo-h100.parquet")
    found = Material([Source(one.within, several=True) for one in found.sources], found.benches)
    (folder := tmp_path / "figures").mkdir()
    written = write_figures(found, ["gamma-tau", "gpu"], "svg", folder, "light")
    names = [path.name for path in written]
    assert len({name.casefold() for name in names}) == len(list(folder.iterdir())) == len(names)
    assert not [name for name in names if ".parquet" in name or "-.svg" in name]
    assert sum("float16" in n for n in names if "asr" not in n) == sum(
        "float32" in n for n in names
    )
    assert max(len(name.encode()) for name in names) < 255


def test_the_text_of_an_svg_is_text_and_says_units(write_run, sweep):
    found = material(write_run(sweep({"fused": {"2": 1.4, "4": 1.6}})))
    (chart,) = KINDS["gamma-verify"].charts(found)
    texts = [one.text for one in ET.fromstring(chart.svg(LIGHT)).iter(f"{SVG}text")]
    assert "verify step, µs" in texts
    assert "fused" in texts
    assert "γ, drafted tokens per step" in texts


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_the_same_data_give_the_same_bytes(write_run, sweep, theme):
    found = material(write_run(sweep({"fused": {"2": 1.4, "4": 1.6}})))
    for kind in ("gamma-speed", "phases", "accepted"):
        (chart,) = KINDS[kind].charts(found)
        assert chart.svg(theme) == chart.svg(theme)
        assert chart.png(theme) == chart.png(theme)
        assert b"20" not in b"".join(
            line for line in chart.svg(theme).encode().splitlines() if b"dc:date" in line
        )


def test_a_name_is_neither_markup_nor_a_formula(write_run, sweep):
    name = "<b>$x_1$ & more</b>"
    found = material(write_run(sweep({name: {"2": 1.4, "4": 1.6}})))
    (chart,) = KINDS["gamma-speed"].charts(found)
    drawn = chart.svg(LIGHT)
    assert "<b>" not in drawn
    assert name in [one.text for one in ET.fromstring(drawn).iter(f"{SVG}text")]


def test_the_user_s_own_settings_of_matplotlib_change_nothing(write_run, sweep):
    from matplotlib import rc_context

    found = material(write_run(sweep({"fused": {"2": 1.4, "4": 1.6}})))
    (chart,) = KINDS["gamma-speed"].charts(found)
    drawn = chart.svg(LIGHT)
    with rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path"}):
        assert chart.svg(LIGHT) == drawn


def test_the_band_is_between_whole_repeats(write_run, row):
    rows = [
        row(repeat=repeat, sample_id=f"s{sample}", batch_index=sample, wall_s=0.5 + 0.1 * repeat)
        for repeat, samples in ((0, 2), (1, 2), (2, 1))  # the third was cut off
        for sample in range(samples)
    ]
    run = read_run(write_run(rows))
    (line,) = within(run).summary.to_dict("records")
    found = by_repeat(run.rows)
    assert found.of(line, "tokens_per_s") == pytest.approx([20, 10 / 0.6])
    assert found.band(line, "tokens_per_s") == pytest.approx((10 / 0.6, 20))
    assert case_key(line) in found.lines


def test_one_repeat_has_no_band(write_run, row):
    run = read_run(write_run([row()]))
    (line,) = within(run).summary.to_dict("records")
    assert np.isnan(by_repeat(run.rows).band(line, "tokens_per_s")).all()


def test_compare_does_not_wait_for_matplotlib():
    code = (
        "import sys; from specbench.report import render, micro_render, compare; "
        "import specbench.cli.app; assert 'matplotlib' not in sys.modules and 'jinja2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def linear(colour):
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2.2's contrast ratio of two colours."""
    light, dark = sorted((linear(c) @ [0.2126, 0.7152, 0.0722] for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_everything_stands_out_from_the_ground(theme):
    assert contrast(theme.ink, theme.ground) >= 7
    assert min(contrast(colour, theme.ground) for colour in theme.series) >= 3


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
BLINDNESS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def lab(rgb):
    """CIE L*a*b* of linear RGB, D65."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(matrix) @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_differ_for_every_eye(theme, blindness):
    """ΔE (CIE 1976) of 2.3 is just noticed. Ours are the first five; markers and dashes tell more."""
    seen = [lab(np.array(BLINDNESS[blindness]) @ linear(colour)) for colour in theme.series]
    apart = {
        pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]])
        for pair in itertools.combinations(range(len(seen)), 2)
    }
    assert min(apart.values()) > 7
    assert min(value for (_, last), value in apart.items() if last < 5) > 12


def test_no_two_series_look_alike_and_a_method_always_looks_the_same():
    labels = [*METHODS, "mine", "yours", "theirs", "sigmoid ±1"]
    styles = series(labels, LIGHT)
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(labels)
    assert len({style.marker for style in styles.values()}) == len(labels)
    assert series(["block", "other"], LIGHT)["block"] == styles["block"]
