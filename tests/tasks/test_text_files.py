"""Local files of texts, in the hub's columns: each kind, each layout, each way to be wrong."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specbench.errors import InputError
from specbench.tasks.base import choose, dataset_tasks, get_task
from specbench.tasks.code import Code
from specbench.tasks.summarization import Summarization

XSUM = [
    {"document": f"Article {i} says much.\nAnd more.\n", "summary": f"Much {i}.", "id": str(i)}
    for i in range(9)
]
CNN = [
    {"article": f"(CNN) Story {i}.", "highlights": f"One {i} .\nTwo .", "id": f"{i:040x}"}
    for i in range(9)
]
HUMANEVAL = [
    {
        "task_id": f"HumanEval/{i}",
        "prompt": f'def add{i}(x):\n    """x plus {i}."""\n',
        "canonical_solution": f"    return x + {i}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {i + 1}\n",
        "entry_point": f"add{i}",
    }
    for i in range(9)
]
SETS = {"xsum": XSUM, "cnn": CNN, "humaneval": HUMANEVAL}
SUFFIXES = [".jsonl", ".jsonl.gz", ".parquet"]


@pytest.fixture
def write(tmp_path):
    def _write(rows, name="mine.jsonl"):
        path = tmp_path / name
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), path)
            return str(path)
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        content = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(path)

    return _write


def task_of(rows, path):
    return (Code if rows is HUMANEVAL else Summarization)(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", SETS)
class TestEveryKind:
    def test_is_read_whole_and_in_order(self, write, name, suffix):
        rows = SETS[name]
        task = task_of(rows, write(rows, f"mine{suffix}"))
        task.check_available()
        samples = task.samples()
        key = "task_id" if name == "humaneval" else "id"
        assert [sample.sample_id for sample in samples] == [row[key] for row in rows]
        theirs = {"xsum": "summary", "cnn": "highlights", "humaneval": "canonical_solution"}[name]
        assert [sample.reference for sample in samples] == [row[theirs] for row in rows]

    def test_the_name_says_what_it_holds(self, write, name, suffix):
        rows = SETS[name]
        one, same, other = (
            task_of(rows, write(some, f"mine{i}{suffix}"))
            for i, some in enumerate((rows, rows, rows[:-1]))
        )
        names = [task.fingerprint().partition("@") for task in (one, same, other)]
        assert [prefix for prefix, _, _ in names] == ["mine0", "mine1", "mine2"]
        assert names[0][2] == names[1][2] != names[2][2]

    def test_is_known_for_its_task(self, write, name, suffix):
        expected = "code" if name == "humaneval" else "summarization"
        path = write(SETS[name], f"mine{suffix}")
        assert dataset_tasks(path) == (expected,)
        assert get_task(expected, dataset=path).dataset == path


def test_the_kinds_of_file_hold_the_same(write):
    for rows in SETS.values():
        found = [task_of(rows, write(rows, f"mine{suffix}")) for suffix in SUFFIXES]
        assert len({task.fingerprint() for task in found}) == 1
        assert found[0].samples() == found[1].samples() == found[2].samples()


def test_other_columns_do_not_matter(write):
    rows = [{"url": "x", "scores": [1, 2], **row, "n": None} for row in XSUM]
    for suffix in SUFFIXES:
        assert Summarization(write(rows, f"m{suffix}")).samples() == (
            Summarization(write(XSUM, f"o{suffix}")).samples()
        )


def test_marks_and_line_ends_of_windows_programs(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, XSUM)).encode() + b"\r\n\r\n")
    assert len(Summarization(str(path)).samples()) == 9


def test_ids_are_optional_and_may_be_numbers(write):
    without = [{k: v for k, v in row.items() if k != "id"} for row in XSUM]
    assert [s.sample_id for s in Summarization(write(without)).samples()][:2] == ["row-1", "row-2"]
    numbers = [row | {"id": i} for i, row in enumerate(XSUM)]
    assert [s.sample_id for s in Summarization(write(numbers)).samples()][:2] == ["0", "1"]
    parquet = Summarization(write(without, "mine.parquet"))
    assert [s.sample_id for s in parquet.samples()][:2] == ["row-0", "row-1"]


def test_solutions_are_optional(write):
    rows = [{k: v for k, v in row.items() if k != "canonical_solution"} for row in HUMANEVAL]
    assert {s.reference for s in Code(write(rows)).samples()} == {""}


def test_texts_without_a_document_or_a_summary_are_left_out(write):
    rows = [*XSUM, {"document": " ", "summary": "s", "id": "a"}]
    rows.append({"document": "d", "summary": "\n", "id": "b"})
    for suffix in SUFFIXES:
        assert len(Summarization(write(rows, f"m{suffix}")).samples()) == 9


class TestPick:
    def test_is_the_choice_of_any_other_data(self, write):
        task = Summarization(write(XSUM))
        assert choose(task, "instruction", 3, 1) == task.pick(3, 1)
        assert task.pick(9, 3)[:4] == task.pick(4, 3)
        assert task.pick(5, 1) != task.pick(5, 2)
        assert {s.sample_id for s in task.pick(9, 2**63 - 1)} == {row["id"] for row in XSUM}

    def test_more_than_there_are(self, write):
        with pytest.raises(InputError, match=r"10 samples asked, .*mine\.jsonl has 9") as caught:
            Code(write(HUMANEVAL)).pick(10, 0)
        assert "--samples 9" in caught.value.hint


class TestPrompts:
    def test_of_articles(self, write):
        """The plain prompt is that of the code of 2406.11016."""
        for rows, column, length in (
            (XSUM, "document", "one sentence"),
            (CNN, "article", "three sentences"),
        ):
            task = Summarization(write(rows))
            sample = task.samples()[4]
            text = rows[4][column].strip()
            assert sample.prompt == f"{text} Summary:"
            assert sample.document == text
            assert length in sample.question
            assert sample.question.endswith(text)
            [demo] = [s for s in task.samples("demo") if s.sample_id == sample.sample_id]
            assert demo.prompt == f"<|source|>{text}<|summary|>"
            assert demo.reference == sample.reference

    def test_of_problems(self, write):
        task = Code(write(HUMANEVAL))
        sample = task.samples()[2]
        assert sample.prompt == HUMANEVAL[2]["prompt"] == sample.problem.prompt
        assert sample.problem.entry_point == "add2"
        assert HUMANEVAL[2]["prompt"].strip() in sample.question
        assert "block of code" in sample.question
        assert task.samples("demo")[2].prompt == f"<|code|>{sample.prompt}<|body|>"


class TestRefused:
    def refused(self, words, make):
        with pytest.raises(InputError, match=words) as caught:
            make().check_available()
        assert caught.value.hint
        assert "\n" not in caught.value.message
        return caught.value

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_columns_that_are_nobodys(self, write, suffix):
        path = write([{"text": "a", "label": "b"}], f"mine{suffix}")
        error = self.refused("has the columns label, text", lambda: Summarization(path))
        for name in ("document and summary (XSum)", "article and highlights (CNN/DailyMail)"):
            assert name in error.message
        error = self.refused("has the columns label, text", lambda: Code(path))
        assert "prompt and test and entry_point (HumanEval)" in error.message
        assert dataset_tasks(path) == ("summarization", "code")

    def test_another_tasks_columns(self, write):
        self.refused("expected prompt and test", lambda: Code(write(XSUM)))
        self.refused("expected document and summary", lambda: Summarization(write(HUMANEVAL)))

    @pytest.mark.parametrize("value", [None, 7, ["a"], {"b": 1}])
    def test_a_row_without_a_text(self, write, value):
        rows = [XSUM[0], XSUM[1] | {"summary": value}]
        self.refused("line 2: no text in summary", lambda: Summarization(write(rows)))

    def test_a_row_without_a_column(self, write):
        self.refused("line 2: no text in summary", lambda: Summarization(write([XSUM[0], {
            "document": "d"}])))  # fmt: skip

    def test_a_column_of_another_kind(self, write):
        rows = [{"document": ["a", "b"], "summary": "c"}]
        self.refused("row 0: no text in document", lambda: Summarization(write(rows, "m.parquet")))

    def test_a_problem_without_a_test(self, write):
        """Of a document that happens; a problem without a test would never fail."""
        rows = [HUMANEVAL[0], HUMANEVAL[1] | {"test": " "}]
        self.refused("line 2: test is blank", lambda: Code(write(rows)))

    def test_two_of_one_id(self, write):
        self.refused("line 10: the id 3 is there twice", lambda: Summarization(
            write([*XSUM, XSUM[3]])))  # fmt: skip

    @pytest.mark.parametrize("line", ["{", "[1]", "3", "null", "nonsense", "[" * 100_000])
    def test_a_line_that_is_no_object(self, write, line):
        path = write([json.dumps(XSUM[0]), line])
        self.refused("line 2: no JSON object", lambda: Summarization(path))

    @pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz", "mine.parquet"])
    @pytest.mark.parametrize("content", [b"\x80\x81 no text", b"", b"PAR1 and then nothing"])
    def test_damaged_and_empty_files(self, tmp_path, name, content):
        path = tmp_path / name
        path.write_bytes(content)
        error = self.refused("mine", lambda: Summarization(str(path)))
        assert str(path) in error.message

    def test_a_packed_file_that_was_cut_off(self, write, tmp_path):
        path = tmp_path / "cut.jsonl.gz"
        content = gzip.compress("\n".join(map(json.dumps, XSUM * 20)).encode())
        path.write_bytes(content[: len(content) // 2])
        self.refused("cannot be read", lambda: Summarization(str(path)))

    @pytest.mark.parametrize("task", [Summarization, Code])
    def test_names_and_paths_that_are_none(self, task, tmp_path):
        (tmp_path / "notes.txt").touch()
        for dataset, words in {
            "./no.jsonl": "no such file", "no.parquet": "no such file", "~/none": "no such file",
            str(tmp_path): "is a folder", str(tmp_path / "notes.txt"): "of a kind that is not read",
            "xsumm": "unknown dataset 'xsumm'", "librispeech-clean": "unknown dataset",
        }.items():  # fmt: skip
            with pytest.raises(InputError, match=words) as caught:
                task(dataset)
            assert caught.value.hint

    def test_another_tasks_set(self):
        for task, dataset, owner in (
            (Code, "xsum", "summarization"), (Code, "cnn-dailymail", "summarization"),
            (Summarization, "humaneval", "code"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=f"is for the task {owner}") as caught:
                task(dataset)
            assert f"--task {owner}" in caught.value.hint

    def test_a_near_name_of_another_task_is_suggested(self):
        with pytest.raises(InputError) as caught:
            Code("xsumm")
        assert "'xsum'" in caught.value.hint
        assert "humaneval" in caught.value.hint


@pytest.mark.parametrize(
    ("dataset", "tasks"),
    [
        ("demo", ("asr", "summarization", "code")), ("xsum", ("summarization",)),
        ("cnn-dailymail", ("summarization",)), ("humaneval", ("code",)), ("tedlium", ("asr",)),
        ("tests", ("asr",)), ("nothing", ("asr", "summarization", "code")),
        ("pyproject.toml", ("summarization", "code")),
    ],
)  # fmt: skip
def test_what_a_data_set_is_for(dataset, tasks, monkeypatch):
    from specbench.assets import checkout_dir

    monkeypatch.chdir(checkout_dir())
    assert dataset_tasks(dataset) == tasks
