"""From a plan to rows, on a CPU: figures, failures, interruptions, and the order of measuring."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from specbench.micro import measure as module
from specbench.micro import subject
from specbench.micro.inputs import make_sets
from specbench.micro.measure import measure
from specbench.micro.plan import Shape, make_plan
from specbench.micro.subject import Subject, against_floor, timed_call, verify_call
from specbench.micro.timing import Card
from specbench.report.schema import MICRO_SCHEMA
from specbench.sampling.registry import get_method
from specbench.sampling.verifier import Verifier
from specbench.telemetry.nvml import NvmlSampler
from specbench.telemetry.profile import KernelTimes

CPU = torch.device("cpu")
TINY = {"vocab_size": "31", "batch_size": "2", "gamma": "3", "dtype": "float32", "replays": 3}


def silent(_):
    pass


def test_a_row_for_each_method_and_shape():
    plan = make_plan(CPU, **TINY | {"vocab_size": "31,64"})
    outcome = measure(plan, silent, silent)
    assert not outcome.interrupted
    assert [(row["vocab_size"], row["method"]) for row in outcome.rows] == [
        (shape.vocab_size, method.name) for shape in plan.shapes for method in plan.methods
    ]
    for row in outcome.rows:
        assert set(row) <= set(MICRO_SCHEMA.names)
        if row["status"] == "ok":
            assert row["time_from"] == "wall"
            assert row["time_us"] == row["wall_us"] > 0
            assert len(row["wall_us_samples"]) == row["replays"] == 3
            assert 0 <= row["accepted"] <= 3
            assert "graph_us" not in row
            assert "floor_us" not in row


def failing_law(step):
    raise RuntimeError("no such kernel\nand a page of advice")


def test_a_method_that_fails_is_a_row_and_the_others_go_on():
    plan = make_plan(CPU, method="baseline,fused", **TINY)
    plan.methods[0] = replace(plan.methods[0], law=failing_law)
    first, second = measure(plan, silent, silent).rows
    assert (first["status"], first["error"]) == ("failed", "RuntimeError: no such kernel")
    assert "time_us" not in first
    assert second["status"] == "ok"


def test_inputs_that_do_not_fit_fail_every_method_of_the_shape(monkeypatch):
    def full(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr(module, "make_sets", full)
    rows = measure(make_plan(CPU, method="baseline,fused", **TINY), silent, silent).rows
    assert [(row["method"], row["error"]) for row in rows] == [
        ("baseline", "MemoryError: no room"), ("fused", "MemoryError: no room"),
    ]  # fmt: skip


def test_ctrl_c_keeps_the_finished_shapes(monkeypatch):
    saved = []

    def interrupt(text):
        if text.startswith("timing 2/2"):
            raise KeyboardInterrupt

    plan = make_plan(CPU, method="fused", **TINY | {"vocab_size": "31,64"})
    outcome = measure(plan, lambda rows: saved.append(len(rows)), interrupt)
    assert outcome.interrupted
    assert [row["vocab_size"] for row in outcome.rows] == [31]
    assert saved == [1]


class TestLostGpu:
    """Errors that stick to the process: what was finished stands, and nothing more is tried."""

    PLAN = TINY | {"vocab_size": "31,64,100"}

    @pytest.fixture
    def calls(self, monkeypatch):
        """Every sample that was tried; from `at` on each fails as CUDA's calls do then."""
        tried, sample = [], Subject.sample

        def sampled(self):
            tried.append((self.shape.vocab_size, self.method.name))
            if tried[-1] == tried_at[0]:
                raise loss()
            sample(self)

        tried_at = [None]
        monkeypatch.setattr(Subject, "sample", sampled)
        return tried, tried_at

    def test_finished_shapes_are_kept_and_the_rest_fails(self, calls):
        tried, at = calls
        at[0] = (64, "fused")
        saved = []
        plan = make_plan(CPU, method="baseline,fused", **self.PLAN)
        outcome = measure(plan, lambda rows: saved.append(len(rows)), silent)
        lost = "the GPU was lost in fused at B 2 γ 3 V 64 float32: CUDA error: device unavailable"
        assert outcome.lost == lost
        assert [(row["status"], row.get("error")) for row in outcome.rows] == [
            ("ok", None), ("ok", None),
            ("failed", f"not measured: {lost}"),
            ("failed", "AcceleratorError: CUDA error: device unavailable"),
            ("failed", f"not measured: {lost}"), ("failed", f"not measured: {lost}"),
        ]  # fmt: skip
        assert saved == [2, 4, 6]
        assert all(vocab < 100 for vocab, _ in tried), "a dead context is left alone"
        assert tried.count((64, "fused")) == 1
        assert tried.count((64, "baseline")) == 1

    @pytest.mark.parametrize("where", ["measure_card", "make_sets"])
    def test_before_anything_was_measured(self, monkeypatch, where):
        def fail(*_, **__):
            raise loss()

        monkeypatch.setattr(module, where, fail)
        outcome = measure(make_plan(CPU, method="fused", **self.PLAN), silent, silent)
        assert outcome.lost.endswith("CUDA error: device unavailable")
        assert [row["status"] for row in outcome.rows] == ["failed"] * 3

    def test_leaving_the_device_may_fail_once_more(self, monkeypatch, calls):
        @contextmanager
        def on(device):
            yield
            raise loss()

        monkeypatch.setattr(module, "_on", on)
        calls[1][0] = (64, "fused")
        outcome = measure(make_plan(CPU, method="fused", **self.PLAN), silent, silent)
        assert [row["status"] for row in outcome.rows] == ["ok", "failed", "failed"]

    def test_while_it_is_profiled_the_times_stand(self, monkeypatch):
        profiled = []

        def fail(*_, **__):
            profiled.append(1)
            raise loss()

        monkeypatch.setattr(subject, "profile_kernels", fail)
        plan = make_plan(CPU, method="baseline,fused", **self.PLAN)
        rows = measure(plan, silent, silent).rows
        outcome = module.Outcome(rows)
        bench = module._Bench(plan, Card(), outcome)
        for shape in plan.shapes:
            bench._profile(shape, [row for row in rows if row["vocab_size"] == shape.vocab_size])
        assert len(profiled) == 1
        assert "device unavailable" in outcome.lost
        assert {row["status"] for row in rows} == {"ok"}
        assert all("device unavailable" in row["profile_error"] for row in rows)


def loss():
    error = torch.AcceleratorError("CUDA error: device unavailable\nand a page of advice")
    error.error_code = 46
    return error


def test_methods_take_turns_there_and_back(monkeypatch):
    order = []
    monkeypatch.setattr(Subject, "sample", lambda self: order.append(self.method.name))
    monkeypatch.setattr(Subject, "row", lambda self: {"status": "failed"})
    measure(make_plan(CPU, method="baseline,exact,fused", **TINY), silent, silent)
    there = ["baseline", "exact", "fused"]
    assert order == [*there, *there[::-1], *there]


ROW = {"l2": "cold", "graph_us": 10.0, "kernel_us": 8.0, "wall_us": 50.0, "read_gbps": 3000.0,
       "bytes_moved": 15e6}  # fmt: skip


class TestFloor:
    def test_of_a_graph(self):
        found = against_floor(ROW)
        assert (found["time_us"], found["time_from"]) == (10.0, "graph")
        assert found["floor_us"] == pytest.approx(5.0)
        assert found["floor_ratio"] == pytest.approx(2.0)
        assert found["bandwidth_share"] == pytest.approx(0.5)

    def test_of_the_kernels_where_there_is_no_graph(self):
        found = against_floor(ROW | {"graph_us": None})
        assert (found["time_us"], found["time_from"]) == (8.0, "kernels")

    def test_wall_time_on_a_gpu_is_no_kernel_time(self):
        assert against_floor(ROW | {"graph_us": None, "kernel_us": None}) == {}


class TestTwoPasses:
    """The GPU's way, with its clocks and its profiler made up."""

    @pytest.fixture
    def rows(self, monkeypatch):
        """Of baseline, of which no graph can be captured, and fused; timed, then profiled."""

        def capture(calls):
            if calls[0].func is get_method("baseline").law:
                raise RuntimeError("called a synchronizing CUDA operation")
            return len(calls)

        def profile_kernels(call, calls, before, without):
            accepted, token = call()
            assert accepted.shape == token.shape == (2,)
            return KernelTimes(4.0, 1.0, {"verify": 4.0})

        plan = make_plan(CPU, method="baseline,fused", **TINY)
        who = [(method, l2) for method in plan.methods for l2 in ("cold", "warm")]
        monkeypatch.setattr(module._Bench, "_who", lambda self: who)
        monkeypatch.setattr(subject, "warm_up", lambda call: call())
        monkeypatch.setattr(subject, "capture", capture)
        monkeypatch.setattr(subject, "replay_us", lambda graph, calls, before: float(calls))
        monkeypatch.setattr(subject, "host_us", lambda calls, count: float(count))
        monkeypatch.setattr(subject, "profile_kernels", profile_kernels)
        bench = module._Bench(
            plan, Card(read_gbps=1.0, launch_floor_us=1.0, l2_bytes=1), module.Outcome()
        )
        (shape,) = plan.shapes
        with NvmlSampler(None) as nvml:
            rows = bench._timed(shape, nvml)
        assert all("kernel_us" not in row for row in rows)
        bench._profile(shape, rows)
        return {(row["method"], row["l2"]): row for row in rows}

    def test_a_graph_holds_all_cold_sets_or_the_warm_one_again(self, rows):
        cold, warm = rows["fused", "cold"], rows["fused", "warm"]
        assert (cold["input_sets"], cold["calls_per_replay"], cold["graph_us"]) == (2, 2, 2.0)
        assert (warm["input_sets"], warm["calls_per_replay"], warm["graph_us"]) == (1, 32, 32.0)
        assert (cold["time_us"], cold["time_from"], cold["kernel_us"]) == (2.0, "graph", 4.0)
        assert cold["host_us_samples"] == [5.0] * 3

    def test_without_a_graph_the_kernels_stand_for_it(self, rows):
        row = rows["baseline", "cold"]
        assert (row["time_us"], row["time_from"], row["launches"]) == (4.0, "kernels", 1.0)
        assert row["graph_error"] == "RuntimeError: called a synchronizing CUDA operation"
        assert row["floor_ratio"] == pytest.approx(4.0 / (row["bytes_moved"] / 1e3))
        assert all(set(row) <= set(MICRO_SCHEMA.names) for row in rows.values())


class TestTimedCall:
    """What of a method's call is timed."""

    def made(self, method):
        shape = Shape(2, 3, 31, "float32")
        (one,) = make_sets(shape, 1, noise=0.6, seed=0, device=CPU)
        verifier = Verifier(method, 2, 3, 31, torch.float32, CPU)
        return verifier, one

    def test_torch_operations_end_with_the_count_and_the_token(self):
        verifier, one = self.made("baseline")
        accepted, token = timed_call(verifier, one)()
        whole = verify_call(verifier, one)()
        assert accepted.tolist() == whole.num_accepted.tolist()
        assert token.tolist() == whole.tokens.gather(1, accepted[:, None])[:, 0].tolist()

    def test_what_a_method_binds_is_done_once_and_not_timed(self):
        done = []

        def bind(step):
            done.append(("bound", step.tempered, step.lengths.tolist()))
            return lambda: done.append("called")

        verifier, one = self.made(replace(get_method("baseline"), bind=bind))
        call = timed_call(verifier, one)
        call(), call()
        assert done == [("bound", False, [3, 3]), "called", "called"]
