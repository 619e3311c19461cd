"""What only a GPU can show: graphs, cold and warm inputs, kernel time, and the card's own limits."""

from dataclasses import replace

import pytest
import torch

from specbench.cuda.graphs import capture, refuse_waiting
from specbench.micro.inputs import COLD_SETS
from specbench.micro.measure import measure
from specbench.micro.plan import make_plan
from specbench.micro.timing import measure_card, replay_us, warm_up
from specbench.sampling.baseline import verify_baseline

pytestmark = pytest.mark.gpu
SMALL = {"vocab_size": "32000", "batch_size": "1", "gamma": "5", "dtype": "float32"}


def gpu():
    return torch.device("cuda", 0)


def rows_of(plan):
    outcome = measure(plan, lambda rows: None, lambda text: None)
    return {(row["method"], row["l2"]): row for row in outcome.rows}


def test_a_kernel_has_every_figure():
    plan = make_plan(gpu(), method="baseline,fused", replays=12, **SMALL)
    rows = rows_of(plan)
    assert set(rows) == {(m, l2) for m in ("baseline", "fused") for l2 in ("cold", "warm")}
    for row in rows.values():
        assert (row["status"], row["time_from"]) == ("ok", "graph"), row.get("error")
        assert len(row["graph_us_samples"]) == len(row["host_us_samples"]) == 12
        assert row["kernel_us"] > 0
        assert row["wall_us"] > 0
        assert row["host_us"] > 0
        assert row["floor_ratio"] > 1 > row["bandwidth_share"]
    cold, warm = rows["fused", "cold"], rows["fused", "warm"]
    assert (cold["implementation"], cold["launches"]) == ("cuda", 1)
    assert cold["graph_us"] >= 0.5 * warm["graph_us"]
    assert cold["input_sets"] == cold["calls_per_replay"] == COLD_SETS
    assert warm["input_sets"] == 1
    assert rows["baseline", "cold"]["launches"] > 5
    assert abs(cold["accepted"] - cold["expected_accepted"]) < 0.5


def waiting_law(step):
    if not bool((step.lengths >= 0).all()):  # waits for the GPU at every step
        raise AssertionError
    return verify_baseline(step)


def test_a_method_that_waits_for_the_gpu_has_kernel_time_and_no_graph():
    plan = make_plan(gpu(), method="baseline,fused", replays=3, **SMALL)
    plan.methods[0] = replace(plan.methods[0], name="waiting", law=waiting_law)
    rows = rows_of(plan)
    row = rows["waiting", "cold"]
    assert (row["status"], row["time_from"]) == ("ok", "kernels")
    assert row["time_us"] == row["kernel_us"] > 0
    assert "graph_us" not in row
    assert "synchronizing" in row["graph_error"]
    assert rows["fused", "cold"]["time_from"] == "graph"


def careful_law(step):
    if not torch.cuda.is_current_stream_capturing():
        step.lengths.sum().item()
    return verify_baseline(step)


def test_a_method_that_waits_outside_of_captures_alone_has_a_graph():
    plan = make_plan(gpu(), method="baseline", replays=3, **SMALL)
    plan.methods[0] = replace(plan.methods[0], name="careful", law=careful_law)
    assert rows_of(plan)["careful", "cold"]["time_from"] == "graph"


def failing_law(step):
    raise torch.cuda.OutOfMemoryError("no room")


def test_a_method_that_fails_leaves_the_others_alone():
    plan = make_plan(gpu(), method="baseline,fused", replays=3, **SMALL)
    plan.methods[0] = replace(plan.methods[0], law=failing_law)
    rows = rows_of(plan)
    assert rows["baseline", "cold"]["status"] == "failed"
    assert "no room" in rows["baseline", "warm"]["error"]
    assert rows["fused", "cold"]["status"] == "ok"


def test_a_sweep_makes_the_next_reads_slow_and_is_in_no_profile():
    """A step whose 11 MB stay in the L2 otherwise."""
    plan = make_plan(gpu(), method="fused", replays=10, **SMALL | {"vocab_size": "256000"})
    rows = rows_of(plan)
    cold, warm = rows["fused", "cold"], rows["fused", "warm"]
    assert cold["graph_us"] > 1.1 * warm["graph_us"]
    assert cold["launches"] == warm["launches"] == 1
    assert cold["kernel_us"] < 2 * warm["kernel_us"]


def test_the_card_is_measured():
    card = measure_card(gpu())
    assert 50 < card.read_gbps < 20_000
    assert 0.2 < card.launch_floor_us < 20
    assert card.l2_bytes > 0


def test_a_replay_is_timed_per_call():
    block = torch.zeros(1 << 26, device="cuda")
    warm_up(lambda: block.add_(1))
    one, many = capture([lambda: block.add_(1)] * 4), capture([lambda: block.add_(1)] * 16)
    assert replay_us(one, 4) == pytest.approx(replay_us(many, 16), rel=0.2)


def test_looking_for_waits_leaves_torch_as_it_was():
    asked = torch.cuda.is_current_stream_capturing
    with pytest.raises(RuntimeError, match="synchronizing"):
        refuse_waiting(lambda: torch.ones(1, device="cuda").item())
    assert torch.cuda.get_sync_debug_mode() == 0
    assert torch.cuda.is_current_stream_capturing is asked
