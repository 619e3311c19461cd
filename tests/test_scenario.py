"""Scenarios: the range syntax, strict reading, and the cases that come of it."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from specbench.assets import scenarios_dir
from specbench.errors import InputError
from specbench.sampling.names import MAX_GAMMA, POLICIES
from specbench.scenario import (
    Scenario,
    load_scenario,
    parse_gammas,
    restore_scenario,
    scenario_files,
)

GAMMAS = [
    ("5", ["5"]),
    ("0", ["0"]),
    ("128", ["128"]),
    ("1,2,4", ["1", "2", "4"]),
    ("4,2,1", ["4", "2", "1"]),
    ("1..4", ["1", "2", "3", "4"]),
    ("3..3", ["3"]),
    ("0..2", ["0", "1", "2"]),
    ("1..20:5", ["1", "6", "11", "16"]),
    ("1..16:5", ["1", "6", "11", "16"]),
    ("1..3:100", ["1"]),
    ("heuristic", ["heuristic"]),
    ("bass,heuristic", ["bass", "heuristic"]),
    ("0, 1..2 ,bass", ["0", "1", "2", "bass"]),
    ("1,1..3,2,bass,bass", ["1", "2", "3", "bass"]),
    ("007", ["7"]),
]
NO_GAMMAS = [
    "", " ", ",", "1,", ",1", "x", "-1", "+1", "1.5", "1e2", "0..", "..5", "1...3", "1..2..3", "5..1",
    "1..5:", "1..5:0", "1..5:-1", "1 ..5", "129", "1..129", "129..130", "Bass", "bass..9", "1;2", "٣",
    "١..٣", "²", "1_0", "0x4", "9" * 5000, f"1..{'9' * 5000}", f"1..5:{'9' * 5000}", "1..20 :5", "None",
]  # fmt: skip


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


class TestGammaSyntax:
    @pytest.mark.parametrize(("text", "expected"), GAMMAS)
    def test_reads(self, text, expected):
        assert parse_gammas(text) == expected

    @pytest.mark.parametrize("text", NO_GAMMAS)
    def test_refuses(self, text):
        with pytest.raises(InputError) as caught:
            parse_gammas(text)
        assert caught.value.hint
        assert len(caught.value.message) < 200

    def test_backward_range_says_how_to_write_it(self):
        with pytest.raises(InputError, match="backwards") as caught:
            parse_gammas("5..1")
        assert "1..5" in caught.value.hint

    @given(
        st.text()
        | st.text("0123456789.,: ", max_size=12)
        | st.lists(st.sampled_from([*POLICIES, "1", "9", "..", ":", ",", "-"])).map("".join)
    )
    @example("1..5:0")
    def test_any_text_gives_gammas_or_an_input_error(self, text):
        try:
            found = parse_gammas(text)
        except InputError:
            return
        assert found
        assert len(set(found)) == len(found)
        assert all(g in POLICIES or (g.isascii() and 0 <= int(g) <= MAX_GAMMA) for g in found)
        assert parse_gammas(",".join(found)) == found

    @given(st.integers(0, MAX_GAMMA), st.integers(0, MAX_GAMMA), st.integers(1, 2 * MAX_GAMMA))
    def test_a_range_is_pythons_with_its_end_included(self, first, last, step):
        text = f"{first}..{last}:{step}"
        if first > last:
            with pytest.raises(InputError):
                parse_gammas(text)
        else:
            assert [int(g) for g in parse_gammas(text)] == list(range(first, last + 1, step))

    @given(st.lists(st.integers(0, MAX_GAMMA) | st.sampled_from(POLICIES), min_size=1, unique=True))
    def test_what_was_written_is_read_back_in_order(self, values):
        names = [str(value) for value in values]
        assert parse_gammas(",".join(names)) == names
        assert Scenario(gamma=values).gamma == names


class TestStrictFiles:
    def test_unknown_key_names_file_key_and_nearest_field(self, tmp_path):
        path = write(tmp_path, "gamma: 1\nsample: 3\n")
        with pytest.raises(InputError) as caught:
            load_scenario(path)
        assert path in caught.value.message
        assert "'sample'" in caught.value.message
        assert "Did you mean 'samples'?" in caught.value.hint

    @pytest.mark.parametrize("key", ["1", "null", "true", "2024-01-01", "[a]"])
    def test_a_key_that_is_no_name(self, tmp_path, key):
        with pytest.raises(InputError):
            load_scenario(write(tmp_path, f"{key}: 3\n"))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("samples", "many"), ("samples", "0"), ("samples", "-1"), ("samples", "2.0"),
            ("samples", "true"), ("samples", "null"), ("samples", "[1, 2]"), ("samples", "'4'"),
            ("repeats", "0"), ("warmup", "-1"), ("max_new_tokens", "0"), ("seed", "-1"),
            ("batch_size", "0"), ("batch_size", "[1, 0]"), ("batch_size", "1.5"),
            ("batch_size", "x"), ("batch_size", "[]"), ("batch_size", "true"),
            ("batch_size", "[1, true]"), ("batch_size", "{a: 1}"), ("batch_size", "null"),
            ("temperature", "-0.1"), ("temperature", ".nan"), ("temperature", ".inf"),
            ("temperature", "hot"), ("temperature", "[]"), ("temperature", "1e999"),
            ("top_k", "0"), ("top_k", "1.5"), ("top_p", "0"), ("top_p", "1.01"), ("top_p", ".nan"),
            ("gamma", "5..1"), ("gamma", "1.5"), ("gamma", "[]"), ("gamma", "true"),
            ("gamma", "[1, true]"), ("gamma", "[[1]]"), ("gamma", "null"), ("gamma", "-3"),
            ("gamma", "{from: 1}"), ("gamma", "''"),
            ("method", "[]"), ("method", "3"), ("method", "{a: b}"), ("pair", "null"),
            ("name", "3"), ("description", "[a]"), ("device", "tpu"), ("device", "cuda:"),
            ("device", "cuda:x"), ("device", "null"), ("dtype", "int8"), ("dtype", "[]"),
            ("engine", "vllm"), ("attention", "ragged"), ("attention", "[]"),
            ("execution", "fast"), ("execution", "[]"), ("execution", "null"),
            ("load_format", "random"), ("load_format", "null"), ("load_format", "[auto]"),
            ("refill", "1"), ("refill", "null"), ("refill", "often"),
            ("completions_per_sample", "0"), ("completions_per_sample", "[1, 2]"),
            ("completions_per_sample", "1.5"), ("chat_template", "often"), ("chat_template", "1"),
            ("allow_unsandboxed_code", "null"), ("allow_unsandboxed_code", "please"),
            ("dataset", "''"), ("dataset", "[xsum]"),
            ("time_budget", "0"), ("time_budget", "-1"), ("time_budget", ".inf"),
            ("time_budget", ".nan"), ("time_budget", "soon"), ("time_budget", "true"),
            ("synthetic_acceptance", "1.01"), ("synthetic_acceptance", "-0.1"),
            ("synthetic_acceptance", ".nan"), ("synthetic_acceptance", "all"),
            ("synthetic_acceptance", "true"), ("synthetic_acceptance", "[0.8]"),
            ("prompt_tokens", "0"), ("prompt_tokens", "-5"), ("prompt_tokens", "[]"),
            ("prompt_tokens", "[512, 0]"), ("prompt_tokens", "1.5"), ("prompt_tokens", "long"),
            ("prompt_tokens", "true"), ("prompt_tokens", f"{2**31}"),
            ("sigmoid_range", "5,1"), ("sigmoid_range", "5"), ("sigmoid_range", "1,1"),
            ("sigmoid_range", "a,b"), ("sigmoid_range", "[]"), ("sigmoid_range", "[1, 2, 3]"),
            ("sigmoid_range", "[1, [2, 3]]"), ("sigmoid_range", "[[1, 2], 3]"),
            ("sigmoid_range", "null"), ("sigmoid_range", "{a: 1}"), ("sigmoid_range", "7"),
            ("sigmoid_range", "[.nan, 1]"), ("sigmoid_range", "[-.inf, .inf]"),
            ("sigmoid_range", "[false, true]"), ("sigmoid_range", f"[1, 1{'0' * 400}]"),
            ("sigmoid_range", "''"),
        ],
    )  # fmt: skip
    def test_wrong_value_names_file_key_and_what_was_expected(self, tmp_path, key, value):
        path = write(tmp_path, f"{key}: {value}\n")
        with pytest.raises(InputError) as caught:
            load_scenario(path)
        assert path in caught.value.message
        assert key in caught.value.message
        assert caught.value.hint
        assert "\n" not in caught.value.message + caught.value.hint

    @pytest.mark.parametrize("key", ["seed", "samples", "max_new_tokens", "top_k", "batch_size"])
    def test_a_number_too_large_for_the_result_file_is_refused_before_the_run(self, tmp_path, key):
        with pytest.raises(InputError, match=key):
            load_scenario(write(tmp_path, f"{key}: {2**63}\n"))

    def test_the_largest_seed_fits_the_result_file(self, tmp_path):
        assert load_scenario(write(tmp_path, f"seed: {2**63 - 1}\n"))[0].seed == 2**63 - 1

    @pytest.mark.parametrize(
        "content",
        [
            b"pair: [a, b", b"a: b: c", b"\tpair: x", b"\xff\xfe", b"pair: \xe9", b"&a [*a, *b]",
            b"!!python/object/apply:os.getcwd []", b"name: 2024-99-99", b"seed: 0b_",
            b"seed: " + b"9" * 5000, b"[" * 5000, b"pair: a\n---\npair: b\n", b"pair: \x00",
            b"samples: 3\nsamples: 4\n",
        ],
    )  # fmt: skip
    def test_a_file_that_is_no_yaml(self, tmp_path, content):
        path = tmp_path / "broken.yaml"
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_scenario(str(path))
        assert str(path) in caught.value.message
        assert "\n" not in caught.value.message

    @pytest.mark.parametrize("content", ["[]", "- pair", "text", "3", "0", "false", "''"])
    def test_a_file_that_holds_no_mapping(self, tmp_path, content):
        with pytest.raises(InputError, match="mapping"):
            load_scenario(write(tmp_path, content))

    @pytest.mark.parametrize("content", ["", "# nothing said\n", "{}", "null"])
    def test_an_empty_file_is_all_defaults(self, tmp_path, content):
        scenario, text = load_scenario(write(tmp_path, content))
        assert scenario == Scenario(name="mine")
        assert text == content

    @pytest.mark.parametrize("name", ["nowhere.yaml", "nowhere.yml", "no/such", "/"])
    def test_missing_file(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="no scenario file"):
            load_scenario(name)

    def test_a_folder_is_no_scenario(self, tmp_path):
        (tmp_path / "folder.yaml").mkdir()
        with pytest.raises(InputError):
            load_scenario(str(tmp_path / "folder.yaml"))

    def test_unknown_name_suggests_the_nearest(self):
        with pytest.raises(InputError) as caught:
            load_scenario("gama_sweep")
        assert "Did you mean 'gamma_sweep'?" in caught.value.hint

    def test_aliases_and_one_element_lists_mean_the_same_as_values(self, tmp_path):
        text = "pair: [a, b]\nmethod: &m fused\ntask: [code]\ndescription: *m\n"
        scenario, _ = load_scenario(write(tmp_path, text))
        assert (scenario.pair, scenario.method, scenario.task) == (["a", "b"], ["fused"], ["code"])


class TestAxes:
    @pytest.mark.parametrize(
        ("field", "given", "expected"),
        [
            ("method", "fused, block", ["fused", "block"]),
            ("method", ["fused", "fused"], ["fused"]),
            ("batch_size", "1,2", [1, 2]),
            ("batch_size", "1,01,1", [1]),
            ("temperature", "0,0.0,1,1.0", [0.0, 1.0]),
            ("temperature", [1, 1.0], [1.0]),
            ("sigmoid_range", "-10,10", [(-10.0, 10.0)]),
            ("sigmoid_range", "-10,10;-30,30", [(-10.0, 10.0), (-30.0, 30.0)]),
            ("sigmoid_range", "-10,10; -10,1e1", [(-10.0, 10.0)]),
            ("sigmoid_range", [-10, 10], [(-10.0, 10.0)]),
            ("sigmoid_range", [[-10, 10], [-30, 30]], [(-10.0, 10.0), (-30.0, 30.0)]),
            ("sigmoid_range", ["-10,10", "-30,30"], [(-10.0, 10.0), (-30.0, 30.0)]),
            ("gamma", 3, ["3"]),
            ("gamma", [1, "4..6", "bass"], ["1", "4", "5", "6", "bass"]),
            ("attention", "pad,split", ["pad", "split"]),
            ("execution", "graphs, compiled,graphs", ["graphs", "compiled"]),
            ("synthetic_acceptance", 0, 0.0),
            ("synthetic_acceptance", 1, 1.0),
            ("time_budget", 2.5, 2.5),
        ],
    )
    def test_value_text_and_list(self, field, given, expected):
        assert getattr(Scenario.model_validate({field: given}), field) == expected

    def test_a_scenario_cannot_be_changed(self):
        with pytest.raises(ValidationError):
            Scenario().samples = 3


class TestOverrides:
    def test_an_option_wins_over_the_file_and_none_does_not(self, tmp_path):
        path = write(tmp_path, "gamma: 1..3\nsamples: 4\nsigmoid_range: -5,5\n")
        overrides = {"gamma": "7", "samples": None, "temperature": "0,0.7"}
        scenario, text = load_scenario(path, overrides)
        assert scenario.gamma == ["7"]
        assert scenario.samples == 4
        assert scenario.temperature == [0.0, 0.7]
        assert scenario.sigmoid_range == [(-5.0, 5.0)]
        assert "gamma: 1..3" in text

    def test_a_wrong_option_blames_the_command_line(self, tmp_path):
        with pytest.raises(InputError, match="the command line: samples is 0"):
            load_scenario(write(tmp_path, "samples: 4\n"), {"samples": 0})

    def test_a_wrong_file_is_refused_even_where_an_option_covers_it(self, tmp_path):
        with pytest.raises(InputError, match=r"mine\.yaml"):
            load_scenario(write(tmp_path, "samples: 0\n"), {"samples": 4})


class TestCases:
    def test_the_product_of_the_axes(self):
        scenario = Scenario(
            pair="a,b", task="x,y", method="fused,sigmoid", gamma="0,2", batch_size="1,2",
            temperature="0,1", dtype="float32,float16", sigmoid_range="-1,1;-2,2",
            attention="pad,split", execution="eager,graphs",
        )  # fmt: skip
        # With drafts sigmoid counts twice, once for each range.
        assert len(scenario.cases()) == 2 * 2 * (2 + 3) * 2 * 2 * 2 * 2 * 2

    def test_ids_are_unique_and_indifferent_to_order(self):
        axes = {
            "pair": ["a", "b"], "task": ["x", "y"], "method": ["baseline", "fused", "sigmoid"],
            "gamma": ["0", "2", "bass", "heuristic"], "batch_size": [1, 2, 8],
            "temperature": [0.0, 0.7], "sigmoid_range": [[-1, 1], [-2, 2]],
            "dtype": ["float32", "float16"], "attention": ["pad", "split"],
            "execution": ["auto", "eager", "graphs", "compiled"],
        }  # fmt: skip
        forward = Scenario(**axes)
        backward = Scenario(**{key: values[::-1] for key, values in axes.items()})
        ids = [case.case_id for case in forward.cases()]
        assert len(set(ids)) == len(ids)
        assert {c.case_id: c for c in forward.cases()} == {c.case_id: c for c in backward.cases()}

    def test_id_is_stable_over_versions(self):
        """Results of last month must still find their partner: changing this breaks `compare`."""
        case = Scenario(method="fused", gamma="4").cases()[0]
        assert case.case_id == "fused-g4-b1-ededd466"

    @pytest.mark.parametrize(
        "change",
        [
            {"top_k": 5}, {"top_p": 0.9}, {"max_new_tokens": 7}, {"temperature": 0.5}, {"pair": "p"},
            {"attention": "split"}, {"execution": "graphs"}, {"execution": "eager"},
            {"synthetic_acceptance": 0.0}, {"synthetic_acceptance": 1.0}, {"refill": True},
            {"completions_per_sample": 2}, {"chat_template": False}, {"dataset": "xsum"},
        ],
    )  # fmt: skip
    def test_id_tells_apart_what_decodes_differently(self, change):
        plain = Scenario(method="fused", gamma="4").cases()[0]
        assert Scenario(method="fused", gamma="4", **change).cases()[0].case_id != plain.case_id

    def test_id_does_not_depend_on_what_leaves_the_decoding_alone(self):
        plain = Scenario(method="fused", gamma="4").cases()[0]
        other = Scenario(
            method="fused",
            gamma="4",
            repeats=9,
            name="x",
            seed=3,
            temperature="1",
            time_budget=2.5,
            allow_unsandboxed_code=True,
        )
        assert other.cases()[0].case_id == plain.case_id

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"batch_size": "1,16", "samples": 8}, "cannot be filled from 8 samples"),
            ({"batch_size": "1,3", "samples": 8}, "partly empty"),
            ({"batch_size": "1,2", "gamma": "heuristic"}, "batch size 1"),
            (
                {"batch_size": "4,7", "samples": 2, "completions_per_sample": 4},
                "2 samples of 4 completions leave a batch of 7 partly empty",
            ),
            (
                {"batch_size": "8,16", "samples": 2, "completions_per_sample": 4},
                "cannot be filled from 2 samples of 4 completions",
            ),
        ],
    )
    def test_impossible_combinations_stay_with_a_reason(self, fields, reason):
        cases = Scenario(method="fused", **{"gamma": "2", **fields}).cases()
        assert [case.skip is None for case in cases] == [True, False]
        assert reason in cases[1].skip

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"batch_size": "1,2"}, "one sequence at a time"),
            ({"gamma": "heuristic,bass"}, "bass is no schedule of transformers"),
            ({"attention": "pad,split"}, "nothing to split"),
            ({"execution": "auto,graphs"}, "op by op"),
            ({"execution": "eager,compiled"}, "op by op"),
        ],
    )
    def test_what_transformers_cannot_do_ours_can(self, fields, reason):
        both = {"method": "fused", "gamma": "2", "engine": "native,transformers"}
        cases = Scenario(**both | fields).cases()
        ours, theirs = cases[:2], cases[2:]
        assert [case.skip is None for case in ours] == [True, True]
        assert [case.skip is None for case in theirs] == [True, False]
        assert reason in theirs[1].skip

    def test_refilled_places_need_not_divide_the_samples_but_must_be_filled_once(self):
        cases = Scenario(method="fused", gamma="2", batch_size="3,8,9", refill=True).cases()
        assert [case.skip is None for case in cases] == [True, True, False]
        assert all(case.refill for case in cases)

    def test_bass_is_possible_in_a_batch(self):
        assert Scenario(method="fused", gamma="bass", batch_size=4).cases()[0].skip is None

    def test_methods_of_a_block_are_neighbours(self):
        """The runner interleaves neighbours that differ in the method alone."""
        cases = Scenario(method="baseline,fused,block", gamma="1,2", batch_size="1,2").cases()
        triples = [cases[i : i + 3] for i in range(0, len(cases), 3)]
        assert all(len({(c.gamma, c.batch_size) for c in triple}) == 1 for triple in triples)

    def test_a_pair_of_one_dtype_is_loaded_once(self):
        """Cases that share the loaded models stand together."""
        cases = Scenario(pair="a,b", task="x,y", dtype="float32,float16").cases()
        loads = [(case.pair, case.dtype) for case in cases]
        changes = sum(before != after for before, after in itertools.pairwise(loads))
        assert changes + 1 == len(set(loads))


class TestSynthetic:
    """The task `synthetic`, and what only it can have."""

    def cases(self, **fields):
        return Scenario.model_validate({"method": "fused", "gamma": "2", **fields}).cases()

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (None, (512,)),
            (64, (64,)),
            ("128,512,2048", (128, 512, 2048)),
            ([8, 8, 9], (8, 8, 9)),  # a weight, not a mistake
        ],
    )
    def test_lengths(self, given, expected):
        [case] = self.cases(task="synthetic", prompt_tokens=given)
        assert case.prompt_tokens == expected

    def test_an_omitted_length_is_the_same_case_as_its_default(self):
        plain, stated, longer = (
            self.cases(task="synthetic", prompt_tokens=length)[0] for length in (None, 512, 513)
        )
        assert plain.case_id == stated.case_id
        assert plain.case_id != longer.case_id

    def test_other_tasks_beside_it_keep_their_prompts(self):
        text, random = self.cases(task="code,synthetic", prompt_tokens=64)
        assert (text.prompt_tokens, random.prompt_tokens) == (None, (64,))
        assert text == self.cases(task="code")[0]

    def test_stored_weights_may_run_it(self):
        [case] = self.cases(task="synthetic")
        assert (case.load_format, case.skip) == ("auto", None)

    def test_dummies_skip_every_other_task(self):
        text, random = self.cases(task="code,synthetic", load_format="dummy")
        assert "no tokenizer" in text.skip
        assert random.skip is None
        assert random.load_format == "dummy"
        assert random.case_id != self.cases(task="synthetic")[0].case_id

    @pytest.mark.parametrize(
        ("text", "words"),
        [("load_format: dummy", "no tokenizer"), ("prompt_tokens: 64", "prompts of its own")],
    )
    def test_without_it_they_are_refused(self, tmp_path, text, words):
        path = write(tmp_path, f"task: code\n{text}\n")
        with pytest.raises(InputError, match=words) as caught:
            load_scenario(path)
        assert path in caught.value.message
        assert "--task synthetic" in caught.value.hint

    def test_an_option_may_make_a_good_file_wrong(self, tmp_path):
        path = write(tmp_path, "task: synthetic\nprompt_tokens: 64\n")
        with pytest.raises(InputError, match="the command line: prompt_tokens"):
            load_scenario(path, {"task": "code"})


class TestSavedScenario:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"sigmoid_range": "-10,10;-30,30", "method": "sigmoid"},
            {"gamma": "0..3,bass", "temperature": "0,0.7", "top_p": 0.9, "top_k": 40},
            {"pair": "some/where+else/where", "batch_size": "1,2,4", "dtype": "float16"},
            {
                "task": "synthetic",
                "prompt_tokens": "9,9,64",
                "load_format": "dummy",
                "refill": True,
            },
            {"execution": "eager,graphs", "time_budget": 2, "synthetic_acceptance": 0.8},
        ],
    )
    def test_comes_back_as_it_was(self, fields):
        scenario = Scenario(**fields)
        restored = restore_scenario(scenario.model_dump_json())
        assert restored == scenario
        assert restored.cases() == scenario.cases()

    def test_of_a_newer_version_is_refused_in_a_sentence(self):
        saved = json.loads(Scenario().model_dump_json()) | {"novelty": 1}
        with pytest.raises(InputError, match="novelty"):
            restore_scenario(json.dumps(saved))


class TestBuiltInScenarios:
    @pytest.mark.parametrize("name", sorted(scenario_files()))
    def test_loads_and_can_run(self, name):
        from specbench.pairs import get_pair, pair_kind
        from specbench.sampling.registry import get_method
        from specbench.tasks.base import AUTO, get_task

        scenario, text = load_scenario(name)
        assert scenario.name == name
        assert scenario.description.endswith((".", "?"))
        assert yaml.safe_load(text)
        for pair, task, method in zip(scenario.pair, scenario.task, scenario.method, strict=False):
            assert get_pair(pair)
            assert task == AUTO or get_task(task)
            assert get_method(method)
        kinds = {pair: pair_kind(get_pair(pair)) for pair in scenario.pair}
        assert any(case.skip is None for case in scenario.cases(kinds))

    def test_there_are_those_that_the_docs_name(self):
        named = {"demo", "smoke", "gamma_sweep", "bass", "attention", "engine_vs_transformers"}
        named |= {"nightly", "nightly_shapes"}
        assert named <= set(scenario_files())

    @pytest.mark.parametrize("name", ["bass", "attention", "engine_vs_transformers"])
    def test_dummies_fit_into_a_card_of_80_gb(self, name):
        from specbench.memory import needed, shape
        from specbench.pairs import get_pair

        for case in load_scenario(name)[0].cases():
            spec = get_pair(case.pair)
            target, draft = (
                shape(model, case.dtype, "cuda", "dummy") for model in (spec.target, spec.draft)
            )
            assert needed(case, target, draft).total < 70e9
            assert max(case.prompt_tokens) + case.max_new_tokens + 32 <= 4096


class TestReadme:
    ROW = re.compile(r"^\| `(\w+)` \| ([^|]*) \| `([^|`]*)`[^|]* \| [^|]+ \|$", re.MULTILINE)

    @pytest.fixture
    def text(self):
        return (scenarios_dir() / "README.md").read_text(encoding="utf-8")

    def test_names_every_field_and_no_other(self, text):
        assert [row[0] for row in self.ROW.findall(text)] == list(Scenario.model_fields)

    def test_each_default_is_the_models(self, text):
        for field, _, default in self.ROW.findall(text):
            stated = Scenario.model_validate({field: yaml.safe_load(default)})
            assert getattr(stated, field) == getattr(Scenario(), field), field

    def test_each_example_loads(self, text, tmp_path):
        examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        assert examples
        for example_text in examples:
            assert load_scenario(write(tmp_path, example_text))[0].cases()

    def test_each_range_of_the_syntax_table_means_what_it_says(self, text):
        rows = re.findall(r"^\| `([^`]+)` \| γ = ([\d, ]+) \|$", text, re.MULTILINE)
        assert len(rows) >= 4
        for syntax, values in rows:
            assert parse_gammas(syntax) == values.split(", ")


def test_plain_decoding_runs_at_one_sigmoid_range_alone():
    cases = Scenario(method="fused,sigmoid", gamma="0,2", sigmoid_range="-10,10;-30,30").cases()
    found = [(case.gamma, case.method, case.sigmoid_range) for case in cases]
    assert found == [
        ("0", "fused", None), ("0", "sigmoid", (-30.0, 30.0)),
        ("2", "fused", None), ("2", "sigmoid", (-10.0, 10.0)), ("2", "sigmoid", (-30.0, 30.0)),
    ]  # fmt: skip


def test_greedy_completions_of_one_sample_are_all_the_same():
    cases = Scenario(completions_per_sample=2, temperature="0,1", samples=2).cases()
    assert {case.skip is None for case in cases if case.temperature == 1.0} == {True}
    for case in cases:
        if case.temperature == 0.0:
            assert "at temperature 0 all completions" in case.skip


def test_what_an_engine_cannot_do_comes_before_what_does_not_divide():
    (case,) = Scenario(
        engine="transformers", batch_size=2, samples=3, method="fused", gamma="2"
    ).cases()
    assert "one sequence at a time" in case.skip


class TestGate:
    def test_floors_are_read_as_text_and_survive_the_file(self, tmp_path):
        text = "gate:\n  verify_us: [2%, 0.5us]\n  quality: 0.01\n"
        scenario, _ = load_scenario(write(tmp_path, text))
        assert scenario.gate == {"verify_us": "2%, 0.5us", "quality": "0.01"}
        assert restore_scenario(scenario.model_dump_json()) == scenario

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("gate: {speed: 3%}", "no gate on 'speed'"),
            ("gate: {verify_us: 3}", "'3' is no floor of verify_us"),
            ("gate: 3%", "gate is '3%'"),
        ],
    )
    def test_a_wrong_floor_is_refused_before_anything_runs(self, tmp_path, text, words):
        with pytest.raises(InputError, match=words):
            load_scenario(write(tmp_path, text))

    def test_is_no_part_of_a_case(self):
        plain, gated = Scenario(), Scenario(gate={"verify_us": "1%"})
        assert [case.case_id for case in plain.cases()] == [case.case_id for case in gated.cases()]
