from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from specbench.report.compare import compare_runs
from specbench.report.reader import read_run
from specbench.report.render import render_comparison, render_run
from specbench.report.sheet import amount, fixed, percent, times

METHODS = ["baseline", "exact", "sigmoid", "fused", "block"]


def printed(show, *arguments, **options):
    stream = io.StringIO()
    show(*arguments, console=Console(file=stream, width=100, highlight=False), **options)
    return stream.getvalue()


@pytest.fixture
def main_table(write_run):
    return lambda rows, **metadata: printed(render_run, read_run(write_run(rows, **metadata)))


@pytest.fixture
def comparison_of(write_run):
    def render(*runs, output_format="table"):
        found = compare_runs([read_run(write_run(rows)) for rows in runs])
        return printed(render_comparison, found, output_format=output_format)

    return render


def line_with(text, *words):
    return next(line for line in text.splitlines() if all(word in line for word in words))


def words_of(text):
    """On one line, wherever the page broke it."""
    return " ".join(text.split())


def test_the_main_table(main_table, demo):
    text = main_table(demo())
    assert text.splitlines()[0].startswith("demo-lm · summarization · batch 1 · temperature 1")
    assert "rouge1" in text
    fused = line_with(text, "fused", "2.50").split()
    assert fused == ["2", "fused", "2.50", "75.0", "20.0", "2.00×", "100", "0.1", "0.500"]
    plain = line_with(text, "0  baseline").split()
    assert plain == ["0", "baseline", "1.00", "–", "10.0", "1.00×", "50.0", "0.1", "0.500"]


def test_the_fastest_exact_method_is_named_and_an_approximation_is_not(main_table, demo):
    text = main_table(demo())
    assert "fastest exact: fused at γ = 2: 2.00× over plain decoding\n" in text
    assert "sigmoid ≈" in text
    assert "≈ approximation: the output does not follow the target's law" in text


def test_a_slow_winner_is_not_praised(main_table, row, plain):
    text = main_table([plain(), row(wall_s=2.0)])
    assert "fastest exact: fused at γ = 2: 0.50× plain decoding, which is faster" in text


def test_without_plain_decoding_there_is_no_speedup(main_table, row):
    text = main_table([row()])
    assert "20.0 tokens/s (no γ = 0 in this run to hold it against)" in text


def test_unknown_exactness_is_said(main_table, row, plain):
    text = main_table([plain(), row(method="mine")])
    assert "mine ?" in text
    assert "fastest of methods not known to be exact: mine" in text


def test_unsteady_figures_are_marked_and_explained(main_table, row, plain):
    text = main_table([plain(), row(step_verify_us=[50.0, 100.0, 100.0, 200.0])])
    fused = line_with(text, "fused", "2.50")
    assert "20.0~" in fused
    assert "2.00×~" in fused
    assert "100~" in fused
    reasons = "fewer than 3 repeats; verify time spread over 10% between steps"
    assert f"~ unsteady: {reasons}" in text
    assert "(unsteady: fewer than 3 repeats)" in text


def test_a_stall_that_the_median_hides_is_marked_in_the_share(main_table, row, plain):
    steps = [100.0] * 19 + [50_000.0]
    fused = row(step_verify_us=steps, verify_steps=20, verify_s=sum(steps) / 1e6)
    text = main_table([plain(), fused])
    assert "100 " in line_with(text, "fused")
    assert "10.4~" in line_with(text, "fused")
    assert "share of the wall more than 2 times its median step's" in words_of(text)
    steady = row(step_verify_us=steps[:19], verify_steps=19, verify_s=1.9e-3)
    assert "0.4~" not in main_table([plain(), steady])


def test_steady_figures_are_not_marked(main_table, demo):
    assert "~" not in main_table(demo())


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["torch", "torch"], "as torch ops on cpu; the CUDA kernels are not in this run"),
        (["torch", "cuda"], "verify on cpu: baseline as torch ops; fused as CUDA kernels"),
        (["cuda", "cuda"], "verify on cpu: baseline, fused as CUDA kernels"),
    ],
)
def test_what_the_verify_step_ran_as(main_table, row, kinds, words):
    methods = zip(["baseline", "fused"], kinds, strict=True)
    assert words in main_table([row(method=m, implementation=kind) for m, kind in methods])


def test_failures_and_skips_are_listed_with_their_reason(main_table, row):
    failed = row(sample_id="s1", status="failed", error="CUDA out of memory")
    skipped = row(method="block", status="skipped", error="block needs γ > 0")
    text = main_table([row(), failed, skipped])
    assert "fused at γ = 2: 1 of 2 sequences failed: CUDA out of memory" in text
    assert "block at γ = 2: skipped: block needs γ > 0" in text


def test_each_group_has_its_table(main_table, row):
    text = main_table([row(batch_size=1), row(batch_size=8, top_k=50)])
    assert "batch 1 · temperature 1 · native" in text
    assert "batch 8 · temperature 1 · top-k 50 · native" in text


def test_markup_in_a_name_is_no_markup(main_table, row):
    assert "[bold]x[/bold]" in main_table([row(method="[bold]x[/bold]")])


def test_compare_shows_the_changes(comparison_of, demo):
    text = comparison_of(demo())
    fused = line_with(text, "fused", "-50.0").split()
    assert fused == [
        *["2", "fused", "100", "-50.0", "2.50", "+0.0", "75.0", "+0.0", "20.0", "+60.0"],
        *["2.00×", "0.500", "+0.000"],
    ]
    assert "Δ against baseline at the same γ" in text
    assert line_with(text, "sigmoid").split()[-1] == "-0.300"


def metered(rows):
    """Batches of 20 s, long enough for any counter: 5 J a token where something drafts, else 8 J."""
    return [
        r | {"energy_j": 50.0 if r["gamma"] != "0" else 80.0, "batch_wall_s": 20.0, "wall_s": 20.0}
        for r in rows
    ]


def test_energy_per_token_is_in_compare_where_it_was_measured(comparison_of, main_table, demo):
    rows = metered(demo())
    text = comparison_of(rows)
    assert "J/token" in text
    assert line_with(text, "fused", "0.500").split()[-3:] == ["5.00", "0.500", "+0.000"]
    assert line_with(text, "baseline", "8.00")
    least = "energy of the whole GPU is least with baseline at γ = 2: 5.00 J a token, plain"
    assert least in words_of(text)
    assert "J/token" not in main_table(rows), "which is as wide as it can be"
    assert least in words_of(main_table(rows))
    some = [row if row["method"] == "fused" else row | {"energy_j": None} for row in rows]
    assert line_with(comparison_of(some), "sigmoid").split()[-3] == "–"
    for show in (comparison_of, main_table):
        assert "energy" not in show(demo())
        assert "J/token" not in show(demo())


def test_without_baseline_the_table_has_no_delta(comparison_of, row):
    text = comparison_of([row(), row(method="block")])
    assert "Δ " not in text.replace("no Δ", "")
    assert "no rows of baseline: no Δ" in text
    assert line_with(text, "fused", "2.50")


def test_runs_against_each_other(comparison_of, row):
    text = comparison_of(
        [row(), row(method="block")],
        [row(wall_s=0.25), row(gamma="4", step_verify_us=[200.0] * 4)],
        [row(wall_s=1.0)],
    )
    assert line_with(text, "2.000").split()[1] == "fused"
    assert line_with(text, "0.500~").split()[1] == "fused"
    assert "block at γ = 2 (demo-lm" in text
    assert "fused at γ = 4 (demo-lm" in text
    assert text.count("only in ") == 2


def realistic(row, plain):
    rows = [plain(method=method, repeat=0) for method in METHODS]
    for gamma in ["1", "2", "8", "128", "heuristic"]:
        for method in METHODS:
            speed = {"step_verify_us": [12345.6] * 4, "wall_s": 0.0123}
            rows.append(row(method=method, gamma=gamma, **speed))
    return rows


def test_tables_fit_a_hundred_columns(main_table, comparison_of, row, plain):
    rows = realistic(row, plain)
    for text in [main_table(rows), comparison_of(rows, rows)]:
        assert max(len(line) for line in text.splitlines()) <= 100
        assert "…" not in text


def test_a_narrow_terminal_cuts_no_figure(write_run, demo):
    stream = io.StringIO()
    render_run(read_run(write_run(demo())), Console(file=stream, width=40))
    assert "2.00×" in stream.getvalue()
    assert "…" not in stream.getvalue()


def test_markdown(comparison_of, demo):
    text = comparison_of(demo(), output_format="markdown")
    tables, sure = (
        [line for line in part.splitlines() if line.startswith("|")]
        for part in text.split("### how sure")
    )
    assert len(tables) == 2 + 4
    assert len(sure) == 2 + 3  # at γ = 0 there is nothing to hold a method against
    assert len({line.count("|") for line in tables}) == 1
    assert "verify µs/step" in tables[0]
    assert "**20.0**" in line_with(text, "| fused |")
    assert "- fastest exact: fused" in text


def test_json_is_unrounded_and_null_where_not_known(comparison_of, demo, row):
    text = comparison_of(demo(), [*demo(), row(gamma="8")], output_format="json")
    found = json.loads(text, parse_constant=pytest.fail)
    assert [len(run["groups"]) for run in found["runs"]] == [1, 1]
    plain = found["runs"][0]["groups"][0]["cases"][0]
    assert plain["alpha"] is None
    assert (plain["method"], plain["gamma"], plain["exact"]) == ("baseline", "0", True)
    assert plain["tokens_per_s"] == 10.0
    assert len(found["across"]) == 4
    assert [line["gamma"] for line in found["alone"]] == ["8"]


def test_numbers():
    assert [amount(x) for x in [1234.5, 12.34, 1.234, 0.0, float("nan")]] == [
        *["1,234", "12.3", "1.23", "0.00", "–"]
    ]
    assert [fixed(x, 3, sign=True) for x in [0.1, -0.1, -0.0001]] == ["+0.100", "-0.100", "+0.000"]
    assert (percent(0.123), percent(-0.5, sign=True), times(1.624)) == ("12.3", "-50.0", "1.62×")


def batched(row, plain, size, speedup=2.0, **changed):
    """Plain decoding at 10 tokens/s a sequence, and fused at γ = 2, three repeats of one batch."""
    how = {"batch_size": size, "execution": "graphs", "attention": "pad"} | changed
    whole = {"batch_wall_s": 1.0 / speedup, "wall_s": 1.0 / speedup}
    return [
        one
        for repeat in range(3)
        for i in range(size)
        for one in (
            plain(repeat=repeat, sample_id=f"s{i}", batch_wall_s=1.0, **how),
            row(repeat=repeat, sample_id=f"s{i}", **(whole | how)),
        )
    ]


def test_a_batch_shows_latency_and_throughput(main_table, row, plain):
    text = main_table(batched(row, plain, 4))
    assert line_with(text, "tokens/s", "PTL")
    fused = line_with(text, "fused", "2.50").split()
    assert fused[:7] == ["2", "fused", "2.50", "75.0", "80.0", "2.00×", "50.0"]
    assert "a sequence's time per token, is lowest with fused at γ = 2: 50.0 ms" in words_of(text)


def test_the_first_and_the_last_sequence_to_finish_are_named(main_table, row, plain):
    rows = batched(row, plain, 2)
    for one in rows:
        if one["gamma"] == "2" and one["sample_id"] == "s0":
            one["wall_s"] = 0.3
    sentence = "40.0 ms (first finished 30.0, last 50.0); plain decoding's is 2.50× that"
    assert sentence in words_of(main_table(rows))


def test_a_single_sequence_has_no_latency_column(main_table, demo):
    text = main_table(demo())
    assert "PTL" not in text
    assert "host gap" not in text
    assert "MFU" not in text
    assert "tok/seq" not in text


def test_the_heading_says_how_it_ran(main_table, row):
    how = {"attention": "split", "execution": "graphs", "load_format": "dummy", "batch_size": 8}
    text = main_table([row(**how, prompt_lengths="128,2048", refill=True, dtype="bfloat16")])
    assert words_of(text.split("\n\n")[0]) == (
        "demo-lm · summarization · prompts 128,2048 · batch 8 · temperature 1 · native · split · "
        "graphs · refill · bfloat16 · dummy weights"
    )
    assert "weights are random: the pair's in shape alone, and τ, α and quality are not its" in text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"execution": "eager"}, {"execution": "graphs"}),
        ({"attention": "pad"}, {"attention": "split"}),
        ({"load_format": "auto"}, {"load_format": "dummy"}),
    ],
)
def test_what_ran_otherwise_has_a_table_of_its_own(main_table, row, one, other):
    assert main_table([row(**one), row(**other)]).count("fastest exact") == 2


def test_host_gap_and_utilisation_where_the_machine_tells(main_table, row, plain):
    rows = batched(row, plain, 2, host_gap_s=0.25, mfu=0.0123)
    text = main_table(rows)
    assert "host gap" in text
    assert "50.0" in line_with(text, "fused", "2.50").split()
    assert "25.0" in line_with(text, "0  baseline").split()
    assert "MFU is highest with fused at γ = 2: 1.23 %, plain decoding's 1.23 %" in text


@pytest.mark.parametrize(
    ("mfu", "said"),
    [(0.0004, "0.04 %, plain decoding's 0.04 %"), (0.00041, "0.041 %, plain decoding's 0.041 %"),
     (0.00004, None)],
)  # fmt: skip
def test_utilisation_is_never_said_to_be_nothing(main_table, row, plain, mfu, said):
    text = main_table(batched(row, plain, 2, host_gap_s=0.25, mfu=mfu))
    assert ("MFU" in text) is (said is not None)
    assert said is None or said in text


SYNTHETIC = {"synthetic_acceptance": 0.8, "load_format": "dummy"}


def test_synthetic_acceptance_cannot_be_overlooked(main_table, comparison_of, row, plain):
    rows = batched(row, plain, 2, **SYNTHETIC)
    warning = "acceptance is synthetic (0.8 per draft): nothing here says anything about quality"
    for text in [main_table(rows), comparison_of(rows, rows), comparison_of(rows, rows)]:
        tables = text.count("τ syn")
        assert text.count(warning) == tables > 0
        assert "weights are random: the pair's in shape alone\n" in text
    text = main_table(rows)
    assert "α syn" in text
    assert "synthetic acceptance 0.8" in text.split("\n\n")[0]
    assert line_with(text, "fused", "2.50").split()[-1] == "–", "no quality"
    assert "2.00× over plain decoding, acceptance synthetic" in text


def test_a_real_acceptance_is_not_called_synthetic(main_table, comparison_of, demo):
    assert "syn" not in main_table(demo()) + comparison_of(demo(), demo())


def scenario(**fields):
    return {"resolved_scenario": json.dumps(fields)}


def test_tokens_within_the_scenarios_budget(main_table, row, plain):
    ends = {"step_end_s": [0.1, 0.2, 0.3, 0.4]}
    text = main_table([plain(), row(**ends)], **scenario(time_budget=0.25))
    assert "in 0.25 s" in text
    assert line_with(text, "fused", "2.50").split()[-2] == "6.00"
    assert line_with(text, "0  baseline").split()[-2] == "–", "its file does not say"


@pytest.mark.parametrize(
    "metadata",
    [
        scenario(time_budget=None), scenario(), {"resolved_scenario": None},
        {"resolved_scenario": "{"}, {"resolved_scenario": "[]"},
    ],
)  # fmt: skip
def test_no_budget_no_column(main_table, row, metadata):
    text = main_table([row(step_end_s=[0.1, 0.2, 0.3, 0.4])], **metadata)
    assert "tok/seq" not in text


def test_batch_sizes_are_put_beside_each_other(main_table, comparison_of, row, plain):
    rows = [*batched(row, plain, 8, 0.8), *batched(row, plain, 1, 2.0), *batched(row, plain, 4)]
    for text in [main_table(rows), comparison_of(rows)]:
        table = text[text.index("by batch size: demo-lm · summarization · temperature 1") :]
        assert line_with(table, "0.80×").split() == [
            *["8", "80.0", "2", "fused", "2.50", "64.0", "0.80×", "125", "0.80×"]
        ]
        sizes = [line.split()[0] for line in table.splitlines() if " fused " in line]
        assert sizes == ["1", "4", "8"]
        assert "at batch 8 plain decoding has more tokens/s" in table


def test_drafting_that_pays_everywhere(main_table, row, plain):
    text = main_table([*batched(row, plain, 1), *batched(row, plain, 2)])
    assert "drafting has more tokens/s than plain decoding at each of these batch sizes" in text


def test_a_batch_size_where_nothing_finished_is_left_out(main_table, row, plain):
    failed = row(batch_size=64, execution="graphs", attention="pad", status="failed", error="oom")
    rows = [*batched(row, plain, 1), *batched(row, plain, 2), failed]
    table = main_table(rows).partition("by batch size")[2]
    assert [line.split()[0] for line in table.splitlines() if " fused " in line] == ["1", "2"]


def test_without_drafts_there_is_nothing_to_choose(main_table, row, plain):
    rows = [batched(row, plain, size, **SYNTHETIC)[0] for size in (1, 2)]
    assert "by batch size" not in main_table(rows)


def test_only_batch_sizes_that_differ_in_nothing_else_share_a_table(main_table, row, plain):
    rows = [*batched(row, plain, 1), *batched(row, plain, 2, execution="eager")]
    assert "by batch size" not in main_table(rows)
    rows += [*batched(row, plain, 2), *batched(row, plain, 1, execution="eager")]
    assert main_table(rows).count("by batch size") == 2


def test_tables_of_batches_fit_a_hundred_columns(write_run, row, plain):
    full = {"host_gap_s": 0.123, "mfu": 0.05, "step_end_s": [0.1, 0.2, 0.3, 0.4]} | SYNTHETIC
    rows = []
    for size in (1, 64):
        for method in METHODS:
            how = {"batch_size": size, "method": method, "case_id": method} | full
            rows.append(plain(**how | {"step_end_s": [0.1] * 10, "wall_s": 12.3}))
            for gamma in ["1", "128", "bass"]:
                speed = {"step_verify_us": [12345.6] * 4, "wall_s": 0.0123, "batch_wall_s": 2e-3}
                rows.append(row(**how | {"gamma": gamma} | speed))
    run = read_run(write_run(rows, **scenario(time_budget=2.5)))
    twin = read_run(write_run(rows, **scenario(time_budget=2.5)))
    for text in [
        printed(render_run, run),
        printed(render_comparison, compare_runs([run, twin])),
    ]:
        assert max(len(line) for line in text.splitlines()) <= 100
        assert "…" not in text


def test_an_approximation_says_how_far_its_law_is(main_table, comparison_of, row, plain):
    """Weighted by tokens: (10 · 0.2 + 30 · 0.6) / 40."""
    rough = {"method": "sigmoid", "case_id": "sigmoid-2", "target_logprob": -3.0}
    rows = [
        plain(target_logprob=-0.5), row(target_logprob=-0.5, repetition_4=0.25, distinct_1=0.5),
        row(**rough, law_tv=0.2), row(**rough, law_tv=0.6, sample_id="s1", new_tokens=30),
    ]  # fmt: skip
    text = main_table(rows)
    assert "0.500" in line_with(text, "sigmoid ≈").split()
    assert "TV: total variation" in text
    compared = comparison_of(rows)
    reading = compared[compared.index("how it reads") :]
    assert "-3.000" in line_with(reading, "sigmoid ≈").split()
    assert {"-0.500", "25.0", "0.500"} <= set(line_with(reading, "2  fused").split())


def test_without_an_approximation_there_is_no_variation(main_table, comparison_of, row, plain):
    rows = [plain(), row()]
    assert "TV" not in main_table(rows)
    assert "how it reads" not in comparison_of(rows), "nor a table of what is not known"
