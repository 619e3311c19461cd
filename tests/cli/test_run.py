"""`specbench run` from the command line: end to end on a tiny pair, and everything it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex

import pyarrow.parquet as pq
import pytest
import torch

from specbench import memory, pairs, runner
from specbench.cli.app import main
from specbench.engine.native import NativeEngine
from specbench.report.reader import read_run
from specbench.report.schema import METADATA_KEY, SCHEMA
from specbench.sampling import registry
from specbench.sampling.registry import get_method, methods

pytestmark = pytest.mark.usefixtures("no_sync")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(tiny_pair):
    """Options of a run that takes a moment."""
    options = {
        "pair": tiny_pair.name, "task": "summarization", "method": "baseline,fused",
        "gamma": "0,2", "samples": "2", "repeats": "1", "max-new-tokens": "6", "device": "cpu",
    }  # fmt: skip

    def arguments(**changed):
        chosen = options | {key.replace("_", "-"): value for key, value in changed.items()}
        return [part for key, value in chosen.items() for part in (f"--{key}", value)]

    return arguments


@pytest.fixture
def no_loading(monkeypatch):
    def refuse(*args):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(pairs, "load_pair", refuse)
    monkeypatch.setattr(pairs, "_from_pretrained", refuse)
    monkeypatch.setattr(runner, "load_pair", refuse)


@pytest.fixture
def interrupt(monkeypatch):
    """Ctrl-C at the n-th generation, if any."""
    original = NativeEngine.generate
    count = {"calls": 0, "at": None}

    def generate(self, *args, **kwargs):
        count["calls"] += 1
        if count["calls"] - 1 == count["at"]:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(NativeEngine, "generate", generate)

    def arm(at):
        count.update(calls=0, at=at)

    return arm


def results(tmp_path, folder="results"):
    return sorted((tmp_path / folder).glob("*.parquet"))


def leftovers(tmp_path, folder="results"):
    return sorted(path.name for path in (tmp_path / folder / ".partial").glob("*"))


class TestEndToEnd:
    def test_table_on_stdout_path_on_stderr_file_on_disk(self, capsys, tmp_path, small):
        assert main(["run", "smoke", *small()]) == 0
        out, err = capsys.readouterr()
        [path] = results(tmp_path)
        assert path.name.startswith("smoke-")
        assert f"wrote {path.relative_to(tmp_path)}" in err
        assert "parquet" not in out
        assert "fused" in out
        assert "baseline" in out
        assert leftovers(tmp_path) == []
        run = read_run(path)
        assert list(run.rows.columns) == SCHEMA.names
        assert len(run.rows) == 2 * 2 * 2
        assert set(run.rows["status"]) == {"ok"}

    def test_a_repeat_has_its_number_s_luck_whatever_run_it_is_in(self, tmp_path, small):
        texts = {}
        for folder, changed in (("whole", {"repeats": "3"}), ("part", {"first-repeat": "2"})):
            assert main(["run", "smoke", *small(**changed), "--output-dir", folder]) == 0
            rows = read_run(results(tmp_path, folder)[0]).rows
            last = rows[rows["repeat"] == 2].sort_values(["case_id", "sample_id"])
            texts[folder] = last["hypothesis"].tolist()
        assert texts["part"] == texts["whole"]
        assert set(rows["repeat"]) == {2}
        assert len(texts["part"]) == 2 * 2 * 2

    def test_the_file_says_how_it_came_about(self, tmp_path, small):
        main(["run", "smoke", *small(gamma="2")])
        [path] = results(tmp_path)
        metadata = json.loads(pq.read_schema(path).metadata[METADATA_KEY])
        assert metadata["complete"] is True
        assert "Does everything run at all" in metadata["scenario"]
        assert metadata["methods"]["sigmoid"]["exact"] is False
        assert metadata["methods"]["fused"]["exact"] is True
        assert json.loads(metadata["resolved_scenario"])["gamma"] == ["2"]
        assert path.stem.endswith(metadata["run_id"])

    def test_own_scenario_file_and_output_folder(self, capsys, tmp_path, small):
        (tmp_path / "mine.yaml").write_text("name: a question / of mine\ngamma: 2\n")
        arguments = small()
        at = arguments.index("--gamma")
        del arguments[at : at + 2]
        assert main(["run", "mine.yaml", *arguments, "--output-dir", "deep/down"]) == 0
        [path] = results(tmp_path, "deep/down")
        assert "/" not in path.name.removesuffix(".parquet")
        assert set(read_run(path).rows["gamma"]) == {"2"}

    def test_impossible_cases_are_named_and_skipped(self, capsys, tmp_path, small):
        assert main(["run", *small(batch_size="1,2", gamma="heuristic")]) == 0
        assert "2 impossible cases skipped" in capsys.readouterr().err
        [path] = results(tmp_path)
        assert read_run(path).rows["status"].value_counts().to_dict() == {"ok": 4, "skipped": 2}


class TestDryRun:
    def test_shows_cases_and_touches_nothing(self, capsys, tmp_path, small, no_loading):
        assert main(["run", *small(batch_size="1,2,4"), "--dry-run"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert "skipped: 4 cases: a batch of 4 cannot be filled from" in out
        assert "in all: 8 cases × 2 sequences × 1 repeat: 16 sequences" in out
        assert not (tmp_path / "results").exists()

    def test_shows_rare_axes_where_they_are_used(self, capsys, small, no_loading):
        main(["run", *small(), "--dry-run"])
        assert "attention pad" in capsys.readouterr().out
        main(["run", *small(attention="pad,split"), "--dry-run"])
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["attention", "γ", "method", "cases"] in lines
        assert all(
            [name, "0,", "2", "baseline,", "fused", "4"] in lines for name in ("pad", "split")
        )

    def test_no_two_lines_are_alike_and_their_cases_are_all(self, capsys):
        main(["run", "sigmoid_range", "--dry-run"])
        out = capsys.readouterr().out
        lines = [line for line in out.splitlines() if re.match("demo-.*[0-9]$", line)]
        assert len(set(lines)) == len(lines) == 24
        assert sum(int(line.split()[-1]) for line in lines) == 30
        assert all(f" {end}, {end[1:]} " in out for end in ("-1", "-1000", "-10000"))
        assert out.count("skipped: 10 cases: ") == 3

    def test_takes_each_new_option(self, capsys, small, no_loading):
        options = small(
            task="synthetic", prompt_tokens="4,8,4", load_format="dummy", synthetic_acceptance="0.8",
            time_budget="2.5", batch_size="3", samples="5",
        )  # fmt: skip
        assert main(["run", *options, "--refill", "--dry-run"]) == 0
        assert "partly empty" not in capsys.readouterr().out
        assert main(["run", *options, "--no-refill", "--dry-run"]) == 2
        assert "partly empty" in capsys.readouterr().err

    def test_shows_what_would_run(self, capsys, small, no_loading):
        main(["run", *small(gamma="1..3"), "--dry-run"])
        out = capsys.readouterr().out
        assert re.search("1..3 +baseline, fused +6", out)

    @pytest.mark.parametrize(
        ("argv", "lack", "shown"),
        [
            (["bass"], "execution 'compiled' needs a CUDA GPU", "32     0, bass  fused"),
            (["attention"], "execution 'graphs' needs a CUDA GPU", "split      32     0, 4"),
            (["bass", "--device", "cuda"], "device 'cuda' is not there", "32     0, bass  fused"),
            (["gamma_sweep", "--device", "cuda:1"], "device 'cuda:1' is not there", "0..20"),
        ],
    )
    def test_a_plan_for_a_gpu_is_shown_without_one(
        self, capsys, tmp_path, monkeypatch, no_loading, argv, lack, shown
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert main(["run", *argv, "--dry-run"]) == 0
        out, err = capsys.readouterr()
        assert shown in out
        assert err.startswith(f"cannot run here: {lack}")
        assert err.count("cannot run here") == err.count("hint: ") == 1
        assert not (tmp_path / "results").exists()
        assert main(["run", *argv]) == 2
        assert capsys.readouterr().err.startswith(f"error: {lack}")

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            (["--gamma", "0,many"], "gamma"),
            (["--pair", "nobody/knows"], "nobody/knows"),
            (["--method", "none"], "none"),
            (["--device", "gpu"], "gpu"),
            (["--device", "cpu"], "'compiled' needs a CUDA GPU"),
            (["--samples", "4", "--batch-size", "8"], "cannot be filled"),
        ],
    )
    def test_a_plan_that_is_wrong_in_itself_is_refused(
        self, capsys, monkeypatch, no_loading, changed, words
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert main(["run", "bass", *changed, "--dry-run"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert words in err

    def test_what_else_the_machine_lacks_is_said_once_each(
        self, capsys, small, monkeypatch, no_loading
    ):
        from specbench.sandbox import supervisor

        monkeypatch.setattr(supervisor, "fault", lambda kind: "tried in vain")
        assert main(["run", *small(task="code"), "--dry-run"]) == 0
        out, err = capsys.readouterr()
        assert re.search("0, 2 +baseline, fused", out)
        assert err.count("cannot run here: generated code cannot be run safely") == 1
        monkeypatch.setattr(memory, "device_bytes", lambda device: 1000)
        options = small(task="synthetic", prompt_tokens="8", load_format="dummy")
        assert main(["run", *options, "--dry-run"]) == 0
        assert re.match("cannot run here: .* with a batch of 1 .* needs", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["--device", "tpu"], "hint: Give auto, cpu, cuda or cuda:N.\n"),
        (["--task", "asr"], "--pair demo-asr"),
        (["--pair", "demo-asr", "--task", "code"], "--pair demo-lm"),
    ],
)
def test_a_hint_names_what_to_give(capsys, no_loading, argv, hint):
    assert main(["run", *argv]) == 2
    assert hint in capsys.readouterr().err


class TestFailedCases:
    def test_exit_code_5_and_the_rest_is_written(self, capsys, tmp_path, small, monkeypatch):
        def law(step):
            raise ValueError("a kernel of another package\nis broken")

        known = methods() | {
            "broken": dataclasses.replace(get_method("fused"), name="broken", law=law)
        }
        monkeypatch.setattr(registry, "methods", lambda: known)
        assert main(["run", *small(method="baseline,broken")]) == 5
        out, err = capsys.readouterr()
        assert "a kernel of another package" in err
        assert "broken γ=2" in err
        assert "Traceback" not in err
        assert "baseline" in out
        [path] = results(tmp_path)
        rows = read_run(path).rows
        assert rows["status"].value_counts().to_dict() == {"ok": 6, "failed": 2}

    def test_a_second_pair_that_cannot_be_loaded_loses_nothing(
        self, capsys, tmp_path, small, tiny_pair
    ):
        """The folder has a config.json, so only loading can tell."""
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "config.json").write_text("{}")
        names = f"{tiny_pair.name},{broken}+{broken}"
        assert main(["run", *small(pair=names)]) == 5
        err = capsys.readouterr().err.splitlines()
        [path] = results(tmp_path)
        status = read_run(path).rows["status"]
        assert status.value_counts().to_dict() == {"ok": 8, "failed": 4}
        assert any(line.startswith(f"failed: {broken}+{broken} cannot be loaded") for line in err)

    def test_a_first_pair_that_cannot_be_loaded_does_not_keep_the_second_from_its_run(
        self, tmp_path, small, tiny_pair
    ):
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "config.json").write_text("{}")
        names = f"{broken}+{broken},{tiny_pair.name}"
        assert main(["run", *small(pair=names)]) == 5
        [path] = results(tmp_path)
        assert (read_run(path).rows["status"] == "ok").sum() == 8

    def test_a_run_that_never_began_leaves_nothing(self, capsys, tmp_path, small):
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "config.json").write_text("{}")
        assert main(["run", *small(pair=f"{broken}+{broken}")]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        loading, *talk = err.splitlines()
        assert loading == f"loading {broken}+{broken}"
        assert [line.partition(":")[0] for line in talk] == ["error", "hint"]
        assert results(tmp_path) == leftovers(tmp_path) == []


class TestLostGpu:
    def test_exit_code_5_and_resume_goes_on(self, capsys, tmp_path, small, monkeypatch):
        calls = []

        def law(step):
            calls.append(step)
            if len(calls) == 12:
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
            return get_method("baseline").law(step)

        fragile = dataclasses.replace(get_method("baseline"), name="fragile", law=law)
        known = methods() | {"fragile": fragile}
        monkeypatch.setattr(registry, "methods", lambda: known)
        assert main(["run", *small(method="baseline,fragile", samples="4")]) == 5
        err = capsys.readouterr().err
        assert "the GPU was lost in fragile γ=2: CUDA error: device-side assert triggered" in err
        assert "Traceback" not in err
        [path] = results(tmp_path)
        run = read_run(path)
        assert run.metadata["complete"] is False
        counts = run.rows["status"].value_counts()
        assert 0 < counts["ok"] < 16
        assert counts["ok"] + counts["failed"] == 16
        [run_id] = leftovers(tmp_path)
        assert f"--resume {run_id} goes on" in err
        kept = run.rows[run.rows["status"] == "ok"]

        assert main(["run", "--resume", run_id]) == 0
        assert results(tmp_path) == [path]
        rows = read_run(path).rows
        assert len(rows) == 16
        assert set(rows["status"]) == {"ok"}
        key = ["case_id", "sample_id", "wall_s"]
        assert set(kept[key].itertuples(index=False)) <= set(rows[key].itertuples(index=False))
        assert leftovers(tmp_path) == []


class TestCtrlC:
    @pytest.mark.parametrize("folder", ["results", "else where"])
    def test_130_then_resume(self, capsys, tmp_path, small, interrupt, folder):
        where = ["--output-dir", folder]
        interrupt(9)  # four of warm-up, five measured
        assert main(["run", *small(), *where]) == 130
        err = capsys.readouterr().err
        assert "Traceback" not in err
        [path] = results(tmp_path, folder)
        assert len(read_run(path).rows) == 5
        [run_id] = leftovers(tmp_path, folder)

        command = next(line for line in err.splitlines() if "--resume" in line)
        assert run_id in command
        suggested = command.partition("specbench ")[2].removesuffix(" goes on")
        interrupt(None)
        assert main(shlex.split(suggested)) == 0
        assert results(tmp_path, folder) == [path]
        assert len(read_run(path).rows) == 8
        assert leftovers(tmp_path, folder) == []

    def test_before_anything_is_finished(self, capsys, tmp_path, small, interrupt):
        interrupt(0)
        assert main(["run", *small()]) == 130
        assert results(tmp_path) == leftovers(tmp_path) == []
        assert "--resume" not in capsys.readouterr().err, "there is nothing to go on with"

    @pytest.mark.parametrize(
        "options",
        [["smoke"], ["--gamma", "3"], ["--dry-run"], ["--seed", "1"], ["--device", "cpu"]],
    )
    def test_resume_takes_nothing_else(self, capsys, options, no_loading):
        assert main(["run", "--resume", "0123abcd", *options]) == 2
        assert "--resume" in capsys.readouterr().err

    def test_resume_of_an_unknown_run(self, capsys, tmp_path, small, interrupt, no_loading):
        assert main(["run", "--resume", "0123abcd"]) == 2
        assert "no unfinished run '0123abcd'" in capsys.readouterr().err
        assert not (tmp_path / "results").exists()


class TestBadInput:
    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"pair": "demo-ml"}, ["unknown pair 'demo-ml'", "'demo-lm'"]),
            ({"task": "sumarization"}, ["unknown task 'sumarization'", "'summarization'"]),
            ({"method": "fussed"}, ["unknown method 'fussed'", "'fused'"]),
            ({"method": "fused,"}, ["unknown method ''"]),
            ({"gamma": "5..1"}, ["5..1", "1..5"]),
            ({"gamma": "0.."}, ["0..", "1..20"]),
            ({"gamma": "x"}, ["'x'", "1..20"]),
            ({"gamma": "-1"}, ["'-1'"]),
            ({"gamma": ""}, ["gamma"]),
            ({"gamma": "129"}, ["129", "128"]),
            ({"gamma": "1..99999999"}, ["99999999", "128"]),
            ({"batch_size": "0"}, ["batch_size", "greater than or equal to 1"]),
            ({"batch_size": "two"}, ["batch_size", "two"]),
            ({"batch_size": "3"}, ["3"]),
            ({"temperature": "-1"}, ["temperature"]),
            ({"temperature": "nan"}, ["temperature"]),
            ({"top_k": "0"}, ["top_k is 0"]),
            ({"top_p": "1.5"}, ["top_p is 1.5"]),
            ({"sigmoid_range": "5,1"}, ["sigmoid_range '5,1'"]),
            ({"dtype": "int8"}, ["dtype", "float16"]),
            ({"device": "tpu"}, ["device"]),
            ({"device": "cuda:99"}, ["'cuda:99'", "doctor"]),
            ({"engine": "vllm"}, ["engine", "native"]),
            ({"attention": "ragged"}, ["attention", "split"]),
            ({"execution": "fast"}, ["execution", "graphs"]),
            ({"execution": "graphs"}, ["'graphs' needs a CUDA GPU", "eager"]),
            ({"execution": "eager,compiled"}, ["'compiled' needs a CUDA GPU", "eager"]),
            ({"load_format": "random"}, ["load_format", "dummy"]),
            ({"load_format": "dummy"}, ["no tokenizer", "--task synthetic"]),
            ({"prompt_tokens": "512"}, ["prompt_tokens", "--task synthetic"]),
            ({"task": "synthetic", "prompt_tokens": "512,0"}, ["prompt_tokens"]),
            ({"task": "synthetic", "prompt_tokens": "x"}, ["prompt_tokens"]),
            ({"synthetic_acceptance": "1.5"}, ["synthetic_acceptance is 1.5"]),
            ({"time_budget": "0"}, ["time_budget is 0"]),
            ({"completions_per_sample": "0"}, ["completions_per_sample is 0"]),
            ({"dataset": "xsumm"}, ["unknown dataset 'xsumm'", "'xsum'", "a file"]),
            ({"dataset": "humaneval"}, ["is for the task code", "--task code"]),
            ({"dataset": "xsum"}, ["EdinburghNLP/xsum", "hf download --repo-type dataset"]),
            ({"dataset": "occupied"}, ["of a kind that is not read", ".jsonl"]),
            ({"pair": "bass-7.8b/bass-310m"}, ["not public", "--load-format dummy"]),
            (
                {"pair": "no/such+no/such", "load_format": "dummy", "task": "synthetic"},
                ["the shape of no/such is not known", "list pairs"],
            ),
            (
                {
                    "pair": "bass-7.8b/bass-310m",
                    "load_format": "dummy",
                    "task": "synthetic",
                    "max_new_tokens": "4000",
                    "batch_size": "100000",
                    "samples": "100000",
                },
                ["a batch of 100000", "weights 32.4 GB", "cpu has", "batch_size"],
            ),
            ({"samples": "0"}, ["samples is 0"]),
            ({"samples": "100000"}, ["100000 samples", "--samples"]),
            ({"repeats": "0"}, ["repeats is 0"]),
            ({"max_new_tokens": "0"}, ["max_new_tokens is 0"]),
            ({"seed": "-1"}, ["seed is -1"]),
            ({"seed": str(2**63)}, ["seed"]),
            ({"pair": "org/no-such+org/nothing"}, ["org/no-such", "HF_HOME", "demo-lm"]),
            ({"pair": "./nowhere+./nowhere"}, ["nowhere"]),
            ({"pair": "one+"}, ["'one+'", "TARGET+DRAFT"]),
            ({"output_dir": "/proc/results"}, ["/proc/results"]),
            ({"output_dir": "occupied"}, ["occupied"]),
            ({"output_dir": "occupied/results"}, ["occupied/results"]),
        ],
    )
    def test_options(self, capsys, tmp_path, monkeypatch, small, no_loading, changed, words):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
        (tmp_path / "occupied").write_text("a file")
        assert main(["run", *small(**changed)]) == 2
        self.is_a_sentence_with_a_hint(capsys, words)
        assert not (tmp_path / "results" / ".partial").exists()

    def test_a_chat_template_that_is_not_there(self, capsys, small, no_loading):
        """Before a model is loaded: the tokenizer says."""
        assert main(["run", *small(pair="demo-lm"), "--chat-template"]) == 2
        self.is_a_sentence_with_a_hint(capsys, ["prompts of its own", "--chat-template"])

    def test_code_without_a_sandbox(self, capsys, small, no_loading, monkeypatch):
        from specbench.sandbox import supervisor

        monkeypatch.setattr(supervisor, "fault", lambda kind: "tried in vain")
        assert main(["run", *small(task="code")]) == 2
        words = ["cannot be run safely", "bubblewrap", "--allow-unsandboxed-code"]
        self.is_a_sentence_with_a_hint(capsys, words)
        assert main(["run", *small(task="code"), "--allow-unsandboxed-code", "--dry-run"]) == 0

    def test_compile_and_execution(self, capsys, small, no_loading):
        assert main(["run", *small(execution="eager"), "--compile"]) == 2
        self.is_a_sentence_with_a_hint(capsys, ["--compile", "--execution eager", "one of the two"])

    def test_compile_means_compiled(self, capsys, small, no_loading):
        assert main(["run", *small(), "--compile"]) == 2
        self.is_a_sentence_with_a_hint(capsys, ["'compiled' needs a CUDA GPU"])

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("sample: 3\n", ["mine.yaml", "'sample'", "'samples'"]),
            ("batch_size: 0\n", ["mine.yaml", "batch_size"]),
            ("gamma: 5..1\n", ["mine.yaml", "5..1"]),
            ("- a\n", ["mine.yaml", "mapping"]),
            ("a: [", ["mine.yaml"]),
        ],
    )
    def test_scenario_files(self, capsys, tmp_path, no_loading, text, words):
        (tmp_path / "mine.yaml").write_text(text)
        assert main(["run", "mine.yaml"]) == 2
        self.is_a_sentence_with_a_hint(capsys, words)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("gama_sweep", ["unknown scenario 'gama_sweep'", "'gamma_sweep'"]),
            ("nowhere.yaml", ["nowhere.yaml"]),
            ("", ["scenario"]),
        ],
    )
    def test_scenario_names(self, capsys, no_loading, name, words):
        assert main(["run", name]) == 2
        self.is_a_sentence_with_a_hint(capsys, words)

    def is_a_sentence_with_a_hint(self, capsys, words):
        out, err = capsys.readouterr()
        assert out == ""
        lines = err.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["error", "hint"], err
        assert "unexpected" not in lines[0]
        assert "Traceback" not in err
        assert all(word in err for word in words), err
