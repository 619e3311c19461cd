"""Which phase of which step a kernel belongs to, out of a profiler's trace."""

import gzip
import json

import pytest
import torch

from specbench.errors import MachineError
from specbench.telemetry.trace import MARK, StepTrace, phases, tracks


def mark(what, ts):
    return {"cat": "user_annotation", "name": MARK + what, "ts": ts, "dur": 1.0, "ph": "X"}


def launch(number, ts, cat="cuda_runtime"):
    return {"cat": cat, "name": "launch", "ts": ts, "dur": 0.5, "args": {"correlation": number}}


def kernel(name, number, ts, dur, cat="kernel"):
    return {"cat": cat, "name": name, "ts": ts, "dur": dur, "args": {"correlation": number}}


TWO_STEPS = [
    mark("ready", 0),
    launch(1, 2), launch(2, 3), mark("target", 10),
    launch(3, 12, "cuda_driver"), launch(4, 13), mark("verify", 20),
    launch(5, 22), mark("commit", 30),
    launch(6, 35),  # between a mark and the next ready: of no phase
    mark("ready", 40),
    launch(7, 42), mark("target", 50),
    launch(8, 52), mark("verify", 60),
    # The GPU is far behind the host: by its own clock, all of this ran after the last mark.
    kernel("gemm", 1, 100, 50), kernel("gemm", 2, 150, 50),
    kernel("verify", 3, 200, 4), kernel("fill", 4, 204, 2, "gpu_memset"),
    kernel("copy", 5, 206, 3, "gpu_memcpy"),
    kernel("stray", 6, 209, 1),
    # A graph's kernels bear its launch's number.
    kernel("gemm", 7, 210, 50), kernel("norm", 7, 260, 10),
    kernel("verify", 8, 270, 6),
    kernel("unlaunched", 99, 280, 5),
    {"name": "process_name", "ph": "M"},
]  # fmt: skip


def test_a_kernel_belongs_to_the_phase_that_launched_it():
    found = [(one.phase, [event["name"] for event in one.work]) for one in phases(TWO_STEPS)]
    assert found == [
        ("target", ["gemm", "gemm"]), ("verify", ["verify", "fill"]), ("commit", ["copy"]),
        ("target", ["gemm", "norm"]), ("verify", ["verify"]),
    ]  # fmt: skip


def test_a_launch_that_the_trace_lacks_is_placed_by_its_number():
    """As of a cooperative kernel launched by the driver: no event of the host, but its number."""
    trace = [
        mark("ready", 0), launch(1, 0.2),  # each mark makes a launch of its own
        launch(2, 5), mark("target", 10), launch(3, 10.2),
        mark("verify", 20), launch(6, 20.2),
        mark("commit", 30), launch(8, 30.2),
        kernel("fill", 1, 90, 1, "gpu_memset"), kernel("gemm", 2, 100, 50),
        kernel("fill", 3, 190, 1, "gpu_memset"), kernel("verify", 4, 200, 4),
        kernel("verify too", 5, 205, 4), kernel("fill", 6, 215, 1, "gpu_memset"),
        kernel("commit", 7, 220, 1), kernel("fill", 8, 225, 1, "gpu_memset"),
        kernel("before", 0, 80, 1), kernel("after", 9, 300, 1),
    ]  # fmt: skip
    found = [(one.phase, [event["name"] for event in one.work]) for one in phases(trace)]
    assert found == [
        ("target", ["gemm"]), ("verify", ["verify", "verify too"]), ("commit", ["commit"]),
    ]  # fmt: skip


def test_the_order_of_the_events_does_not_matter():
    assert phases(TWO_STEPS[::-1])[1].work == phases(TWO_STEPS)[1].work[::-1]


def test_figures_are_of_one_step():
    trace = StepTrace(torch.device("cpu"))
    trace._events = TWO_STEPS
    verify = trace.kernels("verify")
    assert (verify.kernel_us, verify.launches) == (6.0, 1.5)
    assert verify.by_name == {"verify": 5.0, "fill": 1.0}
    assert trace.kernels("target").kernel_us == 80.0
    assert trace.kernels("draft") is None
    trace._events = [event for event in TWO_STEPS if event.get("cat") != "kernel"]
    with pytest.raises(MachineError, match="saw no kernel"):
        trace.kernels("target")


def test_the_tracks_show_host_and_gpu():
    shown = [(one["tid"].split()[-1], one["name"], one["ts"], one["dur"])
             for one in tracks(phases(TWO_STEPS)[:2])]  # fmt: skip
    assert shown == [
        ("host", "target", 1.0, 9.0), ("GPU", "target", 100, 100),
        ("host", "verify", 11.0, 9.0), ("GPU", "verify", 200, 6),
    ]  # fmt: skip


def decode(trace, mode="eager", device="cpu"):
    from specbench.engine.batch import Request
    from specbench.engine.decoding import Decoding, Execution
    from specbench.engine.model import CausalModel
    from specbench.engine.native import NativeEngine
    from specbench.pairs import get_pair, load_pair
    from specbench.sampling.policy import make_policy
    from specbench.sampling.registry import get_method

    pair = load_pair(get_pair("demo-lm"), device, "float32")
    engine = NativeEngine(CausalModel(pair.target), CausalModel(pair.draft), [])

    def run(watch=None):
        return engine.generate(
            [Request(tuple(range(20, 40)))], get_method("fused"), make_policy("3"), Decoding(8),
            watch, Execution(mode),
        )[0]  # fmt: skip

    run()
    with trace:
        return run(trace)


def test_a_generation_is_traced_phase_by_phase(tmp_path):
    trace = StepTrace(torch.device("cpu"))
    steps = len(decode(trace).step_drafted)
    names = [one.phase for one in phases(trace.events)]
    assert names[0] == "prefill"
    for phase in ("draft", "target", "verify", "commit"):
        assert names.count(phase) == steps, phase
    trace.write(tmp_path / "trace.json.gz")
    with gzip.open(tmp_path / "trace.json.gz", "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    own = [event for event in events if event.get("cat") == "phase"]
    assert len(own) == len(names)
    # The target's forward stands inside its phase.
    first = next(event for event in own if event["name"] == "target")
    inside = [event["name"] for event in events if event.get("cat") == "cpu_op"
              and first["ts"] <= event["ts"] <= first["ts"] + first["dur"]]  # fmt: skip
    assert any("linear" in name or "mm" in name for name in inside)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["eager", "graphs"])
def test_the_verify_step_is_one_kernel_on_a_gpu(mode):
    trace = StepTrace(torch.device("cuda"))
    decode(trace, mode, "cuda")
    verify, target = trace.kernels("verify"), trace.kernels("target")
    assert verify.launches == 1
    assert any("fused" in name for name in verify.by_name)
    assert target.launches > 20
    assert verify.kernel_us < target.kernel_us
