"""What is recommended, what is not, and how sure it says it is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from specbench.errors import NotComparableError
from specbench.report import stats
from specbench.report.compare import compare_runs, within
from specbench.report.reader import read_run
from specbench.report.recommend import DRAFT, OPEN, PLAIN, UNKNOWN, recommend
from specbench.report.recommend_render import to_json
from specbench.report.recommend_text import belief, sentence, sheet, support, theory
from specbench.report.render import to_json as compared
from specbench.report.schema import CASE_KEY

REFERENCE = Path(__file__).parents[2] / "results" / "reference"


@pytest.fixture
def advise(write_run):
    def run(rows, allow_approximate=False, **metadata):
        return recommend([within(read_run(write_run(rows, **metadata)))], allow_approximate)

    return run


@pytest.fixture
def one(advise):
    def run(*args, **kwargs):
        (found,) = advise(*args, **kwargs)
        return found

    return run


EXACT = ("fused", "block", "exact", "mine")
CLAIMS = {name: {"exact": True} for name in EXACT}


def names(candidates):
    return [(one.line["method"], one.line["gamma"]) for one in candidates]


def test_the_fastest_exact_method_and_what_it_buys(one, sweep):
    found = one(sweep({"fused": {"2": 1.4, "4": 1.6}, "baseline": {"2": 1.2, "4": 1.3}}))
    assert (found.verdict, names([found.best])) == (DRAFT, [("fused", "4")])
    assert found.best.speedup.value == pytest.approx(1.6)
    assert found.equal == []
    assert sentence(found) == ("Draft with fused at γ = 4: 1.60× plain decoding (1.60 to 1.60).")


def shaken(rows, spread, methods=("fused", "block", "baseline")):
    """Each wall time off by its own luck."""
    random = np.random.default_rng(3)
    return [
        row | {"wall_s": row["wall_s"] * np.exp(random.normal(0, spread))}
        if row["method"] in methods else row
        for row in rows
    ]  # fmt: skip


@pytest.fixture
def made(write_run, sweep, plain):
    """Noisy, plain decoding under two names, a method that lacks a repeat and one that lacks a sample."""
    rows = sweep({"fused": {"2": 1.4, "4": 1.6}, "block": {"4": 1.5}, "baseline": {"2": 1.3}})
    rows += [
        row | {"method": "fused", "case_id": "fused-0"}
        for row in rows
        if row["gamma"] == "0" and row["sample_id"] != "s1"
    ]
    lacking = [
        row for row in rows
        if not (row["method"] == "block" and row["repeat"] == 2 and row["batch_index"] > 0)
        and not (row["case_id"] == "baseline-2" and row["sample_id"] == "s3")
    ]  # fmt: skip
    return write_run(shaken(lacking, 0.05))


@pytest.mark.parametrize(
    "name", ["made", "asr-demo-h100", "demo-cpu", "ablation-h100", "bass-8-h100"]
)
def test_a_speed_up_and_its_interval_are_those_of_compare(name, request):
    path = request.getfixturevalue(name) if name == "made" else REFERENCE / f"{name}.parquet"
    run = read_run(path)
    (judged,) = json.loads(compared(compare_runs([run])))["runs"]
    figures = {
        tuple(one["key"][column] for column in CASE_KEY): one
        for one in judged["verdicts"]
        if one["metric"] == "speedup"
    }
    found = [one for group in recommend([within(run)], True) for one in group.candidates]
    assert len(found) == len(figures) > 0
    for one in found:
        key = tuple(None if one.line[c] != one.line[c] else one.line[c] for c in CASE_KEY)
        figure = figures[key]
        found = (one.evidence.change, *one.evidence.interval())
        expected = [
            math.nan if figure[part] is None else 1 + figure[part]
            for part in ("change", "low", "high")
        ]
        assert np.exp(found) == pytest.approx(expected, rel=1e-12, nan_ok=True)
        ends = (one.speedup.value, one.speedup.low, one.speedup.high)
        assert ends == pytest.approx(
            np.exp((found[0], *one.evidence.interval(0.95))), rel=1e-12, nan_ok=True
        )
        counts = (one.speedup.repeats, one.speedup.samples)
        assert counts == (figure["repeats"], figure["samples"])


def test_few_texts_leave_open_what_their_repeats_agree_on(one, sweep):
    """Each text gains or loses the same in every repeat: of other texts that says little."""
    rows = sweep({"fused": {"2": 1.3}})
    gains = [0.7, 1.6, 0.8, 1.5, 0.7, 1.7, 0.9, 1.4]
    found = one([
        row | {"wall_s": row["wall_s"] / gains[row["batch_index"]]} if row["gamma"] == "2" else row
        for row in rows
    ])  # fmt: skip
    assert found.verdict == OPEN


def test_what_the_noise_hides_is_named_beside_it(one, sweep):
    rows = sweep({"fused": {"4": 1.6}, "baseline": {"4": 1.58}, "block": {"4": 1.2}})
    found = one([
        row | {"wall_s": row["wall_s"] * (1 + 0.04 * (row["repeat"] - 1))}
        if row["method"] == "baseline" and row["gamma"] != "0"
        else row
        for row in rows
    ])  # fmt: skip
    assert (names([found.best]), names(found.equal)) == ([("fused", "4")], [("baseline", "4")])
    assert "Or equally: baseline at γ = 4. The noise hides which is faster." in sentence(found)


def test_a_recommendation_does_not_depend_on_the_order_of_the_rows(one, sweep):
    rows = sweep({"fused": {"2": 1.4, "4": 1.6}, "baseline": {"2": 1.2}})
    assert sentence(one(rows)) == sentence(one(rows[::-1]))


def test_an_approximation_is_out_unless_allowed(one, sweep):
    rows = sweep({"fused": {"2": 1.2}, "sigmoid": {"2": 2.0}})
    strict, loose = one(rows), one(rows, allow_approximate=True)
    assert names([strict.best]) == [("fused", "2")]
    assert [x.excluded for x in strict.candidates] == ["an approximation", ""]
    assert names([loose.best]) == [("sigmoid", "2")]


def test_a_method_of_which_the_file_says_nothing_is_not_taken_for_exact(one, sweep):
    found = one(sweep({"mystery": {"2": 2.0}, "fused": {"2": 1.2}}))
    assert names([found.best]) == [("fused", "2")]
    assert found.candidates[0].excluded == "not known to be exact"


@pytest.mark.parametrize(("metric", "value", "out"), [
    ("rouge1", 0.1, True), ("rouge1", 0.9, False), ("wer", 0.9, True), ("wer", 0.1, False),
])  # fmt: skip
def test_worse_words_are_out_and_which_way_is_worse_is_the_metric_s(one, sweep, metric, value, out):
    """Plain decoding has 0.5 on every sample."""
    rows = sweep({"fused": {"2": 2.0}, "baseline": {"2": 1.2}}, metric=metric)
    changed = [
        row | {"metric_value": value} if row["method"] == "fused" and row["gamma"] == "2" else row
        for row in rows
    ]
    found = one(changed)
    assert bool(found.candidates[0].excluded) == out
    assert names([found.best]) == [("baseline" if out else "fused", "2")]


@pytest.mark.parametrize(("lost", "out"), [(0.0006, False), (0.019, False), (0.021, True)])
def test_quality_has_the_gates_floor(one, sweep, lost, out):
    """Each sample is certainly worse by that; plain decoding has 0.5."""
    rows = [
        row | {"metric_value": 0.5 - lost} if row["gamma"] == "2" else row
        for row in sweep({"fused": {"2": 2.0}})
    ]
    assert (one(rows).best is None) == out


def test_quality_within_its_noise_excludes_nobody(one, sweep):
    rows = sweep({"fused": {"2": 2.0}})
    luck = [0.1, 0.9, 0.4, 0.6, 0.2, 0.7, 0.5, 0.4]  # mean 0.475, plain decoding has 0.5
    changed = [
        row | {"metric_value": luck[row["batch_index"]]} if row["gamma"] == "2" else row
        for row in rows
    ]
    assert one(changed).best is not None


def scored(rows, values, weights=(1.0,)):
    """γ = 2 with these values, sample by sample."""
    return [
        row | {"metric_value": values[row["batch_index"] % len(values)]}
        if row["gamma"] == "2"
        else row
        for row in (
            row | {"metric_weight": weights[row["batch_index"] % len(weights)]} for row in rows
        )
    ]


def test_quality_is_weighed_and_paired_by_sample(one, sweep):
    """Plain decoding has 0.5 on both samples."""
    rows = sweep({"fused": {"2": 1.5}}, samples=2)
    quality = one(scored(rows, [0.6, 0.9], [1.0, 3.0])).best.quality
    assert quality.value == pytest.approx((0.1 + 3 * 0.4) / 4)
    assert quality.low < quality.value < quality.high
    assert (quality.repeats, quality.samples) == (3, 2)


def test_a_sample_s_repeats_are_no_more_evidence_of_quality_than_one(one, sweep):
    values = [0.2, 0.6, 0.3, 0.7]
    once, thrice = (
        one(scored(sweep({"fused": {"2": 1.5}}, repeats=repeats), values)).best.quality
        for repeats in (1, 3)
    )
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high))


def test_a_sample_that_one_of_both_has_not_scored_is_left_out(one, sweep):
    rows = sweep({"fused": {"2": 1.5}}, samples=3)
    assert one(scored(rows, [0.6, None, 0.9])).best.quality.value == pytest.approx(0.25)
    nothing = one(scored(rows, [None])).best.quality
    assert math.isnan(nothing.value)
    assert not nothing.known


def test_plain_decoding_under_two_names_is_one_text(one, sweep):
    """Rounding must not make it a difference that is certain."""
    rows = sweep({"fused": {"2": 1.5}}, metric_value=0.1, metric_weight=3.0)
    twins = [row | {"method": "fused", "case_id": "fused-0"} for row in rows if row["gamma"] == "0"]
    quality = one(rows + twins).best.quality
    assert (quality.value, quality.low, quality.high) == (0, 0, 0)


def test_drafting_that_costs_more_than_it_gains_is_not_recommended(one, sweep):
    found = one(sweep({"fused": {"2": 0.8, "4": 0.7}}))
    assert found.verdict == PLAIN
    assert sentence(found).startswith("Decode plainly: fused at γ = 2, the fastest, is 0.80×")


def test_a_gain_within_the_noise_is_open(one, sweep):
    rows = sweep({"fused": {"2": 1.02}})
    found = one([
        row | {"wall_s": row["wall_s"] * (1 + 0.05 * (row["repeat"] - 1))}
        if row["gamma"] == "2" else row
        for row in rows
    ])  # fmt: skip
    assert (found.verdict, support(found)) == (OPEN, "weakly supported")
    assert "holds 1.03×" in belief(found)


@pytest.mark.parametrize("seed", range(5))
def test_less_than_the_gates_floor_is_nothing_to_draft_for(one, sweep, seed):
    """Sixteen cases that are truly 0.3 % apart, each the same in all repeats: some are surely past 1."""
    random = np.random.default_rng(seed)
    gains = {m: {g: math.exp(random.normal(0, 0.003)) for g in ("1", "2", "4", "8")} for m in EXACT}
    found = one(shaken(sweep(gains), 0.0005, EXACT), methods=CLAIMS)
    assert found.best.speedup.low > 1
    assert (found.verdict, found.among) == (PLAIN, 16)
    assert "stays under 1.03×" in belief(found)


def test_luck_in_the_choice_of_the_fastest_is_not_taken_for_a_gain(one, sweep):
    """Drafting buys nothing, and each repeat and case has its own luck: one of sixteen is lucky."""
    verdicts = []
    for seed in range(12):
        random = np.random.default_rng(seed)
        rows = [
            row | {"wall_s": row["wall_s"] * luck[row["case_id"], row["repeat"]]}
            for luck in [
                {
                    (f"{m}-{g}", r): math.exp(random.normal(0, 0.05))
                    for m in (*EXACT, "baseline")
                    for g in "01248"
                    for r in range(3)
                }
            ]
            for row in sweep({m: dict.fromkeys("1248", 1.0) for m in EXACT}, samples=4)
        ]
        verdicts.append(one(rows, methods=CLAIMS).verdict)
    assert DRAFT not in verdicts


def test_an_interval_that_only_the_choice_widens_is_said_to_be(one, sweep):
    """Fast beyond doubt alone, but the fastest of sixteen."""
    walls = {0: 0.97, 1: 1.0, 2: 1.03}
    rows = [
        row | {"wall_s": row["wall_s"] * (walls[row["repeat"]] if row["gamma"] != "0" else 1)}
        for row in sweep({m: dict.fromkeys("1248", 1.14) for m in EXACT})
    ]
    about = {"methods": CLAIMS}
    found = one(rows, **about)
    alone = [row for row in rows if row["case_id"] == "fused-2" or row["gamma"] == "0"]
    assert one(alone, **about).verdict == DRAFT
    assert (found.verdict, support(found)) == (DRAFT, "supported with reservations")
    assert "the fastest of 16: widened for that choice, its interval holds 1× (0." in belief(found)
    assert "the fastest of" not in belief(one(alone, **about))


def test_one_repeat_is_never_well_supported(one, sweep):
    found = one(sweep({"fused": {"2": 1.5}}, repeats=1))
    assert (found.verdict, support(found)) == (DRAFT, "weakly supported")
    assert "fewer than 3 repeats" in belief(found)
    assert not found.best.speedup.known


def test_three_repeats_of_enough_samples_without_a_fault_are_well_supported(one, sweep):
    rows = sweep({"fused": {"2": 1.5}}, implementation="cuda", device_name="a GPU")
    found = one(rows)
    assert belief(found).startswith("Well supported: 3 repeats of 8 batches")


@pytest.mark.parametrize(("changed", "doubt"), [
    ({"throttle_reasons": ["sw_thermal_slowdown"]}, "the GPU slowed down (sw_thermal_slowdown)"),
    ({"load_format": "dummy"}, "weights are random"),
    ({"synthetic_acceptance": 0.5}, "acceptance is synthetic: this holds for 50% of drafts accepted"),
    ({"implementation": "torch"}, "of the CUDA kernels this says nothing"),
])  # fmt: skip
def test_what_speaks_against_it_is_said(one, sweep, changed, doubt):
    assert doubt in belief(one(sweep({"fused": {"2": 1.5}}, **changed)))


def test_a_card_at_its_power_limit_speaks_not_against_a_ratio_within_its_run(one, sweep):
    assert "slowed down" not in belief(
        one(sweep({"fused": {"2": 1.5}}, throttle_reasons=["sw_power_cap"]))
    )


def test_few_samples_and_an_interrupted_run_are_said(one, sweep):
    assert "2 samples: other texts may do otherwise" in belief(
        one(sweep({"fused": {"2": 1.5}}, samples=2))
    )
    (found,) = recommend([within(read_run(REFERENCE / "whisper-gamma-h100.parquet"))])
    assert "interrupted" in belief(found)


def test_a_method_that_failed_throughout_is_not_passed_over_in_silence(one, sweep, row):
    lost = row(method="block", case_id="block-2", status="failed", error="out of memory")
    found = one([*sweep({"fused": {"2": 1.5}}), lost])
    assert names(found.candidates) == [("fused", "2")]
    assert "1 sequence failed (1 of block at γ = 2)" in belief(found)


def failing(rows, samples):
    """Of fused all but the first of them failed."""
    return [
        row | {"status": "failed", "error": "out of memory"}
        if row["method"] == "fused" and row["batch_index"] in samples
        else row
        for row in rows
    ]


def test_a_method_that_failed_where_plain_decoding_did_not_is_out(one, sweep):
    rows = failing(sweep({"fused": {"2": 2.0}, "block": {"2": 1.3}}), range(1, 8))
    found = one(rows, methods=CLAIMS)
    assert names([found.best]) == [("block", "2")]
    assert found.candidates[0].excluded == "failed sequences: 21 of 24"
    assert sheet(found).blocks[0][0][-1].text == "failed sequences: 21 of 24"
    assert "21 sequences failed (21 of fused at γ = 2)" in belief(found)


def test_what_plain_decoding_cannot_do_either_excludes_nobody(one, sweep):
    rows = [
        row | {"status": "failed"} if row["batch_index"] == 0 else row
        for row in sweep({"fused": {"2": 1.5}})
    ]
    assert one(rows).best is not None


def test_failures_of_another_task_say_nothing_of_this_one(advise, sweep, row):
    lost = row(method="block", case_id="block-2", task="code", status="failed")
    (found,) = advise([*sweep({"fused": {"2": 1.5}}), lost])
    assert "failed" not in belief(found)


def test_the_recommended_case_s_own_samples_count(one, sweep):
    rows = [
        row
        for row in sweep({"fused": {"2": 1.5}, "baseline": {"2": 1.1}})
        if row["case_id"] != "fused-2" or row["batch_index"] < 3
    ]
    assert "3 samples: other texts may do otherwise" in belief(one(rows))


def test_synthetic_acceptance_has_no_quality_to_compare(one, sweep):
    found = one(sweep({"fused": {"2": 1.5}}, synthetic_acceptance=0.5))
    assert math.isnan(found.best.quality.value)


def test_without_plain_decoding_nobody_knows_whether_it_pays(one, sweep):
    rows = [row for row in sweep({"fused": {"2": 1.5, "4": 1.7}}) if row["gamma"] != "0"]
    found = one(rows)
    assert (found.verdict, names([found.best])) == (UNKNOWN, [("fused", "4")])
    assert "γ = 0 was not run" in sentence(found)
    assert math.isnan(found.best.speedup.value)


def test_nothing_drafted_is_nothing_to_choose_from(advise, plain):
    with pytest.raises(NotComparableError, match="no run drafted anything"):
        advise([plain(repeat=r) for r in range(3)])


def test_each_batch_size_temperature_and_task_has_its_own(advise, sweep):
    rows = [
        row
        for changed in ({}, {"batch_size": 8}, {"temperature": 0.5}, {"task": "code"})
        for row in sweep({"fused": {"2": 1.5}}, samples=2, repeats=2, **changed)
    ]
    assert len(advise(rows)) == 4


def test_the_drafts_of_one_target_compete(one, sweep):
    small = sweep({"fused": {"2": 1.5}}, pair="big/small", target="big", draft="small")
    tiny = sweep({"fused": {"2": 1.8}}, pair="big/tiny", target="big", draft="tiny")
    found = one(small + tiny)
    assert found.best.line["pair"] == "big/tiny"
    assert [row[2].text for row in sheet(found).blocks[0]] == ["big/tiny", "big/small"]


def test_the_drafts_of_one_target_compete_across_files(write_run, sweep):
    withins = [
        within(read_run(write_run(sweep({"fused": {"2": speedup}}, target="big", **pair), run_id)))
        for speedup, pair, run_id in [
            (1.5, {"pair": "big/small"}, "aaaaaaaa"), (1.8, {"pair": "big/tiny"}, "bbbbbbbb"),
        ]
    ]  # fmt: skip
    (found,) = recommend(withins)
    assert found.best.line["pair"] == "big/tiny"
    assert found.equal == []


def test_a_file_without_plain_decoding_undoes_nothing_that_is_known(write_run, sweep):
    whole = sweep({"fused": {"2": 1.2, "4": 1.5}})
    faster = [row | {"wall_s": row["wall_s"] / 3} for row in sweep({"fused": {"2": 1.0}})]
    files = [whole, [row for row in faster if row["gamma"] != "0"]]
    withins = [within(read_run(write_run(rows, i))) for rows, i in zip(files, "ab", strict=True)]
    (found,) = recommend(withins)
    assert (found.verdict, names([found.best])) == (DRAFT, [("fused", "4")])
    assert found.best.line["run_id"] == "a"
    assert names(found.candidates) == [("fused", "4"), ("fused", "2"), ("fused", "2")]
    assert found.equal == []
    (row,) = [row for row in sheet(found).blocks[0] if row[0].text == "fused"]
    assert row[-1].text == "recommended"


def test_two_files_of_one_scenario_name_the_run_and_each_gamma_once(write_run, sweep):
    gains = {"fused": {"4": 1.5}, "baseline": dict.fromkeys("1248", 1.49)}
    withins = [
        within(read_run(write_run(shaken(sweep(gains), 0.05), run_id))) for run_id in ("one", "two")
    ]
    (found,) = recommend(withins)
    words = sentence(found)
    assert f"at γ = {found.best.line['gamma']} in run {found.best.line['run_id']}" in words
    assert "at 8 γ" not in words
    assert f"Or equally: {found.best.line['label']} at γ = {found.best.line['gamma']}." not in words
    table = sheet(found)
    assert "run" in [column.name for column in table.columns]
    assert {len(row) for row in table.blocks[0]} == {len(table.columns)}


@pytest.mark.parametrize(("noise", "equal"), [(0.005, False), (0.1, True)])
def test_drafts_of_two_files_are_told_apart_by_the_noise_of_both(write_run, sweep, noise, equal):
    withins = [
        within(read_run(write_run(shaken(sweep({"fused": {"2": gain}}, **about), level), run_id)))
        for gain, level, about, run_id in [
            (1.5, noise, {"pair": "big/small", "target": "big"}, "aaaaaaaa"),
            (1.6, 0.005, {"pair": "big/tiny", "target": "big"}, "bbbbbbbb"),
        ]
    ]  # fmt: skip
    (found,) = recommend(withins)
    assert found.best.line["pair"] == "big/tiny"
    assert bool(found.equal) == equal


def test_the_prediction_is_the_theorem_s(one, sweep):
    """Of 8 drafts in 4 steps at γ = 2 four were kept, and two steps stopped at their first."""
    found = one(sweep({"fused": {"2": 1.5}}))
    said = found.best.prediction
    alpha, c = 4 / 6, 10 / 40
    assert (said.alpha, said.c) == (pytest.approx(alpha), pytest.approx(c))
    assert said.decoding == pytest.approx(stats.predicted_speedup(alpha, 2, c))
    assert said.scoring == pytest.approx(55 / 40)
    assert math.isnan(said.whole)  # nothing says how long the prompt took


def test_the_prompt_is_not_made_faster(one, sweep):
    rows = [
        row | {"prefill_s": 0.5 * (1 + 0.01 * row["repeat"]), "batch_wall_s": row["wall_s"]}
        for row in sweep({"fused": {"2": 1.5}})
    ]
    said = one(rows).best.prediction
    assert said.whole == pytest.approx(1 / (0.5 + 0.5 / said.decoding))


def test_the_prompt_takes_as_long_as_it_was_measured_to_take_with_a_draft(one, sweep):
    prompt_s = {"0": 0.5, "2": 0.7}
    rows = [
        row
        | {"prefill_s": prompt_s[row["gamma"]] * (1 + 0.01 * row["repeat"])}
        | {"batch_wall_s": row["wall_s"]}
        for row in sweep({"fused": {"2": 1.5}})
    ]
    said = one(rows).best.prediction
    assert said.whole == pytest.approx(1 / (0.5 * 1.4 + 0.5 / said.decoding))


def drafted(sweep, gamma, accepted, speedup):
    """α is 0.8 and c 0.1 at every γ, whatever it is."""
    offered = [gamma] * len(accepted)
    steps = {
        "step_gamma": offered, "step_drafted": offered, "step_accepted": accepted,
        "step_draft_us": [4.0 * gamma] * len(accepted),
    }  # fmt: skip
    rows = sweep({"fused": {str(gamma): speedup}})
    return [row | steps for row in rows if row["gamma"] != "0"]


def test_a_gamma_between_two_that_may_be_faster_is_predicted_and_marked(one, sweep):
    """What was measured follows the theorem, so between two γ its curve is what is interpolated."""
    curve = {gamma: stats.predicted_speedup(0.8, gamma, 0.1) for gamma in range(1, 13)}
    rows = drafted(sweep, 1, [1, 1, 1, 1, 0], curve[1]) + drafted(sweep, 12, [4] * 4, curve[12])
    found = one(sweep({}) + rows)
    peak = max(curve, key=curve.__getitem__)
    assert found.best.line["gamma"] == "12"
    assert found.unmeasured.gamma == peak
    assert found.unmeasured.speedup == pytest.approx(curve[peak])
    assert sheet(found).blocks[0][-1][-1].text == "not measured"
    assert f"γ = {peak} may reach" in theory(found)


def test_nothing_is_predicted_outside_of_what_was_run(one, sweep):
    assert one(sweep({"fused": {"4": 1.5}})).unmeasured is None
    assert one(sweep({"fused": {"4": 1.5, "5": 1.6}})).unmeasured is None


def test_json_has_the_sentence_and_no_nan(advise, sweep):
    rows = [row for row in sweep({"fused": {"2": 1.5}}) if row["gamma"] != "0"]
    text = to_json(advise(rows))
    assert "NaN" not in text
    (found,) = json.loads(text)
    assert found["verdict"] == UNKNOWN
    assert found["best"]["method"] == "fused"
    assert found["best"]["speedup"]["value"] is None


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in REFERENCE.glob("*.parquet") if "micro" not in path.name)
)
def test_every_committed_run_can_be_read_so_or_says_why_not(name):
    one_run = within(read_run(REFERENCE / f"{name}.parquet"))
    if (one_run.summary["gamma"] == "0").all():
        with pytest.raises(NotComparableError):
            recommend([one_run])
        return
    for found in recommend([one_run]):
        if found.best is None:  # then there is a reason against each
            assert all(one.excluded for one in found.candidates)
        else:
            assert found.best.line["exact"] is True
        json.loads(to_json([found]))


def test_on_the_speech_run_sigmoid_is_fastest_and_excluded():
    (found,) = recommend([within(read_run(REFERENCE / "asr-demo-h100.parquet"))])
    assert found.candidates[0].line["method"] == "sigmoid"
    assert found.verdict == DRAFT
    (loose,) = recommend([within(read_run(REFERENCE / "asr-demo-h100.parquet"))], True)
    assert loose.candidates[0].excluded.startswith("wer worse than plain decoding's")
    assert loose.best.line["exact"] is True
