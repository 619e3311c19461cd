"""Tasks: their data, their prompts, their figures."""

from __future__ import annotations

import pytest

from specbench.errors import InputError
from specbench.tasks.base import Sample, Score, check_dataset, choose, get_task, task_names

STYLES = ["demo", "instruction"]
STORED = [name for name in task_names() if name not in {"synthetic", "asr"}]


@pytest.fixture
def rouge():
    task = get_task("summarization")
    return lambda hypothesis, reference: task.score(hypothesis, Sample("s", "", reference))


def test_there_are_those_that_the_docs_name():
    assert {"summarization", "code", "synthetic"} <= set(task_names())


@pytest.mark.parametrize("name", ["sumarization", "", "Code"])
def test_unknown_task(name):
    with pytest.raises(InputError, match="unknown task") as caught:
        get_task(name)
    assert "specbench list tasks" in caught.value.hint


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("style", STYLES)
def test_samples_are_whole_and_told_apart(name, style):
    samples = get_task(name).samples(style)
    assert len(samples) >= 100
    assert len({sample.sample_id for sample in samples}) == len(samples)
    assert all(sample.prompt.strip() and sample.reference.strip() for sample in samples)
    assert samples == get_task(name).samples(style), "the order is fixed"


@pytest.mark.parametrize("name", STORED)
def test_styles_differ_in_the_prompt_alone(name):
    demo, plain = (get_task(name).samples(style) for style in STYLES)
    for one, other in zip(demo, plain, strict=True):
        assert (one.sample_id, one.reference) == (other.sample_id, other.reference)
        assert one.prompt != other.prompt


@pytest.mark.parametrize("name", STORED)
def test_the_answer_is_not_in_the_prompt(name):
    samples = [s for style in STYLES for s in get_task(name).samples(style)]
    assert [s.sample_id for s in samples if s.reference.strip() in s.prompt] == []


class TestChoose:
    def test_depends_on_the_seed_alone(self):
        task = get_task("summarization")
        assert choose(task, "demo", 5, 1) == choose(get_task("summarization"), "demo", 5, 1)
        assert choose(task, "demo", 5, 1) != choose(task, "demo", 5, 2)

    def test_the_style_does_not_change_the_choice(self):
        task = get_task("code")
        first, second = ([s.sample_id for s in choose(task, style, 9, 3)] for style in STYLES)
        assert first == second

    def test_never_takes_a_sample_twice(self):
        task = get_task("code")
        everything = task.samples("demo")
        chosen = choose(task, "demo", len(everything), 0)
        assert sorted(s.sample_id for s in chosen) == sorted(s.sample_id for s in everything)

    def test_more_than_there_are(self):
        task = get_task("code")
        count = len(task.samples("demo")) + 1
        with pytest.raises(InputError, match=f"{count} samples") as caught:
            choose(task, "demo", count, 0)
        assert str(count - 1) in caught.value.hint

    def test_the_largest_seed(self):
        assert len(choose(get_task("code"), "demo", 2, 2**63 - 1)) == 2


class TestRouge:
    def test_by_hand(self, rouge):
        """Two of three words: P = 1, R = 2/3; one of two pairs of words: P = 1, R = 1/2."""
        score = rouge("the cat", "the cat sat")
        assert score.metric == "rouge1"
        assert score.value == score.metrics["rouge1"] == pytest.approx(0.8)
        assert score.metrics["rouge2"] == pytest.approx(2 / 3)
        assert score.metrics["rougeL"] == pytest.approx(0.8)
        assert score.weight == 1

    def test_order_counts_for_rouge_l_alone(self, rouge):
        score = rouge("sat cat the", "the cat sat")
        assert score.metrics["rouge1"] == 1
        assert score.metrics["rouge2"] == 0
        assert score.metrics["rougeL"] == pytest.approx(1 / 3)

    @pytest.mark.parametrize("hypothesis", ["", " ", "!?", "\ufffd\ufffd", "elsewhere"])
    def test_nothing_in_common_is_zero_not_an_error(self, rouge, hypothesis):
        assert set(rouge(hypothesis, "the cat sat").metrics.values()) == {0.0}

    def test_words_are_stemmed(self, rouge):
        assert rouge("returning values", "Returns the value").value == pytest.approx(0.8)


class TestSynthetic:
    def chosen(self, count, seed=0, lengths=None):
        return choose(get_task("synthetic", lengths), "instruction", count, seed)

    def test_lengths_in_turn(self):
        lengths = [sample.prompt_length for sample in self.chosen(7, lengths=[128, 512, 2048])]
        assert lengths == [128, 512, 2048, 128, 512, 2048, 128]

    def test_its_own_length(self):
        assert {sample.prompt_length for sample in self.chosen(3)} == {512}

    def test_as_many_as_are_asked_for(self):
        samples = self.chosen(10_000)
        assert len({sample.sample_id for sample in samples}) == 10_000

    def test_which_ones_depends_on_the_seed(self):
        assert self.chosen(4, seed=1) == self.chosen(4, seed=1)
        ids = {sample.sample_id for seed in (1, 2) for sample in self.chosen(4, seed=seed)}
        assert len(ids) == 8

    def test_the_first_samples_do_not_depend_on_how_many_follow(self):
        assert self.chosen(9)[:4] == self.chosen(4)

    def test_has_no_figure(self):
        assert get_task("synthetic").score("", self.chosen(1)[0]) == Score()

    def test_other_tasks_ignore_lengths(self):
        few = choose(get_task("code", [64]), "demo", 2, 0)
        assert few == choose(get_task("code"), "demo", 2, 0)
        assert {sample.prompt_length for sample in few} == {None}


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (
            "HumanEval",
            [
                "unknown dataset 'HumanEval'",
                "Did you mean 'humaneval'?",
                "xsum",
                "librispeech-clean",
            ],
        ),
        ("nosuch", ["unknown dataset 'nosuch'", "for summarization xsum", "a folder of audio"]),
        ("no/such.jsonl", ["there is no such file or folder"]),
        ("mine.jsonl", ["there is no such file or folder"]),
    ],
)
def test_a_data_set_that_is_none_is_refused_before_a_task_is_chosen(dataset, words):
    with pytest.raises(InputError) as caught:
        check_dataset(dataset)
    said = f"{caught.value.message} {caught.value.hint}"
    assert all(word in said for word in words), said


def test_known_data_sets_files_and_folders_pass(tmp_path):
    for dataset in ("demo", "xsum", "common-voice", str(tmp_path)):
        check_dataset(dataset)
