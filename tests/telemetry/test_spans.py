"""Spans: phases are what lies between marks, and the engine tells them in order."""

import time

import pytest
import torch

from specbench.telemetry.spans import SpanRecorder

CPU = torch.device("cpu")


def test_a_phase_lasts_from_the_mark_before_it():
    recorder = SpanRecorder(CPU)
    recorder.start()
    recorder.mark("prefill")
    for pause in (0.02, 0.04):
        recorder.mark("draft")
        recorder.mark("target")
        time.sleep(pause)
        recorder.mark("verify")
        recorder.mark("commit")
    recorder.finished(0)
    spans = recorder.spans()
    assert [round(us / 1e4) for us in spans.verify_us] == [2, 4]
    assert len(spans.draft_us) == len(spans.target_us) == 2
    assert max(spans.draft_us + spans.target_us) < 1e4
    assert 0.02 < spans.ttft_s < spans.wall_s
    assert spans.wall_s == spans.finished_s[0] >= 0.06


def test_nothing_is_left_of_the_run_before():
    recorder = SpanRecorder(CPU)
    for _ in range(2):
        recorder.start()
        recorder.mark("prefill")
    spans = recorder.spans()
    assert spans.verify_us == []
    assert spans.ttft_s is None
    assert spans.finished_s == {}


def test_the_engine_marks_every_step_in_order():
    from transformers import LlamaConfig, LlamaForCausalLM

    from specbench.engine.batch import Request
    from specbench.engine.model import CausalModel
    from specbench.engine.native import Decoding, NativeEngine
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

        def mark(self, phase):
            heard.append(phase)

        def finished(self, sequence):
            heard.append(f"finished {sequence}")

    engine = NativeEngine(model, model, [])
    (generation,) = engine.generate(
        [Request((1, 2))], get_method("fused"), make_policy("2"), Decoding(6), Ear()
    )
    steps = len(generation.step_drafted)
    step = ["random", "draft", "target", "verify", "commit"]
    assert heard == ["start", "prefill", *step * steps, "finished 0"]


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
