"""Scoring code: what is run, how often, and where it is refused."""

from __future__ import annotations

import pytest

from specbench.errors import MachineError
from specbench.sandbox import supervisor
from specbench.tasks import code
from specbench.tasks.base import JudgedTask, LargeTask, StoredTask, get_task
from specbench.tasks.code import Code

WALLED = any(supervisor.fault(kind) is None for kind in supervisor.KINDS[:2])
walled = pytest.mark.skipif(not WALLED, reason="no isolation works on this machine")


@pytest.fixture
def jobs(monkeypatch):
    """What is handed to the sandbox."""
    seen, original = [], code.judge_all

    def spy(new, **how):
        seen.append(new)
        return original(new, **how)

    monkeypatch.setattr(code, "judge_all", spy)
    return seen


def test_is_all_of_these():
    task = get_task("code")
    assert isinstance(task, StoredTask)
    assert isinstance(task, LargeTask)
    assert isinstance(task, JudgedTask)
    assert not isinstance(get_task("summarization"), JudgedTask)
    assert not isinstance(get_task("asr"), JudgedTask)


@walled
class TestScores:
    def test_one_or_nothing_and_the_reason(self):
        task = Code()
        sample = task.samples("demo")[0]
        right, wrong, broken = task.score_all(
            [(sample.reference, sample), ("    return 'no'\n", sample), ("    return (", sample)]
        )
        assert (right.metric, right.value, right.weight) == ("pass@1", 1.0, 1.0)
        assert right.metrics == {"pass@1": 1.0}
        assert right.verdict == "passed"
        assert (wrong.value, wrong.verdict) == (0.0, "AssertionError")
        assert broken.value == 0.0
        assert broken.verdict.startswith("SyntaxError")
        assert task.score(sample.reference, sample) == right

    def test_the_same_code_is_run_once(self, jobs):
        task = Code()
        one, other = task.samples()[:2]
        answers = [(one.reference, one)] * 3 + [(one.reference, other)]
        first = task.score_all(answers)
        assert [len(new) for new in jobs] == [2]
        assert task.score_all(answers) == first
        assert len(jobs) == 1

    def test_the_style_of_the_prompt_is_of_no_matter(self, jobs):
        task = Code()
        for style in ("demo", "instruction"):
            sample = task.samples(style)[0]
            assert task.score(sample.reference, sample).value == 1
        assert len(jobs) == 1


def test_without_walls_nothing_is_run(monkeypatch):
    monkeypatch.setattr(supervisor, "fault", lambda kind: "tried in vain")
    task = Code()
    sample = task.samples()[0]
    with pytest.raises(MachineError, match="cannot be run safely"):
        task.check_sandbox(False)
    with pytest.raises(MachineError, match="cannot be run safely") as caught:
        task.score(sample.reference, sample)
    assert "--allow-unsandboxed-code" in caught.value.hint
    assert task.check_sandbox(True) == "none"
    assert task.score(sample.reference, sample).value == 1
