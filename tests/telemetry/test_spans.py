"""Spans: phases are what lies between marks, captures are nobody's, and the engine tells all in order."""

from __future__ import annotations

import time

import pytest
import torch

from specbench.telemetry import spans as module
from specbench.telemetry.spans import SpanRecorder

CPU = torch.device("cpu")
GPU = torch.device("cuda")


class Machine:
    """A host and a GPU whose clocks stand still until they are told otherwise; in seconds.

    The host launches work that the GPU does after what it had before. An event is reached when that
    is done, or at once if the GPU has nothing to do.
    """

    def __init__(self):
        self.host = 1000.0
        self.busy_until = 0.0

    def perf_counter(self):
        return self.host

    def synchronize(self, device=None):
        self.host = max(self.host, self.busy_until)

    def works(self, seconds):
        """The host does something else."""
        self.host += seconds

    def launches(self, seconds):
        """Of work on the GPU; the host does not wait."""
        self.busy_until = max(self.host, self.busy_until) + seconds

    def event(self, enable_timing):
        assert enable_timing
        machine = self

        class Event:
            def record(self):
                self.at = max(machine.host, machine.busy_until)

            def elapsed_time(self, other):
                return (other.at - self.at) * 1e3

        return Event()


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(module.time, "perf_counter", machine.perf_counter)
    monkeypatch.setattr(torch.cuda, "Event", machine.event)
    monkeypatch.setattr(torch.cuda, "synchronize", machine.synchronize)
    return machine


def step(recorder, machine, gap=0.0, work=0.0):
    """A step whose host takes `gap` before each phase, which then keeps the GPU for `work`."""
    for phase in ("random", "draft", "target", "verify", "commit"):
        machine.works(gap)
        recorder.ready()
        machine.launches(work)
        if phase == "commit":
            machine.synchronize()
        recorder.mark(phase)


def close(seconds):
    return pytest.approx(seconds, rel=1e-9, abs=1e-9)


class TestOnTheHost:
    def test_a_phase_lasts_from_the_mark_before_it(self, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
        recorder = SpanRecorder(CPU)
        recorder.start()
        recorder.mark("prefill")
        for pause in (0.02, 0.04):
            recorder.mark("draft")
            recorder.mark("target")
            now[0] += pause
            recorder.mark("verify")
            recorder.mark("commit")
        recorder.finished(0)
        recorder.finished(1)
        spans = recorder.spans()
        assert spans.finished_s[0] == spans.finished_s[1], "the same step was the last of both"
        assert [us / 1e6 for us in spans.verify_us] == [close(0.02), close(0.04)]
        assert spans.draft_us == spans.target_us == [0, 0]
        assert spans.step_end_s == [close(0.02), close(0.06)]
        assert spans.wall_s == spans.finished_s[0] == close(0.06)

    def test_or_from_its_ready(self, machine):
        recorder = SpanRecorder(CPU)
        recorder.start()
        machine.works(5)
        recorder.ready()
        machine.works(2)
        recorder.mark("draft")
        machine.works(3)
        recorder.mark("target")
        recorder.mark("commit")
        spans = recorder.spans()
        assert spans.draft_us == [close(2e6)]
        assert spans.target_us == [close(3e6)], "a ready counts for one phase only"

    def test_every_phase_has_its_list(self, machine):
        recorder = SpanRecorder(CPU)
        recorder.start()
        for seconds, phase in enumerate(("prefill", "random", "draft", "target", "verify"), 1):
            machine.works(seconds)
            recorder.mark(phase)
        machine.works(6)
        recorder.mark("commit")
        spans = recorder.spans()
        lists = [
            spans.random_us, spans.draft_us, spans.target_us, spans.verify_us, spans.commit_us,
        ]  # fmt: skip
        assert lists == [[close(us * 1e6)] for us in (2, 3, 4, 5, 6)]
        assert spans.prefill_s == close(1)
        assert spans.step_end_s == [close(21)]
        assert spans.wall_s == close(21), "no sequence has ended: up to the last mark"

    def test_a_step_without_drafts_keeps_its_place_in_the_lists(self, machine):
        recorder = SpanRecorder(CPU)
        recorder.start()
        for phases in (("draft", "target", "commit"), ("target", "commit"), ("draft", "commit")):
            for phase in phases:
                machine.works(1)
                recorder.mark(phase)
        machine.works(1)
        recorder.mark("draft")
        spans = recorder.spans()
        assert spans.draft_us == [close(1e6), 0, close(1e6)], "the last step is not finished"
        assert spans.target_us == [close(1e6), close(1e6), 0]
        assert len(spans.commit_us) == len(spans.random_us) == len(spans.step_end_s) == 3

    def test_a_cpu_has_no_gpu_time(self, machine):
        recorder = SpanRecorder(CPU)
        recorder.start()
        step(recorder, machine)
        assert recorder.spans().gpu_s is None

    def test_nothing_is_left_of_the_run_before(self, machine):
        recorder = SpanRecorder(CPU)
        for _ in range(2):
            recorder.start()
            recorder.mark("prefill")
            last = recorder.spans()
            recorder.admitted(0)
            step(recorder, machine)
            recorder.mark("capture")
            recorder.finished(0)
            recorder.ready()
        assert (last.verify_us, last.step_end_s) == ([], [])
        assert (last.finished_s, last.admitted_s, last.capture_s) == ({}, {}, 0)

    def test_a_mark_needs_a_start(self):
        with pytest.raises(RuntimeError, match="before start"):
            SpanRecorder(CPU).mark("draft")

    def test_sequences_that_came_later(self, machine):
        recorder = SpanRecorder(CPU)
        recorder.start()
        recorder.admitted(0)
        recorder.mark("prefill")
        machine.works(4)
        step(recorder, machine)
        recorder.finished(0)
        machine.works(1)
        recorder.admitted(1)
        machine.works(2)
        recorder.mark("prefill")
        step(recorder, machine)
        recorder.finished(1)
        spans = recorder.spans()
        assert spans.admitted_s == {0: close(0), 1: close(5)}
        assert spans.finished_s == {0: close(4), 1: close(7)}
        assert spans.wall_s == close(7)
        assert spans.prefill_s == close(3), (
            "the second prefill began with the first one's last mark"
        )


class TestCaptures:
    @pytest.mark.parametrize("device", [CPU, GPU])
    @pytest.mark.parametrize("places", [(0,), (1,), (2,), (0, 1, 2), (1, 1)])
    def test_are_in_no_figure(self, machine, device, places):
        """The same work with and without captures has the same times."""

        def run(places):
            recorder = SpanRecorder(device)
            recorder.start()
            recorder.admitted(0)
            for moment in range(3):
                for _ in range(places.count(moment)):
                    machine.works(100)
                    recorder.ready()
                    machine.launches(50)
                    machine.synchronize()
                    recorder.mark("capture")
                step(recorder, machine, gap=0.5, work=2)
                if moment == 0:
                    recorder.finished(0)
                    recorder.admitted(1)
            recorder.finished(1)
            return recorder.spans()

        plain, cut = run(()), run(places)
        assert plain.capture_s == 0
        assert cut.capture_s == close(150 * len(places))
        for name in ("wall_s", "prefill_s", "gpu_s", "step_end_s", "finished_s", "admitted_s"):
            assert getattr(cut, name) == pytest.approx(getattr(plain, name), abs=1e-6), name
        for name in ("random_us", "draft_us", "target_us", "verify_us", "commit_us"):
            assert getattr(cut, name) == pytest.approx(getattr(plain, name), abs=1), name

    def test_the_last_thing_of_all(self, machine):
        recorder = SpanRecorder(CPU)
        recorder.start()
        machine.works(1)
        recorder.mark("prefill")
        machine.works(7)
        recorder.mark("capture")
        spans = recorder.spans()
        assert (spans.wall_s, spans.capture_s) == (close(1), close(7))

    def test_begun_while_the_gpu_works_cost_what_they_delayed(self, machine):
        """3 s of prefill are under way while 10 s of capturing begin: 7 s are the capture's."""
        recorder = SpanRecorder(GPU)
        recorder.start()
        recorder.ready()
        machine.launches(3)
        recorder.mark("prefill")
        machine.works(10)
        machine.synchronize()
        recorder.mark("capture")
        step(recorder, machine, work=1)
        recorder.finished(0)
        spans = recorder.spans()
        assert (spans.prefill_s, spans.capture_s) == (close(3), close(7))
        assert (spans.wall_s, spans.gpu_s) == (close(8), close(8))


class TestHostGap:
    def run(self, machine, gap, work, steps=3, ready=True):
        recorder = SpanRecorder(GPU)
        if not ready:
            recorder.ready = lambda: None
        recorder.start()
        recorder.mark("prefill")
        for _ in range(steps):
            step(recorder, machine, gap, work)
        recorder.finished(0)
        return recorder.spans()

    def test_is_what_the_host_takes_before_each_launch_on_an_idle_gpu(self, machine):
        """Work of no length: five launches a step, 0.1 s before each."""
        spans = self.run(machine, gap=0.1, work=0)
        assert spans.wall_s - spans.gpu_s == close(3 * 5 * 0.1)
        assert spans.gpu_s == close(0)

    def test_hides_behind_work_that_is_under_way(self, machine):
        """The host waits at the end of a step alone, so only a step's first launch finds the GPU idle."""
        spans = self.run(machine, gap=0.1, work=2)
        assert spans.wall_s - spans.gpu_s == close(3 * 0.1)
        assert spans.target_us == [close(2e6)] * 3

    def test_without_ready_is_part_of_the_phases(self, machine):
        spans = self.run(machine, gap=0.1, work=0, ready=False)
        assert spans.gpu_s == close(spans.wall_s)
        assert spans.target_us == [close(1e5)] * 3

    @pytest.mark.parametrize("gap", [0.0, 0.3, 5.0])
    @pytest.mark.parametrize("work", [0.0, 0.2, 4.0])
    def test_gpu_time_and_gap_are_the_wall_time(self, machine, gap, work):
        spans = self.run(machine, gap, work)
        assert 0 <= spans.gpu_s <= spans.wall_s + 1e-9
        assert spans.gpu_s == close(3 * 5 * work)


def test_the_engine_tells_everything_in_order():
    from transformers import LlamaConfig, LlamaForCausalLM

    from specbench.engine.batch import Request
    from specbench.engine.decoding import Decoding
    from specbench.engine.model import CausalModel
    from specbench.engine.native import NativeEngine
    from specbench.sampling.policy import make_policy
    from specbench.sampling.registry import get_method

    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=1,
        intermediate_size=8,
        num_attention_heads=1,
    )
    model = CausalModel(LlamaForCausalLM(config).eval())
    heard = []

    class Ear:
        def start(self):
            heard.append("start")

        def admitted(self, sequence):
            heard.append(f"admitted {sequence}")

        def ready(self):
            heard.append("ready")

        def mark(self, phase):
            heard.append(phase)

        def finished(self, sequence):
            heard.append(f"finished {sequence}")

    engine = NativeEngine(model, model, [])
    (generation,) = engine.generate(
        [Request((1, 2))], get_method("fused"), make_policy("2"), Decoding(6), Ear()
    )
    phases = ["random", "draft", "target", "verify", "commit"]
    steps = len(generation.step_drafted)
    told = [word for word in heard if word != "ready"]
    assert told == ["start", "admitted 0", "prefill", *phases * steps, "finished 0"]
    for i, word in enumerate(heard):
        assert (heard[i - 1] == "ready") == (word in {"prefill", *phases}), "each made ready, once"


@pytest.mark.gpu
def test_gpu_phases_are_what_the_gpu_spent():
    device = torch.device("cuda")
    work = torch.randn(4096, 4096, device=device)
    recorder = SpanRecorder(device)
    recorder.start()
    recorder.mark("prefill")
    recorder.mark("draft")
    for _ in range(20):
        work @ work
    recorder.mark("target")
    recorder.mark("verify")
    torch.cuda.synchronize()
    recorder.mark("commit")
    spans = recorder.spans()
    assert spans.target_us[0] > 20 * spans.verify_us[0]
    assert spans.target_us[0] / 1e6 < spans.wall_s * 1.05


@pytest.mark.gpu
def test_gpu_waiting_for_the_host_is_no_phase():
    device = torch.device("cuda")
    work = torch.randn(1024, 1024, device=device)
    work @ work
    recorder = SpanRecorder(device)
    recorder.start()
    recorder.mark("prefill")
    for _ in range(5):
        time.sleep(0.02)
        recorder.ready()
        work @ work
        torch.cuda.synchronize()
        recorder.mark("commit")
    spans = recorder.spans()
    assert 0.1 <= spans.wall_s - spans.gpu_s <= spans.wall_s
    assert max(spans.commit_us) < 1e4
