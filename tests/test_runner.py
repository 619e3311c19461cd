"""The runner: rows that hold together, order, failures as rows, interruption and resumption."""

from __future__ import annotations

import dataclasses
import functools
import gc
import gzip
import json
from collections import Counter
from contextlib import contextmanager

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import utils

from specbench import pair_run, planning, profiling, rows, runner
from specbench.engine.batch import Generation, Request
from specbench.engine.decoding import Decoding
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.engine.transformers import TransformersEngine
from specbench.errors import InputError, MachineError
from specbench.outcome import Outcome
from specbench.pairs import get_pair, load_pair, pair_specs
from specbench.planning import plan, resolve_device, resolve_execution
from specbench.report.reader import read_run
from specbench.report.schema import SCHEMA
from specbench.report.summary import summarise
from specbench.report.writer import RunWriter
from specbench.runner import execute
from specbench.sampling import registry
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method, methods
from specbench.scenario import Scenario
from specbench.tasks.base import Score, choose, get_task
from specbench.tasks.summarization import Summarization
from specbench.telemetry.environment import cpu_model
from specbench.telemetry.nvml import NvmlSampler
from specbench.telemetry.spans import SpanRecorder, Spans

METHODS = ["baseline", "exact", "sigmoid", "fused", "block"]
KEY = ["case_id", "repeat", "sample_id"]

pytestmark = pytest.mark.usefixtures("no_sync")


class Listener:
    """A `Talk` that remembers."""

    def __init__(self):
        self.stages, self.notices, self.advanced, self.expected = [], [], 0, None

    def stage(self, text):
        self.stages.append(text)

    def notice(self, text):
        self.notices.append(text)

    def total(self, sequences):
        self.expected = sequences

    def advance(self, sequences, text):
        self.advanced += sequences


@dataclasses.dataclass
class Ran:
    outcome: Outcome
    rows: pd.DataFrame
    talk: Listener
    run_id: str
    metadata: dict


@pytest.fixture(scope="session")
def run_in(tiny_pair):
    """Runs a scenario of the tiny pair in a folder and gives what was written."""

    def go(folder, resume=None, **fields):
        talk = Listener()
        small = {
            "pair": tiny_pair.name, "samples": 2, "repeats": 1, "max_new_tokens": 8, "warmup": 0,
            "gamma": "3", "method": "fused",
        }  # fmt: skip
        todo = plan(Scenario.model_validate(small | fields))
        writer = RunWriter(folder, "test", {}, run_id=resume, resume=resume is not None)
        outcome = execute(todo, writer, talk)
        path = writer.finish(complete=not outcome.interrupted)
        run = read_run(path) if path else None
        rows = run.rows if run else pd.DataFrame()
        return Ran(outcome, rows, talk, writer.run_id, run.metadata if run else {})

    return go


@pytest.fixture
def run(run_in, tmp_path):
    """`run_in` a folder of the test's own."""
    return functools.partial(run_in, tmp_path)


@pytest.fixture
def add_method(monkeypatch):
    """Adds methods as another package's entry points would."""
    known = dict(methods())
    monkeypatch.setattr(registry, "methods", lambda: known)

    def add(name, law):
        known[name] = dataclasses.replace(get_method("baseline"), name=name, law=law)

    return add


@pytest.fixture
def calls(monkeypatch):
    """Every call of the engine as (method, seed, γ policy); `calls.fail_at[n]` raises at the n-th."""

    class Calls(list):
        fail_at: dict[int, BaseException]

    seen = Calls()
    seen.fail_at = {}
    original = NativeEngine.generate

    def spy(self, requests, method, policy, *others):
        seen.append((method.name, requests[0].seed, policy))
        if len(seen) - 1 in seen.fail_at:
            raise seen.fail_at[len(seen) - 1]
        return original(self, requests, method, policy, *others)

    monkeypatch.setattr(NativeEngine, "generate", spy)
    return seen


@pytest.fixture(scope="module")
def ran(run_in, tmp_path_factory):
    """One run that many tests look at."""
    return run_in(
        tmp_path_factory.mktemp("run"), method=METHODS, samples=2, repeats=2, max_new_tokens=9,
        gamma="0,1,4,bass", batch_size="1,2", top_k=200,
    )  # fmt: skip


class TestRows:
    @pytest.fixture
    def rows(self, ran):
        return ran.rows

    def test_one_for_each_case_repeat_and_sample(self, ran, rows):
        assert len(rows) == 5 * 4 * 2 * 2 * 2 == ran.outcome.ok
        assert not rows.duplicated(KEY).any()
        assert set(rows["status"]) == {"ok"}
        assert ran.outcome == Outcome(ok=len(rows))

    def test_progress_reaches_its_total(self, ran, rows):
        assert ran.talk.advanced == ran.talk.expected == len(rows)

    def test_columns_are_the_schemas(self, rows):
        assert list(rows.columns) == SCHEMA.names

    def test_what_is_always_known_is_never_null(self, rows):
        unknown_on_a_cpu = {
            "error", "top_p", "sigmoid_alpha", "sigmoid_beta", "verify_kernel_us", "verify_launches",
            "nvml_t_s", "nvml_gpu_util_pct", "nvml_mem_used_bytes", "nvml_power_w",
            "nvml_sm_clock_mhz", "energy_j", "peak_memory_bytes", "mfu", "throttle_reasons",
            "gpu_s", "host_gap_s", "synthetic_acceptance", "prompt_lengths", "audio_s",
            "answer_tokens", "verdict", "law_tv", "energy_coarse_j", "energy_period_s",
            "foreign_processes",
        }  # fmt: skip
        empty = {name for name in rows if rows[name].isna().any()}
        assert empty == unknown_on_a_cpu

    def test_only_sigmoid_has_a_range(self, rows):
        assert rows["sigmoid_alpha"].notna().equals(rows["method"] == "sigmoid")
        assert set(rows["sigmoid_beta"].dropna()) == {1e4}

    def test_counts_are_sums_of_steps(self, rows):
        for _, row in rows.iterrows():
            drafted, accepted = list(row["step_drafted"]), list(row["step_accepted"])
            assert row["verify_steps"] == len(drafted) == len(accepted)
            assert row["drafted"] == sum(drafted)
            assert row["accepted"] == sum(accepted)
            assert all(0 <= a <= d for a, d in zip(accepted, drafted, strict=True))
            for phase in ("random", "draft", "target", "verify", "commit"):
                assert len(row[f"step_{phase}_us"]) == len(drafted)
            assert len(row["step_end_s"]) == len(drafted)

    def test_each_step_adds_its_accepted_drafts_and_one_token(self, rows):
        length = rows[rows["finish_reason"] == "length"]
        assert (length["new_tokens"] == length["accepted"] + length["verify_steps"]).all()
        assert (length["new_tokens"] == 9).all()
        ended = rows[rows["finish_reason"] == "eos"]
        assert (ended["new_tokens"] <= ended["accepted"] + ended["verify_steps"]).all()
        assert set(rows["finish_reason"]) <= {"length", "eos"}

    def test_a_step_drafts_gamma_or_what_is_left(self, rows):
        for _, row in rows[rows["gamma"].isin(["1", "4"])].iterrows():
            assert max(row["step_drafted"]) <= int(row["gamma"])
        assert (rows[rows["gamma"] == "4"]["step_drafted"].map(lambda steps: steps[0]) <= 4).all()

    def test_gamma_0_is_plain_decoding(self, rows):
        plain = rows[rows["gamma"] == "0"]
        assert len(plain) == 5 * 2 * 2 * 2
        assert (plain["drafted"] == 0).all()
        assert (plain["accepted"] == 0).all()
        assert (plain["verify_steps"] == plain["new_tokens"]).all()
        per_sample = plain.groupby(["repeat", "sample_id"])["hypothesis"].nunique()
        assert (per_sample == 1).all(), "plain decoding depends on the method or the batch"

    def test_times_are_positive_and_add_up(self, rows):
        for phase in ("draft", "target", "verify"):
            steps = rows[f"step_{phase}_us"].map(lambda us: sum(float(u) for u in us) / 1e6)
            assert ((steps > 0) | ((phase == "draft") & (rows["drafted"] == 0))).all()
            assert rows[f"{phase}_s"].to_numpy() == pytest.approx(steps.to_numpy(), rel=1e-4)
        assert (rows["ttft_s"] > 0).all()
        assert (rows["ttft_s"] <= rows["wall_s"]).all()
        assert (rows[["draft_s", "target_s", "verify_s"]].sum(axis=1) < rows["wall_s"]).all()

    def test_the_steps_of_a_sequence_end_one_after_the_other(self, rows):
        for _, row in rows.iterrows():
            ends = row["step_end_s"]
            assert ends[0] == pytest.approx(row["start_s"] + row["ttft_s"])
            assert (ends[1:] > ends[:-1]).all()
            assert ends[-1] <= row["start_s"] + row["wall_s"] <= row["batch_wall_s"] * (1 + 1e-9)

    def test_a_batch_has_one_wall_time_and_its_last_sequence_ends_it(self, rows):
        for _, batch in rows.groupby(["case_id", "repeat", "batch_index"]):
            for name in ("batch_wall_s", "prefill_s", "capture_s"):
                assert batch[name].nunique() == 1
            ends = batch["start_s"] + batch["wall_s"]
            assert ends.max() == pytest.approx(batch["batch_wall_s"].iloc[0])
            assert (batch["prefill_s"] > 0).all()
        assert (rows["first_step"] == 0).all()
        assert (rows["capture_s"] == 0).all()

    def test_samples_are_the_tasks_and_the_same_for_every_case(self, rows):
        chosen = {s.sample_id: s for s in choose(get_task("summarization"), "instruction", 2, 0)}
        assert all(set(group["sample_id"]) == set(chosen) for _, group in rows.groupby("case_id"))
        assert all(r.reference == chosen[r.sample_id].reference for r in rows.itertuples())

    def test_quality(self, rows):
        assert set(rows["metric"]) == {"rouge1"}
        assert rows["metric_value"].between(0, 1).all()
        assert (rows["metric_weight"] == 1).all()
        assert all(row["metrics"]["rouge1"] == row["metric_value"] for _, row in rows.iterrows())
        assert (rows["target_logprob"] < 0).all()

    def test_only_an_approximation_that_drafts_has_a_law_of_its_own(self, rows):
        approximate = (rows["method"] == "sigmoid") & (rows["gamma"] != "0")
        assert rows["law_tv"].notna().equals(approximate)
        assert rows["law_tv"].dropna().between(0.01, 1).all()

    def test_how_outputs_read(self, rows):
        assert rows["distinct_1"].between(0, 1, inclusive="right").all()
        assert (rows["distinct_2"] >= rows["distinct_1"]).all()
        assert rows["repetition_4"].between(0, 1, inclusive="left").all()

    def test_a_batch_holds_as_many_rows_as_it_should(self, rows):
        sizes = rows.groupby(["case_id", "repeat", "batch_index"]).size()
        by_case = rows.drop_duplicates("case_id").set_index("case_id")["batch_size"]
        assert all(size == by_case[case] for (case, _, _), size in sizes.items())

    def test_a_sequence_depends_on_its_seed_not_on_its_batch(self, rows):
        """A policy follows the whole batch, so only fixed γ can tell."""
        fixed = rows[rows["gamma"] != "bass"]
        key = ["method", "gamma", "repeat", "sample_id"]
        assert (fixed.groupby(key)["hypothesis"].nunique() == 1).all()

    def test_repeats_have_other_luck(self, rows):
        assert (rows.groupby(["case_id", "sample_id"])["hypothesis"].nunique() > 1).mean() > 0.9

    def test_names_without_folders_of_this_machine(self, rows):
        assert set(rows["target"].map(lambda name: name.count("/"))) == {1}
        assert set(rows["device_name"]) == {cpu_model() or "cpu"}
        assert set(rows["dtype"]) == {"float32"}
        assert set(rows["implementation"]) == {"torch"}


class TestTimes:
    """Rows of a batch of which one sequence was refilled, from spans written by hand."""

    SPANS = Spans(
        start_s=1000.0, wall_s=9.0, capture_s=4.0, prefill_s=1.5, gpu_s=7.0,
        admitted_s={0: 0.0, 1: 5.0}, finished_s={0: 4.5, 1: 9.0}, step_end_s=[2.0, 4.0, 6.0, 8.0],
        random_us=[1.0, 2.0, 3.0, 4.0], draft_us=[10.0, 20.0, 30.0, 40.0],
        target_us=[11.0, 21.0, 31.0, 41.0], verify_us=[12.0, 22.0, 32.0, 42.0],
        commit_us=[13.0, 23.0, 33.0, 43.0],
    )  # fmt: skip

    def test_a_sequence_has_its_own_steps_and_its_own_clock(self):
        late = Generation([1, 2], "length", [3, 3], [0, 0], [3, 3], first_step=2)
        times = rows.times(late, self.SPANS, 1)
        assert (times["start_s"], times["wall_s"], times["ttft_s"]) == (5.0, 4.0, 1.0)
        assert times["step_end_s"] == [6.0, 8.0], "on the batch's clock"
        assert times["step_draft_us"] == [30.0, 40.0]
        assert times["step_commit_us"] == [33.0, 43.0]
        assert times["draft_s"] == pytest.approx(70e-6)

    def test_what_is_the_batchs_is_the_same_in_each_row(self):
        first = Generation([1, 2], "length", [3, 3], [0, 0], [3, 3])
        times = rows.times(first, self.SPANS, 0)
        assert (times["wall_s"], times["batch_wall_s"]) == (4.5, 9.0)
        assert (times["prefill_s"], times["capture_s"]) == (1.5, 4.0)
        assert (times["gpu_s"], times["host_gap_s"]) == (7.0, 2.0)
        assert times["step_target_us"] == [11.0, 21.0]

    def test_a_cpu_has_no_gap(self):
        spans = dataclasses.replace(self.SPANS, gpu_s=None)
        generation = Generation([1], "length", [0], [0], [0])
        times = rows.times(generation, spans, 0)
        assert (times["gpu_s"], times["host_gap_s"]) == (None, None)

    def test_utilisation_of_a_gpu_whose_peak_is_known(self, run, monkeypatch):
        """By the formula, from what the rows say."""
        monkeypatch.setattr(rows, "peak_flops", lambda name, dtype: 1e12)
        ran = run(gamma="0,3", batch_size=2)
        pair = load_pair(get_pair(ran.rows["pair"][0]), "cpu", "auto")
        sizes = [CausalModel(model).parameters for model in (pair.target, pair.draft)]
        for _, batch in ran.rows.groupby("case_id"):
            fed = [
                (row["prompt_tokens"] - 1, sum(gamma + 1 for gamma in row["step_gamma"]))
                for _, row in batch.iterrows()
            ]
            target = sum(prompt + steps for prompt, steps in fed)
            work = 2 * sizes[0] * target
            if batch["gamma"].iloc[0] != "0":
                idle = sum((row["step_gamma"] == 0).sum() for _, row in batch.iterrows())
                work += 2 * sizes[1] * (target - idle)
            share = work / batch["batch_wall_s"].iloc[0] / 1e12
            assert batch["mfu"].tolist() == pytest.approx([share] * 2)

    @pytest.mark.parametrize(("capture_s", "energy"), [(0.0, 5.0), (0.1, None)])
    def test_energy_is_shared_and_none_of_it_is_a_captures(
        self, run, monkeypatch, capture_s, energy
    ):
        windows = []

        def window(self, begin, end):
            windows.append(end - begin)
            return {"energy_j": 10.0}

        original = SpanRecorder.spans
        captured = lambda self: dataclasses.replace(original(self), capture_s=capture_s)  # noqa: E731
        monkeypatch.setattr(SpanRecorder, "spans", captured)
        monkeypatch.setattr(NvmlSampler, "window", window)
        rows = run(batch_size=2).rows
        assert [None if pd.isna(value) else value for value in rows["energy_j"]] == [energy] * 2
        assert windows == pytest.approx([rows["batch_wall_s"][0] + capture_s])

    def test_what_the_gpu_does_not_tell_is_said_once_and_so_is_who_else_is_there(
        self, run, monkeypatch
    ):
        refused = {"nvml_power_w": "Not Supported", "energy_j": "Not Supported"}
        monkeypatch.setattr(NvmlSampler, "gaps", lambda self: refused)
        monkeypatch.setattr(NvmlSampler, "window", lambda *_: {"foreign_processes": ["x (pid 1)"]})
        ran = run()
        assert ran.talk.notices.count("no energy_j, nvml_power_w: Not Supported") == 1
        assert sum("other processes compute on the GPU" in one for one in ran.talk.notices) == 1
        assert [list(one) for one in ran.rows["foreign_processes"]] == [["x (pid 1)"]] * 2


class TestLuckAndOrder:
    def test_every_method_meets_the_same_seeds(self, run, calls):
        run(method=METHODS, gamma="0,2", repeats=2)
        seeds = {}
        for method, seed, _ in calls:
            seeds.setdefault(method, Counter())[seed] += 1
        assert len(seeds) == 5
        assert all(seen == seeds["baseline"] for seen in seeds.values())
        assert len(seeds["baseline"]) == 2 * 2, "one seed for each sample and repeat"

    def test_the_same_seed_is_the_same_luck(self, run):
        first, again = (run(samples=4).rows for _ in range(2))
        assert first["sample_id"].equals(again["sample_id"])
        assert first["hypothesis"].equals(again["hypothesis"])

    def test_another_seed_takes_other_samples(self, run):
        first, other = (run(samples=4, seed=seed).rows for seed in (0, 1))
        assert set(first["sample_id"]) != set(other["sample_id"])

    def test_another_seed_is_other_luck_with_the_same_samples(self, run, monkeypatch):
        def first_samples(task, prompt_style, count, seed):
            return choose(task, prompt_style, count, 0)

        monkeypatch.setattr(pair_run, "choose", first_samples)
        first, other = (run(seed=seed).rows for seed in (0, 1))
        assert first["sample_id"].equals(other["sample_id"])
        assert not (first["hypothesis"] == other["hypothesis"]).any()

    def test_fewer_samples_are_the_first_of_more(self):
        few, many = (choose(get_task("summarization"), "demo", count, 5) for count in (3, 9))
        assert many[:3] == few

    def test_methods_are_interleaved_back_and_forth(self, run, calls):
        run(method="baseline,fused,block", samples=2, repeats=2)
        order = [method for method, _, _ in calls]
        there = ["baseline", "fused", "block"]
        assert order == [*there, *there[::-1], *there[::-1], *there]

    def test_gammas_are_interleaved_too_and_the_order_turns_with_every_sample(self, run, calls):
        """Speed-up over γ = 0 compares neighbours, not the first minute with the last."""
        run(method="baseline,fused", gamma="1,2", samples=2, repeats=2)
        gammas = [policy.gamma for _, _, policy in calls]
        there, back = [1, 1, 2, 2], [2, 2, 1, 1]
        assert gammas == there + back + back + there

    def test_warm_up_is_in_no_figure(self, run, calls):
        ran = run(warmup=2, gamma="1,2")
        assert len(calls) == 2 * 2 + 2 * 2
        assert len(ran.rows) == 2 * 2

    def test_no_garbage_is_collected_on_the_clock(self, run, monkeypatch):
        """It stopped a host for 0.7 s in the middle of a sequence."""
        enabled, original = [], NativeEngine.generate

        def spy(self, *args, **kwargs):
            enabled.append(gc.isenabled())
            return original(self, *args, **kwargs)

        monkeypatch.setattr(NativeEngine, "generate", spy)
        run(method="baseline,fused")
        assert not any(enabled)
        assert len(enabled) == 4
        assert gc.isenabled()

    def test_a_policy_begins_anew_in_each_repeat(self, run, calls):
        run(gamma="bass", repeats=2, warmup=1)
        policies = [id(policy) for _, _, policy in calls]
        assert len(set(policies)) == 3, "warm-up, repeat 0, repeat 1"
        assert policies[1] == policies[2]

    def test_a_pair_is_loaded_once(self, run, monkeypatch):
        loads = []

        def spy(spec, device, dtype, load_format):
            loads.append(dtype)
            return load_pair(spec, device, dtype, load_format)

        monkeypatch.setattr(runner, "load_pair", spy)
        run(task="summarization,code", dtype="float32,bfloat16", repeats=2, max_new_tokens=2)
        assert loads == ["float32", "bfloat16"]


@pytest.fixture(scope="module")
def engine(tiny_pair):
    pair = load_pair(get_pair(tiny_pair.name), "cpu", "auto")
    return NativeEngine(CausalModel(pair.target), CausalModel(pair.draft), pair.eos_tokens)


class TestTwins:
    """What "auto" turns out to be must not be measured twice and summed."""

    def test_are_skipped_with_the_reason(self, run):
        done = run(
            execution="auto,eager", dtype="auto,float32", gamma="0", method=["fused"], samples=1
        )
        assert (done.outcome.ok, done.outcome.skipped) == (1, 3)
        reasons = set(done.rows["error"].dropna())
        assert all(
            reason.startswith("the same as execution auto in dtype auto") for reason in reasons
        )

    def test_auto_is_eager_for_transformers_wherever_it_runs(self):
        gpu = torch.device("cuda", 0)
        found = {
            engine: resolve_execution("auto", gpu, engine) for engine in ("native", "transformers")
        }
        assert found == {"native": "graphs", "transformers": "eager"}


class TestExactness:
    """Laws that no test of a single layer sees."""

    @settings(max_examples=12)
    @given(st.lists(st.integers(3, 258), min_size=1, max_size=40), st.integers(1, 14), st.data())
    def test_greedy_text_is_the_same_for_every_method_and_gamma(self, engine, prompt, limit, data):
        decoding = Decoding(limit, temperature=0.0)
        request = [Request(tuple(prompt))]

        def tokens(method, gamma):
            policy = make_policy(gamma)
            return engine.generate(request, get_method(method), policy, decoding)[0].tokens

        plain = tokens("baseline", "0")
        gamma = data.draw(st.sampled_from(["1", "2", "5", "13", "heuristic", "bass"]))
        assert {name: tokens(name, gamma) for name in METHODS} == dict.fromkeys(METHODS, plain)

    def test_greedy_rows_agree(self, run):
        rows = run(method=METHODS, gamma="0,1,4", temperature=0.0, max_new_tokens=16).rows
        assert (rows.groupby("sample_id")["hypothesis"].nunique() == 1).all()

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_a_draft_that_is_the_target_is_always_accepted(self, run, tiny_pair, temperature):
        rows = run(
            pair=tiny_pair.twins, method="baseline,exact,fused,block", gamma="1,4",
            temperature=temperature, max_new_tokens=24,
        ).rows  # fmt: skip
        assert (rows["drafted"] > 0).all()
        assert (rows["accepted"] == rows["drafted"]).all()


class TestSkipped:
    def test_impossible_cases_are_rows_with_a_reason(self, run):
        ran = run(method="baseline,fused", batch_size="1,2", samples=2, gamma="heuristic")
        skipped = ran.rows[ran.rows["status"] == "skipped"]
        assert ran.outcome.skipped == len(skipped) == 2
        assert ran.outcome.ok == 4
        assert all("batch size 1" in reason for reason in skipped["error"])
        assert skipped["new_tokens"].isna().all()
        assert ran.talk.expected == ran.talk.advanced == 4

    def test_nothing_but_impossible_cases_is_refused(self, tiny_pair):
        with pytest.raises(InputError, match="cannot be filled from 2 samples"):
            plan(Scenario(pair=tiny_pair.name, samples=2, batch_size=4))


class TestFailures:
    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError,
            ValueError,
            IndexError,
            AssertionError,
            NotImplementedError,
            KeyError,
            OSError,
        ],
    )
    def test_a_method_that_raises_fails_alone(self, run, add_method, error):
        def law(step):
            raise error("the kernel is broken")

        add_method("broken", law)
        ran = run(method="baseline,broken,fused", gamma="0,2", warmup=1)
        rows = ran.rows
        failed = rows[rows["status"] == "failed"]
        assert set(failed["method"]) == {"broken"}
        assert set(failed["gamma"]) == {"2"}, "plain decoding verifies nothing"
        assert all("the kernel is broken" in text for text in failed["error"])
        assert all(error.__name__ in text for text in failed["error"])
        assert (ran.outcome.ok, ran.outcome.failed) == (10, 2)
        assert len(ran.outcome.errors) == 1, "the same reason is said once"

    @pytest.fixture
    def loss(self):
        error = torch.AcceleratorError("CUDA error: unspecified launch failure\nmore about it")
        error.error_code = 719
        return error

    def test_a_lost_gpu_ends_the_run_and_every_sequence_has_its_row(self, run, calls, loss):
        calls.fail_at[4] = loss  # the first of the second round
        ran = run(method="baseline,fused", gamma="0,2", samples=3, repeats=2)
        assert len(calls) == 5, "a dead context is left alone"
        assert len(ran.rows) == 2 * 2 * 3 * 2
        assert not ran.rows.duplicated(KEY).any()
        assert ran.rows["status"].value_counts().to_dict() == {"failed": 20, "ok": 4}
        failed = ran.rows["error"].dropna()
        assert failed.str.startswith("not run: the GPU was lost in fused γ=2: CUDA").sum() == 19
        assert failed.str.startswith("AcceleratorError: CUDA error: unspecified").sum() == 1
        lost = "the GPU was lost in fused γ=2: CUDA error: unspecified launch failure"
        assert ran.outcome.lost == lost
        assert (ran.outcome.ok, ran.outcome.failed) == (4, 20)
        assert len(ran.outcome.errors) == 1, "what was not run is told once, by `lost`"
        assert any(notice.startswith(lost) for notice in ran.talk.notices)
        assert ran.talk.advanced == ran.talk.expected

    def test_a_gpu_that_is_lost_while_warming_up(self, run, calls, loss):
        calls.fail_at[1] = loss
        ran = run(method="baseline,fused,block", warmup=1)
        assert len(calls) == 2
        assert ran.outcome.lost.startswith("the GPU was lost in warming up fused γ=3: CUDA error")
        assert set(ran.rows["status"]) == {"failed"}
        assert len(ran.rows) == 3 * 2

    def test_a_gpu_that_is_lost_before_a_pair_is_loaded(self, run, calls, loss, monkeypatch):
        loads = []

        def load(spec, device, dtype, load_format):
            loads.append(dtype)
            if dtype == "float16":
                raise loss
            return load_pair(spec, device, dtype, load_format)

        monkeypatch.setattr(runner, "load_pair", load)
        ran = run(dtype="float32,float16,bfloat16", profile="trace")
        assert loads == ["float32", "float16"]
        assert list(ran.rows["status"]) == ["ok", "ok", "failed", "failed"]
        assert "lost in loading" in ran.outcome.lost
        assert ran.outcome.failed == 2
        assert not any("profile" in notice for notice in ran.talk.notices)

    @pytest.mark.parametrize("where", ["release", "reserve"])
    def test_a_loss_that_shows_late_is_one_too(self, run, calls, loss, monkeypatch, where):
        """The failure itself may not say so; giving memory back, or asking for it, does."""

        def fail(*_):
            raise loss

        calls.fail_at[1] = RuntimeError("a kernel of another package is broken")
        monkeypatch.setattr(NativeEngine, where, fail)
        ran = run(samples=3)
        assert "CUDA error" in ran.outcome.lost
        assert set(ran.rows["status"]) <= {"ok", "failed"}
        assert len(ran.rows) == 3

    def test_out_of_memory_takes_no_figures_from_the_sample_before(self, run, calls):
        calls.fail_at[1] = torch.OutOfMemoryError("CUDA out of memory")
        ran = run(samples=3)
        assert list(ran.rows["status"]) == ["ok", "failed", "ok"]
        row = ran.rows.iloc[1]
        assert "out of memory" in row["error"]
        figures = [
            "new_tokens", "finish_reason", "verify_steps", "drafted", "accepted", "step_drafted",
            "step_accepted", "step_draft_us", "step_target_us", "step_verify_us", "wall_s", "ttft_s",
            "draft_s", "target_s", "verify_s", "start_s", "batch_wall_s", "prefill_s", "capture_s",
            "step_end_s", "first_step", "mfu", "energy_j", "hypothesis", "metric_value", "metrics",
            "target_logprob", "nvml_t_s", "peak_memory_bytes",
        ]  # fmt: skip
        assert row[figures].isna().all()
        assert pd.notna(row["sample_id"])
        assert pd.notna(row["reference"])

    def test_a_failure_while_scoring_leaves_what_was_measured(self, run, monkeypatch):
        """The times of the batch are no worse for it, nor is the other sequence's score."""
        scored = []

        def score(self, text, sample):
            scored.append(text)
            if len(scored) == 2:
                raise ValueError("no words")
            return Score("rouge1", 0.5, 1.0, {"rouge1": 0.5})

        monkeypatch.setattr(Summarization, "score", score)
        ran = run(batch_size=2)
        assert set(ran.rows["status"]) == {"ok"}
        assert ran.rows[["new_tokens", "wall_s"]].notna().all(axis=None)
        assert ran.rows["metric_value"].isna().tolist() == [False, True]
        assert ran.talk.notices.count("not scored: ValueError('no words')") == 1

    def test_an_error_under_the_target_leaves_what_was_measured(self, run, monkeypatch):
        def full(self, request, new_tokens):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        monkeypatch.setattr(NativeEngine, "log_probability", full)
        ran = run()
        assert set(ran.rows["status"]) == {"ok"}
        assert ran.rows["target_logprob"].isna().all()
        assert ran.rows["metric_value"].notna().all()

    def test_a_case_that_fails_costs_the_others_no_room(self, run, add_method, monkeypatch):
        """Room is made once more for all of them, not case by case as they come."""
        made, reserve = [], NativeEngine.reserve

        def spy(self, size, tokens, most_drafts):
            before = self._workspace
            room = reserve(self, size, tokens, most_drafts)
            made.append(room is not before)
            return room

        def law(step):
            raise ValueError("never")

        add_method("broken", law)
        monkeypatch.setattr(NativeEngine, "reserve", spy)
        ran = run(method="broken,fused", gamma="1,2,3", samples=4)
        assert (ran.rows["status"] == "ok").sum() == 12
        assert sum(made) <= 1 + 12

    def test_finished_blocks_are_not_made_ready_again(self, run_in, tmp_path, calls):
        fields = {"repeats": 2, "warmup": 1, "temperature": "0.5,1"}
        calls.fail_at[7] = (
            KeyboardInterrupt()
        )  # of 2 warm-ups, 4 in the first repeat, 4 in the second
        first = run_in(tmp_path, **fields)
        assert first.outcome.interrupted
        calls.clear()
        calls.fail_at = {}
        again = run_in(tmp_path, resume=first.run_id, **fields)
        assert len(calls) == 8 - 5 + 2, "what is left, and a warm-up of each temperature that is"
        assert (again.rows["status"] == "ok").sum() == 8

    @pytest.mark.parametrize("gamma", ["0", "3"])
    def test_a_model_whose_logits_are_no_numbers(self, run, monkeypatch, gamma):
        def poisoned(spec, device, dtype, load_format):
            pair = load_pair(spec, device, dtype, load_format)
            with torch.no_grad():
                pair.target.lm_head.weight[5] = torch.nan
            return pair

        monkeypatch.setattr(runner, "load_pair", poisoned)
        ran = run(method=METHODS, gamma=gamma)
        assert set(ran.rows["status"]) == {"failed"}
        assert ran.outcome.failed == len(ran.rows) == 10
        assert all("NaN" in text for text in ran.rows["error"])
        assert ran.rows["hypothesis"].isna().all()

    def test_a_prompt_too_long_for_the_model(self, run):
        ran = run(max_new_tokens=5000)
        assert set(ran.rows["status"]) == {"failed"}
        assert all("4096 positions" in text for text in ran.rows["error"])

    def test_a_batch_fails_as_a_whole(self, run, calls):
        calls.fail_at[0] = RuntimeError("boom")
        ran = run(samples=4, batch_size=2)
        assert Counter(ran.rows["status"]) == {"failed": 2, "ok": 2}
        assert not ran.rows.duplicated(KEY).any()


MIXED = {
    "method": "baseline,fused", "gamma": "2,bass,heuristic", "batch_size": "1,2", "samples": 2,
    "repeats": 2, "max_new_tokens": 10,
}  # fmt: skip
"""Policies carry their state along, batches are finished as a whole, and two cases are skipped."""


@pytest.fixture(scope="module")
def uninterrupted(run_in, tmp_path_factory):
    return run_in(tmp_path_factory.mktemp("whole"), **MIXED)


def decoded(ran):
    """What each finished row says, machine and clock apart."""
    ok = ran.rows[ran.rows["status"] == "ok"].sort_values(KEY)
    return [
        (*(row[key] for key in KEY), row["hypothesis"], tuple(row["step_drafted"]))
        for _, row in ok.iterrows()
    ]


class TestInterruption:
    @pytest.mark.parametrize("moment", [0, 1, 7, 12, 31])
    def test_resumed_run_is_the_uninterrupted_one(self, run, uninterrupted, calls, moment):
        whole = decoded(uninterrupted)
        assert len(whole) == (6 * 2 + 4 * 2) * 2
        calls.fail_at[moment] = KeyboardInterrupt()
        cut = run(**MIXED)
        assert cut.outcome.interrupted
        assert cut.metadata["complete"] is False
        assert len(decoded(cut)) == cut.outcome.ok < len(whole)
        assert set(decoded(cut)) <= set(whole)

        calls.fail_at.clear()
        rest = run(resume=cut.run_id, **MIXED)
        assert not rest.outcome.interrupted
        assert rest.metadata["complete"] is True
        assert decoded(rest) == whole
        assert not rest.rows.duplicated([*KEY]).any()
        assert Counter(rest.rows["status"]) == {"ok": len(whole), "skipped": 2}
        assert rest.talk.advanced == rest.talk.expected

    def test_what_is_finished_is_not_run_again(self, run, calls):
        calls.fail_at[9] = KeyboardInterrupt()
        cut = run(method="baseline,fused", samples=4, repeats=2)
        calls.clear()
        calls.fail_at.clear()
        run(method="baseline,fused", samples=4, repeats=2, resume=cut.run_id)
        assert len(calls) == 16 - 9

    def test_failed_rows_are_tried_again(self, run, calls):
        calls.fail_at |= {1: RuntimeError("out of memory"), 3: KeyboardInterrupt()}
        cut = run(samples=4)
        assert list(cut.rows["status"]) == ["ok", "failed", "ok"]
        calls.fail_at.clear()
        rest = run(samples=4, resume=cut.run_id)
        assert list(rest.rows["status"]) == ["ok"] * 4

    def test_interrupted_while_loading(self, run, monkeypatch):
        def interrupted(spec, device, dtype, load_format):
            raise KeyboardInterrupt

        monkeypatch.setattr(runner, "load_pair", interrupted)
        assert run().outcome.interrupted


class TestPlan:
    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"method": "baseline,fussed"}, "unknown method 'fussed'"),
            ({"task": "sumarization"}, "unknown task"),
            ({"pair": "demo-ml"}, "unknown pair"),
            ({"samples": 10**6, "batch_size": 1}, "stdlib-functions has"),
        ],
    )
    def test_refuses(self, tiny_pair, fields, words):
        with pytest.raises(InputError, match=words):
            plan(Scenario.model_validate({"pair": tiny_pair.name} | fields))

    def test_loads_no_model(self, tiny_pair, monkeypatch):
        monkeypatch.setattr(runner, "load_pair", lambda *args: pytest.fail("loaded a model"))
        assert plan(Scenario(pair=tiny_pair.name)).cases


class TestDevice:
    @pytest.fixture
    def no_gpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    @pytest.fixture
    def two_gpus(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")

    @pytest.mark.usefixtures("no_gpu")
    def test_without_a_gpu(self):
        assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
        for name in ("cuda", "cuda:0", "cuda:1"):
            with pytest.raises(MachineError, match="0 GPUs") as caught:
                resolve_device(name)
            assert "doctor" in caught.value.hint

    @pytest.mark.usefixtures("two_gpus")
    def test_with_two(self):
        assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
        assert resolve_device("cuda:1") == torch.device("cuda", 1)
        for name in ("cuda:2", "cuda:200", "cuda:256", f"cuda:{10**20}"):
            with pytest.raises(MachineError, match="2 GPUs"):
                resolve_device(name)

    @pytest.mark.parametrize(
        "name", ["", "tpu", "mps", "meta", "cuda:", "cuda:x", "cuda:-1", "cpu:1"]
    )
    def test_a_name_that_is_none(self, name):
        with pytest.raises(InputError, match="device") as caught:
            resolve_device(name)
        assert "cuda:N" in caught.value.hint

    @pytest.mark.usefixtures("two_gpus")
    def test_a_gpu_without_kernels_is_refused_before_a_model_is_loaded(
        self, tiny_pair, monkeypatch
    ):
        def missing():
            raise MachineError("CuPy is not installed", "pip install 'specbench[cuda12]'")

        monkeypatch.setattr(planning, "require", missing)
        monkeypatch.setattr(planning, "check_available", lambda *args: pytest.fail("went on"))
        for method in ("baseline", "fused"):
            with pytest.raises(MachineError, match=r"cuda:1 .* CuPy is not installed") as caught:
                plan(Scenario(pair=tiny_pair.name, device="cuda:1", method=method))
            assert "--device cpu" in caught.value.hint
            assert "pip install 'specbench[cuda12]'" in caught.value.hint

    @pytest.mark.usefixtures("two_gpus")
    def test_the_second_gpu_is_the_one_that_gets_the_models(self, tiny_pair, tmp_path, monkeypatch):
        """And the current one meanwhile: events are recorded in the current device's stream."""
        asked, current = [], []

        @contextmanager
        def made_current(device):
            current.append(device)
            yield
            current.pop()

        def spy(spec, device, dtype, load_format):
            asked.append((torch.device(device), *current))
            raise KeyboardInterrupt

        monkeypatch.setattr(runner, "load_pair", spy)
        monkeypatch.setattr(torch.cuda, "device", made_current)
        monkeypatch.setattr(planning, "check_kernels", lambda device: None)
        monkeypatch.setattr(planning, "check_fits", lambda *args: None)
        todo = plan(Scenario(pair=tiny_pair.name, device="cuda:1"))
        execute(todo, RunWriter(tmp_path, "test", {}), Listener())
        assert asked == [(torch.device("cuda", 1), torch.device("cuda", 1))]


@pytest.fixture(scope="module")
def both(run_in, tmp_path_factory):
    """A run of both engines that many tests look at."""
    return run_in(
        tmp_path_factory.mktemp("both"), engine="native,transformers", method="baseline,block",
        gamma="0,3,heuristic", temperature="0,1", repeats=2, max_new_tokens=9,
    )  # fmt: skip


class TestTransformersEngine:
    """Both engines in one run: rows of the same kind, each engine held against its own γ = 0."""

    def test_rows_are_of_the_same_kind(self, both):
        rows = both.rows
        assert set(rows["status"]) == {"ok"}
        assert (rows.groupby("engine").size() == 2 * 3 * 2 * 2 * 2).all()
        theirs = rows[rows["engine"] == "transformers"]
        assert set(theirs["execution"]) == {"eager"}
        for _, row in theirs.iterrows():
            steps = row["verify_steps"]
            for name in ("drafted", "accepted", "gamma", "draft_us", "verify_us", "end_s"):
                assert len(row[f"step_{name}"]) == steps
            bonus = row["new_tokens"] - row["accepted"]
            assert bonus == steps or (row["finish_reason"] == "eos" and bonus == steps - 1)
        drafting = theirs["gamma"] != "0"
        assert (theirs[drafting]["verify_s"] > 0).all()
        assert (theirs[~drafting]["drafted"] == 0).all()
        assert (theirs["target_logprob"] < 0).all()
        busy = theirs[["draft_s", "target_s", "verify_s", "prefill_s"]].sum(axis=1)
        assert (busy < theirs["wall_s"]).all()

    def test_greedy_text_is_the_same_and_so_is_what_it_is_worth(self, both):
        greedy = both.rows[both.rows["temperature"] == 0]
        for _, same in greedy.groupby("sample_id"):
            for name in ("hypothesis", "metric_value", "target_logprob"):
                assert same[name].nunique() == 1

    def test_the_speed_up_is_over_the_same_engines_plain_decoding(self, both):
        lines = summarise(both.rows)
        for _, group in lines.groupby(["engine", "temperature"]):
            plain = group[group["gamma"] == "0"]
            speed = plain["new_tokens"].sum() / plain["wall_s"].sum()
            found = (group["tokens_per_s"] / group["speedup"]).to_numpy()
            assert found == pytest.approx([speed] * len(group))

    def test_the_heuristic_goes_on_where_the_sample_before_it_ended(self, both):
        """Though the other method drafts between the two, with the same model."""
        rows = both.rows
        chosen = (rows["engine"] == "transformers") & (rows["gamma"] == "heuristic")
        for _, case in rows[chosen].groupby(["case_id", "repeat"]):
            first, second = (row for _, row in case.sort_values("batch_index").iterrows())
            gamma = 5
            for drafted, accepted in zip(
                first["step_drafted"], first["step_accepted"], strict=True
            ):
                gamma = gamma + 2 if drafted == accepted else max(1, gamma - 1)
            if first["finish_reason"] == "length":
                assert second["step_drafted"][0] == min(gamma, 9 - 1)

    def test_an_engine_that_rests_holds_no_memory(self, run, monkeypatch):
        held, generate = [], TransformersEngine.generate

        def spy(self, *args, **kwargs):
            held.extend(engine._workspace for engine in engines)
            return generate(self, *args, **kwargs)

        engines, make = [], NativeEngine.__init__

        def remember(self, *args, **kwargs):
            engines.append(self)
            make(self, *args, **kwargs)

        monkeypatch.setattr(NativeEngine, "__init__", remember)
        monkeypatch.setattr(TransformersEngine, "generate", spy)
        run(engine="native,transformers", samples=1)
        assert held == [None]

    def test_what_it_cannot_is_skipped_with_the_reason(self, run):
        done = run(engine="transformers", gamma="2,bass", batch_size="1,2", attention="pad,split")
        assert (done.outcome.ok, done.outcome.skipped) == (2, 7)
        reasons = set(done.rows["error"].dropna())
        assert any("one sequence at a time" in reason for reason in reasons)
        assert any("bass" in reason for reason in reasons)

    def test_dummies_and_dice(self, run):
        done = run(
            engine="native,transformers", gamma="0,4", load_format="dummy", task="synthetic",
            prompt_tokens="5,9", synthetic_acceptance=0.6, max_new_tokens=20, samples=4,
        )  # fmt: skip
        assert done.outcome.ok == 4 * 2 * 2
        drafting = done.rows[done.rows["gamma"] == "4"]
        assert 0.2 < drafting["accepted"].sum() / drafting["drafted"].sum() < 0.8
        for _, same in drafting.groupby("sample_id"):
            assert same["step_accepted"].map(tuple).nunique() == 1, "the same dice"

    def test_a_method_that_fails_is_a_row(self, run, add_method):
        def law(step):
            raise RuntimeError("no law")

        add_method("broken", law)
        done = run(engine="transformers", method="broken,fused", temperature=1.0)
        assert (done.outcome.failed, done.outcome.ok) == (2, 2)
        assert done.outcome.errors == ["broken γ=3: RuntimeError: no law"]

    def test_an_unknown_transformers_is_told_before_a_model_is_loaded(self, tiny_pair, monkeypatch):
        monkeypatch.setattr(utils, "_speculative_sampling", lambda ids: None)
        with pytest.raises(MachineError, match=r"_speculative_sampling\(ids\)"):
            plan(Scenario(pair=tiny_pair.name, engine="transformers"))
        assert plan(Scenario(pair=tiny_pair.name)).cases


@pytest.mark.skipif("demo-asr" not in pair_specs(), reason="no embedded speech pair")
def test_both_engines_hear_the_same(tmp_path):
    """A draft that is a decoder alone hears with the target's encoder in transformers too."""
    todo = plan(Scenario(
        pair=["demo-asr"], engine=["native", "transformers"], method=["fused"], gamma=["0", "4"],
        temperature=[0.0], samples=2, repeats=1, warmup=0,
    ))  # fmt: skip
    writer = RunWriter(tmp_path, "test", {})
    assert execute(todo, writer, Listener()).ok == 2 * 2 * 2
    rows = read_run(writer.finish()).rows
    for _, same in rows.groupby("sample_id"):
        assert same["hypothesis"].nunique() == 1
        assert same["metric_value"].nunique() == 1
    theirs = rows[(rows["engine"] == "transformers") & (rows["gamma"] == "4")]
    assert theirs["accepted"].sum() > 0.5 * theirs["drafted"].sum()


class TestProfiling:
    def test_a_trace_of_each_case_lies_beside_the_results(self, run, tmp_path):
        ran = run(profile="trace", method="fused,block", gamma="0,3")
        assert set(ran.rows["status"]) == {"ok"}
        (folder,) = tmp_path.glob("*-traces")
        (result,) = tmp_path.glob("*.parquet")
        assert folder.name == f"{result.stem}-traces"
        names = {path.name.removesuffix(".json.gz") for path in folder.iterdir()}
        assert names == set(ran.rows["case_id"])
        with gzip.open(folder / f"{ran.rows['case_id'].iloc[-1]}.json.gz", "rt") as file:
            events = json.load(file)["traceEvents"]
        shown = [event["name"] for event in events if event.get("cat") == "phase"]
        assert {"draft", "target", "verify", "commit"} <= set(shown)

    def test_it_comes_when_everything_is_timed_and_is_in_no_row(self, run, calls):
        ran = run(profile="trace", repeats=2)
        assert len(ran.rows) == 4, "two samples, two repeats"
        assert len(calls) == 4 + 2, "then once to warm up and once to profile"

    def test_without_a_gpu_there_are_no_kernels_to_time(self, run, calls, tmp_path):
        ran = run()
        assert len(calls) == 2
        assert ran.rows["verify_kernel_us"].isna().all()
        assert not list(tmp_path.glob("*-traces"))

    def test_a_case_that_cannot_be_profiled_keeps_its_rows(self, run, calls):
        calls.fail_at = {2: RuntimeError("the profiler fell over")}
        ran = run(profile="trace")
        assert set(ran.rows["status"]) == {"ok"}
        assert ran.outcome.failed == 0
        assert any("the profiler fell over" in notice for notice in ran.talk.notices)

    def test_a_pair_that_cannot_be_loaded_again_loses_nothing(self, run, monkeypatch, tiny_pair):
        """What is profiled comes last: the first pair has to be loaded once more for it."""
        target, _ = tiny_pair.name.split("+")
        loaded, original = [], runner.load_pair

        def fragile(*args):
            loaded.append(args[0].name)
            if len(loaded) == 3:
                raise torch.OutOfMemoryError("no room")
            return original(*args)

        monkeypatch.setattr(runner, "load_pair", fragile)
        ran = run(profile="trace", pair=[tiny_pair.name, f"{target}+{target}"])
        assert len(loaded) == 3
        assert set(ran.rows["status"]) == {"ok"}
        assert ran.metadata["complete"]
        assert any("no room" in notice for notice in ran.talk.notices)

    def test_kernels_are_noted_for_the_case(self, run, monkeypatch, tiny_pair):
        """A stand-in for what CUPTI sees, which a CPU has not."""
        monkeypatch.setattr(profiling, "is_wanted", lambda todo, case, writer: True)

        def keep(todo, case, trace, writer):
            assert trace.kernels is not None
            writer.note(case.case_id, {"verify_kernel_us": 7.0, "verify_launches": 2.0})

        monkeypatch.setattr(profiling, "keep", keep)
        ran = run(method="fused,block")
        assert (ran.rows["verify_kernel_us"] == 7.0).all()
        assert (ran.rows["verify_launches"] == 2.0).all()

    @pytest.mark.gpu
    @pytest.mark.parametrize("execution", ["eager", "graphs"])
    def test_on_a_gpu_every_row_has_its_kernels(self, run, execution):
        rows = run(
            device="cuda", execution=execution, method="baseline,fused", profile="trace"
        ).rows
        by_method = rows.groupby("method").first()
        assert by_method.loc["fused", "verify_launches"] == 1
        assert by_method.loc["baseline", "verify_launches"] > 10
        assert rows["verify_kernel_us"].between(0.5, 5000).all()
