"""Word error rates that can be counted by hand, and what Whisper's normaliser takes for equal."""

from __future__ import annotations

import pytest

from specbench.errors import InputError
from specbench.report.stats import weighted_mean
from specbench.tasks.asr import SpeechRecognition
from specbench.tasks.base import Sample, StoredTask
from specbench.tasks.speech_sets import HUB_SETS


@pytest.fixture
def score():
    task = SpeechRecognition()
    return lambda hypothesis, reference: task.score(hypothesis, Sample("s", "", reference))


class TestWordErrorRate:
    @pytest.mark.parametrize(
        ("hypothesis", "substitutions", "deletions", "insertions"),
        [
            ("the cat sat down", 0, 0, 0),
            ("the dog sat down", 1, 0, 0),
            ("the cat down", 0, 1, 0),
            ("the cat sat right down", 0, 0, 1),
            ("a dog sat", 2, 1, 0),
            ("", 0, 4, 0),
            ("all other words that were never even spoken", 4, 0, 4),
        ],
    )
    def test_counted_by_hand(self, score, hypothesis, substitutions, deletions, insertions):
        result = score(hypothesis, "the cat sat down")
        assert result.metric == "wer"
        assert result.weight == 4
        assert result.value == (substitutions + deletions + insertions) / 4
        assert result.metrics["wer"] == result.value
        assert result.metrics["substitutions"] == substitutions / 4
        assert result.metrics["deletions"] == deletions / 4
        assert result.metrics["insertions"] == insertions / 4

    def test_silence_for_words_is_wholly_wrong(self, score):
        for nothing in ("", "  ", "um", "[silence]"):
            assert score(nothing, "good morning").value == 1.0

    def test_may_pass_one(self, score):
        assert score("yes yes yes yes", "no").value == 4.0

    def test_the_weighted_mean_is_the_corpus_figure(self, score):
        """1 error in 1 word and none in 9 are one in ten, not a half."""
        results = [score("b", "a"), score("c d e f g h i j k", "c d e f g h i j k")]
        values, weights = [r.value for r in results], [r.weight for r in results]
        assert weighted_mean(values, weights) == pytest.approx(0.1)

    def test_every_metric_aggregates_by_the_same_weight(self, score):
        pairs = [
            ("the cat", "the cat sat"),
            ("a big dogs", "a dog"),
            ("so", "so it goes on and on"),
        ]
        results = [score(*pair) for pair in pairs]
        weights = [result.weight for result in results]
        mean = {
            name: weighted_mean([result.metrics[name] for result in results], weights)
            for name in results[0].metrics
        }
        parts = mean["substitutions"] + mean["deletions"] + mean["insertions"]
        assert mean["wer"] == pytest.approx(parts)
        assert mean["wer"] == pytest.approx((1 + 2 + 5) / (3 + 2 + 6))
        # Characters: " sat"; "big " and "s"; " it goes on and on".
        cer = mean["character_errors"] / mean["characters"]
        assert cer == pytest.approx((4 + 5 + 18) / (11 + 5 + 20))

    @pytest.mark.parametrize("reference", ["", " ", "um", "[laughter]", "Mhm, uh."])
    @pytest.mark.parametrize("hypothesis", ["", "hello there"])
    def test_a_reference_without_words_counts_for_nothing(self, score, reference, hypothesis):
        result = score(hypothesis, reference)
        assert (result.metric, result.value, result.weight) == ("wer", None, 0.0)


class TestNormaliser:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("HE HOPED THERE WOULD BE STEW", "He hoped there would be stew."),
            ("Mr. Quilter", "mister quilter"),
            ("Dr Jones", "doctor jones"),
            ("twenty one apples", "21 apples"),
            ("one hundred and five", "105"),
            ("$20", "twenty dollars"),
            ("um, I uh went", "I went"),
            ("don't", "do not"),
            ("it 's here", "it's here"),
            ("naïve café", "naive cafe"),
            ("<unk> so [laughs] (coughs) then", "so then"),
            ("well -- said", "well said"),
            ("  two \n\t lines ", "2 lines"),
        ],
    )
    def test_taken_for_equal(self, one, other):
        task = SpeechRecognition()
        assert task.normalise(one) == task.normalise(other)
        assert task.score(one, Sample("s", "", other)).value == 0.0

    def test_words_still_differ(self):
        task = SpeechRecognition()
        assert task.normalise("their") != task.normalise("there")

    def test_spelling_is_that_of_the_table_given(self, score):
        assert score("my favorite color", "my favourite colour").value == pytest.approx(2 / 3)
        task = SpeechRecognition()
        reference = Sample("s", "", "my favourite colour")
        task.score("", reference)
        task.use_spelling({"colour": "color", "favourite": "favorite"})
        assert task.score("my favorite color", reference).value == 0.0
        assert task.score("MY FAVOURITE COLOUR", reference).value == 0.0


class TestTheTask:
    def test_is_a_stored_task(self):
        task = SpeechRecognition()
        assert isinstance(task, StoredTask)
        assert task.name == "asr"
        assert task.dataset == "demo"

    @pytest.mark.parametrize("name", HUB_SETS)
    def test_making_one_asks_nobody(self, name):
        assert SpeechRecognition(name).dataset == name

    @pytest.mark.parametrize(
        ("name", "suggested"),
        [
            ("librispeech", "librispeech-clean"),
            ("tedlum", "tedlium"),
            ("common_voice", "common-voice"),
        ],
    )
    def test_unknown_name_suggests_the_nearest(self, name, suggested):
        with pytest.raises(InputError, match=f"unknown dataset {name!r}") as caught:
            SpeechRecognition(name)
        assert suggested in caught.value.hint
        assert "demo" in caught.value.hint
        assert "folder" in caught.value.hint

    @pytest.mark.parametrize("name", ["./speech", "a/b", "/no/such", "~/no-such-folder"])
    def test_a_path_that_leads_nowhere(self, name):
        with pytest.raises(InputError, match="no such folder"):
            SpeechRecognition(name)

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "a.wav").touch()
        with pytest.raises(InputError, match="is a file") as caught:
            SpeechRecognition(str(tmp_path / "a.wav"))
        assert "metadata.csv" in caught.value.hint

    def test_embedded_utterances_that_are_missing(self, monkeypatch, tmp_path):
        monkeypatch.setattr("specbench.tasks.speech_sets.demo_dir", lambda: tmp_path)
        task = SpeechRecognition()
        with pytest.raises(InputError, match="no embedded utterances") as caught:
            task.check_available()
        assert "--dataset" in caught.value.hint
