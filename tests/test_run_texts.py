"""Articles and code through the whole runner, on a CPU: the embedded pair, and a tiny one."""

from __future__ import annotations

import dataclasses
import json

import pandas as pd
import pytest

from specbench import load_results, planning
from specbench.errors import InputError, MachineError
from specbench.planning import plan
from specbench.report.compare import within
from specbench.report.reader import read_run
from specbench.report.render import render_run
from specbench.report.stats import pass_at_k
from specbench.report.writer import RunWriter
from specbench.runner import execute
from specbench.sandbox import supervisor
from specbench.scenario import Scenario, load_scenario
from specbench.tasks import code

WALLED = any(supervisor.fault(kind) is None for kind in supervisor.KINDS[:2])
walled = pytest.mark.skipif(not WALLED, reason="no isolation works on this machine")
pytestmark = pytest.mark.usefixtures("no_sync")


class Listener:
    """A `Talk` that remembers what the user should know."""

    def __init__(self):
        self.notices, self.advanced, self.expected = [], 0, None

    def stage(self, text):
        pass

    def notice(self, text):
        self.notices.append(text)

    def total(self, sequences):
        self.expected = sequences

    def advance(self, sequences, text):
        self.advanced += sequences


@dataclasses.dataclass
class Ran:
    rows: pd.DataFrame
    talk: Listener
    path: object

    @property
    def lines(self):
        return within(read_run(self.path)).summary

    def printed(self):
        import io

        from rich.console import Console

        stream = io.StringIO()
        render_run(read_run(self.path), Console(file=stream, width=100, highlight=False))
        return " ".join(stream.getvalue().split())


@pytest.fixture
def run(tmp_path):
    def go(**fields):
        small = {"repeats": 1, "warmup": 0, "device": "cpu", "method": "fused", "cpu_threads": 1}
        scenario = Scenario.model_validate(small | fields)
        todo, talk = plan(scenario), Listener()
        metadata = {
            "resolved_scenario": todo.scenario.model_dump_json(),
            "methods": {"fused": {"exact": True}, "baseline": {"exact": True}},
        }
        writer = RunWriter(tmp_path, "test", metadata)
        outcome = execute(todo, writer, talk)
        assert outcome.errors == []
        assert not outcome.interrupted
        path = writer.finish()
        return Ran(load_results(path), talk, path)

    return go


@walled
class TestEmbeddedCode:
    def test_greedily_all_methods_pass_alike_and_each_text_is_run_once(self, run, monkeypatch):
        judged, original = [], code.judge_all

        def spy(new, **how):
            judged.extend(new)
            return original(new, **how)

        monkeypatch.setattr(code, "judge_all", spy)
        ran = run(
            pair="demo-lm", task="code", method="baseline,fused", gamma="0,6", temperature=0,
            samples=5, max_new_tokens=160,
        )  # fmt: skip
        rows = ran.rows
        assert set(rows["status"]) == {"ok"}
        assert set(rows["metric"]) == {"pass@1"}
        assert len(judged) == 5, "what was written four times"
        assert rows["metric_value"].mean() >= 0.8
        assert (rows.groupby("sample_id")["metric_value"].nunique() == 1).all()
        assert ((rows["verdict"] == "passed") == (rows["metric_value"] == 1)).all()
        # The embedded pair ends its answers itself.
        assert (rows["answer_tokens"] == rows["new_tokens"]).all()
        assert rows["hypothesis"].str.startswith("    ").all(), "it goes on behind the prompt"
        assert "pass@1" in ran.printed()

    def test_the_target_passes_more_than_its_draft(self, run, monkeypatch):
        """The card says 0.976 and 0.280 of all 164 problems, greedily."""
        from specbench import pairs

        specs = pairs.pair_specs()
        alone = dataclasses.replace(specs["demo-lm"], target=specs["demo-lm"].draft, name="draft")
        monkeypatch.setattr(pairs, "pair_specs", lambda: specs | {"draft": alone})
        ran = run(
            pair="demo-lm,draft", task="code", gamma=0, temperature=0, samples=14,
            max_new_tokens=160,
        )  # fmt: skip
        quality = ran.rows.groupby("pair")["metric_value"].mean()
        assert quality["demo-lm"] > 0.8
        assert quality["draft"] < 0.6

    def test_several_completions_of_each_problem_in_one_batch(self, run):
        ran = run(
            pair="demo-lm", task="code", gamma="bass", samples=2, completions_per_sample=4,
            batch_size=4, repeats=2, temperature=1.5, max_new_tokens=90, time_budget=30,
        )  # fmt: skip
        rows = ran.rows
        assert ran.talk.advanced == ran.talk.expected == len(rows) == 2 * 4 * 2
        assert not rows.duplicated(["case_id", "repeat", "sample_id", "completion"]).any()
        assert set(rows["completions_per_sample"]) == {4}
        for _, batch in rows.groupby(["repeat", "batch_index"]):
            assert batch["sample_id"].nunique() == 1
            assert sorted(batch["completion"]) == [0, 1, 2, 3]
        assert rows.groupby(["repeat", "sample_id"])["hypothesis"].nunique().max() > 1
        [line] = ran.lines.to_dict("records")
        problems = rows.groupby("sample_id")["metric_value"]
        expected = problems.agg(lambda p: pass_at_k(len(p), int(p.sum()), 4)).mean()
        assert line["pass_at_k"] == pytest.approx(expected)
        trials = rows.groupby(["sample_id", "repeat"])
        assert line["pass_all"] == trials["metric_value"].max().mean(), "30 s are enough for all"
        likeliest = rows.loc[trials["target_logprob"].idxmax()]
        assert line["pass_first"] == likeliest["metric_value"].mean()
        text = ran.printed()
        assert "demo-lm · code · 4 completions · batch 4" in text
        assert "pass@4" in text
        assert "within 30 s (BASS)" in text

    def test_within_no_time_nothing_passes(self, run):
        ran = run(
            pair="demo-lm", task="code", gamma=4, samples=2, completions_per_sample=2, batch_size=2,
            max_new_tokens=60, time_budget=1e-6,
        )  # fmt: skip
        [line] = ran.lines.to_dict("records")
        assert (line["pass_first"], line["pass_all"]) == (0.0, 0.0)

    def test_humaneval_of_a_file_by_its_columns_alone(self, run, tmp_path):
        path = tmp_path / "mine.jsonl"
        from specbench.assets import demo_dir

        lines = (demo_dir() / "code.jsonl").read_text().splitlines()[:3]
        path.write_text("\n".join(lines))
        ran = run(
            pair="demo-lm", dataset=str(path), gamma=0, samples=3, temperature=0, max_new_tokens=90
        )
        assert set(ran.rows["task"]) == {"code"}
        assert all(name.startswith("mine@") for name in ran.rows["dataset"])
        assert "code mine@" in ran.printed()


@pytest.fixture(scope="module")
def endless(save_tiny, tmp_path_factory):
    """A pair that writes little but indentation, names and the beginnings of functions."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, said = tmp_path_factory.mktemp("endless"), ["ĠĠĠĠ", "ĠĠĠĠreturn", "Ċ", "Ċd", "ef", "x"]
    for name, seed in (("target", 1), ("draft", 2)):
        save_tiny(folder / name, 1, 16, seed, extra=["ĠĠĠĠ", "ĠĠĠĠreturn", "Ċd", "ef"])
        model = AutoModelForCausalLM.from_pretrained(folder / name)
        ids = AutoTokenizer.from_pretrained(folder / name).convert_tokens_to_ids(said)
        with torch.no_grad():
            rows = model.lm_head.weight
            kept = 4 * rows[ids]
            rows.zero_()
            rows[ids] = kept
        model.save_pretrained(folder / name)
    return f"{folder}/target+{folder}/draft"


@walled
class TestStops:
    @pytest.mark.parametrize("engine", ["native", "transformers"])
    @pytest.mark.parametrize(("temperature", "samples", "many"), [(0.0, 10, 1), (1.0, 4, 2)])
    def test_decoding_stops_where_it_was_cut_afterwards(
        self, run, endless, monkeypatch, engine, temperature, samples, many
    ):
        from specbench import pair_run

        def go():
            return run(
                pair=endless, task="code", gamma="0,3", samples=samples, max_new_tokens=32, batch_size=1,
                completions_per_sample=many, temperature=temperature, engine=engine, time_budget=60,
            )  # fmt: skip

        stopped = go()
        with monkeypatch.context() as patch:
            patch.setattr(pair_run, "ending", lambda *args: None)
            endless_ones = go()
        key = ["gamma", "sample_id", "completion"]
        rows, free = (one.rows.sort_values(key).reset_index() for one in (stopped, endless_ones))
        same = ["hypothesis", "answer_tokens", "metric_value", "verdict", "target_logprob",
                "repetition_4", "distinct_1"]  # fmt: skip
        pd.testing.assert_frame_equal(rows[same], free[same])
        ended = rows["finish_reason"] == "stop"
        assert ended.sum() > 0
        assert (rows["answer_tokens"] == rows["new_tokens"])[ended].all()
        assert (rows["new_tokens"] < free["new_tokens"])[ended].any()
        assert "stop" not in set(free["finish_reason"])
        assert rows["hypothesis"][ended].str.endswith("\n").all()
        assert (rows["verify_steps"] == rows["step_end_s"].map(len)).all()
        if temperature == 0:
            texts = rows.groupby(["sample_id", "completion"])
            assert (texts["new_tokens"].nunique() == 1).all(), "whatever γ"
        lines, others = stopped.lines, endless_ones.lines
        assert lines["went_on"].sum() < others["went_on"].sum()
        for name in ("cut_off", "quality", "pass_first", "pass_all", "pass_at_k"):
            assert lines[name].tolist() == others[name].tolist()

    def test_completions_of_one_problem_stop_each_for_itself(self, run, endless):
        ran = run(
            pair=endless, task="code", gamma=2, samples=2, max_new_tokens=32, batch_size=8,
            completions_per_sample=8, temperature=1.0,
        )  # fmt: skip
        assert ran.rows["new_tokens"].nunique() > 3
        stops = ran.rows[ran.rows["finish_reason"] == "stop"]
        assert (stops["answer_tokens"] == stops["new_tokens"]).all()
        assert (stops["wall_s"] < ran.rows["batch_wall_s"].max()).any()


class TestArticles:
    @pytest.fixture
    def articles(self, tmp_path):
        path = tmp_path / "articles.jsonl"
        rows = [
            {"article": f"{word} " * (40 * i + 20), "highlights": f"Much {word}.", "id": f"{i}"}
            for i, word in enumerate(("rain", "wind", "snow", "frost"))
        ]
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    def test_the_long_ones_are_shortened_with_a_note(self, run, save_tiny, tmp_path, articles):
        folder = save_tiny(tmp_path / "short", 1, 16, seed=1)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
        ran = run(
            pair=f"{folder}+{folder}", dataset=articles, gamma="0,2", samples=4, max_new_tokens=12
        )
        rows = ran.rows
        assert set(rows["metric"]) == {"rouge1"}
        assert (rows["status"] == "ok").all()
        assert (rows["prompt_tokens"] <= 500).all()
        kept = rows.groupby("sample_id")["document_kept"].first()
        assert (kept[["0", "1"]] == 1).all()
        assert (kept[["2", "3"]] < 1).all()
        [told] = [text for text in ran.talk.notices if "shortened" in text]
        assert "2 of 4 documents are shortened" in told
        assert "500 tokens" in told
        assert "4 of 8 prompts have a part of their document" in ran.printed()
        assert set(rows["answer_tokens"].isna()) == {True}

    @pytest.mark.parametrize("asked", [None, True, False])
    def test_a_model_with_a_chat_template_is_asked_in_it(
        self, run, save_tiny, tmp_path, articles, asked
    ):
        folder = save_tiny(tmp_path / "chatty", 1, 16, seed=1)
        template = "<s>{{ messages[0].content }}<answer>"
        (folder / "chat_template.jinja").write_text(template)
        ran = run(
            pair=f"{folder}+{folder}", dataset=articles, gamma=0, samples=1, max_new_tokens=4,
            chat_template=asked,
        )  # fmt: skip
        [row] = ran.rows.to_dict("records")
        assert row["chat_template"] is (asked is not False)
        assert ("chat template" in ran.printed()) is (asked is not False)

    def test_the_embedded_pair_takes_them_too(self, run, articles):
        ran = run(pair="demo-lm", dataset=articles, gamma=0, samples=2, max_new_tokens=8)
        assert set(ran.rows["task"]) == {"summarization"}
        assert set(ran.rows["chat_template"]) == {False}

    def test_a_path_is_kept_whole_for_a_resumed_run(self, articles, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        todo = plan(Scenario(pair="demo-lm", dataset="articles.jsonl", samples=2))
        assert todo.scenario.dataset == articles
        assert {case.dataset for case in todo.cases} == {articles}


class TestPlanning:
    @pytest.fixture
    def no_sandbox(self, monkeypatch):
        monkeypatch.setattr(supervisor, "fault", lambda kind: "tried in vain")
        monkeypatch.setattr(planning, "check_available", lambda *args: None)

    def test_code_is_refused_where_it_cannot_be_run(self, no_sandbox):
        with pytest.raises(MachineError, match="cannot be run safely") as caught:
            plan(Scenario(task=["code"]))
        for way_out in ("bubblewrap", "--allow-unsandboxed-code"):
            assert way_out in caught.value.hint

    def test_beside_other_tasks_it_is_skipped_and_that_is_said(self, no_sandbox):
        todo = plan(Scenario(task=["summarization", "code"]))
        reasons = {case.task: case.skip for case in todo.cases}
        assert reasons["summarization"] is None
        assert "cannot be run safely" in reasons["code"]
        [notice] = todo.notices
        assert "the task code is skipped" in notice
        assert "--allow-unsandboxed-code" in notice

    def test_in_so_many_words_it_is_run(self, no_sandbox):
        todo = plan(Scenario(task=["code"], allow_unsandboxed_code=True))
        assert all(case.skip is None for case in todo.cases)
        assert todo.notices == []
        sample = todo.texts["code"].samples()[0]
        assert todo.texts["code"].score(sample.reference, sample).value == 1

    def test_other_tasks_ask_for_no_sandbox(self, no_sandbox):
        assert plan(Scenario(task=["summarization"])).notices == []

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            (
                {"task": "code", "dataset": "xsum"},
                "xsum is for the task summarization, not for code",
            ),
            ({"task": "synthetic", "dataset": "xsum"}, "is for the task summarization"),
            ({"task": "summarization", "dataset": "tedlium"}, "tedlium is for the task asr"),
            ({"task": "summarization", "dataset": "xsumm"}, "unknown dataset 'xsumm'"),
            ({"task": "code", "dataset": "./nowhere.jsonl"}, "no such file"),
            ({"pair": "demo-asr", "task": "auto", "dataset": "xsum"}, "no case has it"),
            ({"chat_template": True}, "prompts of its own"),
            ({"task": "code", "samples": 165}, "demo-problems has 164"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, fields, words):
        with pytest.raises(InputError, match=words) as caught:
            plan(load_scenario("smoke", fields)[0])
        assert caught.value.hint

    def test_pairs_of_two_kinds_have_a_set_each(self, tmp_path):
        path = tmp_path / "mine.jsonl"
        path.write_text('{"document": "d", "summary": "s"}\n')
        todo = plan(Scenario(pair=["demo-lm", "demo-asr"], dataset=str(path), samples=1))
        assert {case.task: case.dataset for case in todo.cases} == {
            "summarization": str(path), "asr": None,
        }  # fmt: skip
        assert todo.datasets["asr"] == "demo"
        assert todo.datasets["summarization"].startswith("mine@")

    def test_a_set_goes_to_the_task_that_it_is_for(self):
        cases = Scenario(task=["summarization", "code"], dataset="humaneval").cases()
        assert {case.task: case.dataset for case in cases} == {
            "summarization": None, "code": "humaneval",
        }  # fmt: skip
        assert {case.task for case in Scenario(dataset="humaneval").cases()} == {"code"}
        assert {case.task for case in Scenario(dataset="xsum").cases()} == {"summarization"}
        assert {case.task for case in Scenario().cases()} == {"summarization"}


class TestInterruption:
    """Completions of one sample are sequences of their own, also to a run that goes on."""

    @pytest.mark.parametrize(
        "task", ["summarization", pytest.param("code", marks=walled)]
    )  # fmt: skip
    def test_a_resumed_run_is_the_whole_one(self, tiny_pair, tmp_path, monkeypatch, task):
        from specbench.engine.native import NativeEngine

        scenario = Scenario.model_validate(
            {"pair": tiny_pair.name, "task": task, "method": "fused", "gamma": "0,2", "samples": 2,
             "completions_per_sample": 3, "batch_size": 1, "repeats": 1, "warmup": 0,
             "max_new_tokens": 6, "device": "cpu"}
        )  # fmt: skip
        original, calls = NativeEngine.generate, []

        def generate(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == 8:
                raise KeyboardInterrupt
            return original(self, *args, **kwargs)

        def go(folder, run_id=None):
            writer = RunWriter(folder, "test", {}, run_id, resume=run_id is not None)
            outcome = execute(plan(scenario), writer, Listener())
            return outcome, writer.run_id, load_results(writer.finish(not outcome.interrupted))

        _, _, whole = go(tmp_path / "whole")
        monkeypatch.setattr(NativeEngine, "generate", generate)
        cut, run_id, part = go(tmp_path / "cut")
        assert cut.interrupted
        assert len(part) == cut.ok == 7
        assert part["metric_value"].notna().all(), "what was decoded is scored before it is written"
        rest, _, both = go(tmp_path / "cut", run_id)
        assert not rest.interrupted
        assert rest.ok == 12 - 7
        key = ["case_id", "repeat", "sample_id", "completion"]
        said = [
            rows.sort_values(key)[[*key, "hypothesis", "metric_value"]].values.tolist()
            for rows in (whole, both)
        ]
        assert said[0] == said[1]
        texts = whole.groupby(["case_id", "sample_id"])["hypothesis"].nunique()
        assert texts.max() > 1, "each completion has luck of its own"
