"""The result files, of two kinds: of `specbench run`, one row per generated sequence, and of
`specbench micro`, one row per shape, method and state of the L2.

A null means that the machine or this version could not tell; it is never written as 0.

History of `SCHEMA_VERSION` (readers refuse a newer major number):
    1.0 (2026-11): the first; later with files of the kind "micro", which changed nothing for runs.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

SCHEMA_VERSION = "1.0"
METADATA_KEY = b"specbench"
"""Key of the file's metadata: a JSON object with `schema_version`, `kind` ("micro"; a run's file has
none), `run_id`, `created_utc`, `argv`,
`scenario` (text), `scenario_sha256`, `git_sha`, `git_dirty`, `packages`, `device_name`, `driver`,
`cuda`, `clocks`, `kernel_hash`, `python`, `platform`."""

_TEXT, _COUNT, _SECONDS = pa.string(), pa.int64(), pa.float64()

WHAT: list[pa.Field[Any]] = [
    pa.field("run_id", _TEXT),
    pa.field("case_id", _TEXT),
    pa.field("scenario", _TEXT),
    pa.field("pair", _TEXT),
    pa.field("target", _TEXT),
    pa.field("draft", _TEXT),
    pa.field("task", _TEXT),
    pa.field("dataset", _TEXT),
    pa.field("sample_id", _TEXT),
    pa.field("method", _TEXT),
    # what verified: "torch" (the law as torch ops) or "cuda" (a kernel); at γ = 0 what would have
    pa.field("implementation", _TEXT),
    pa.field("engine", _TEXT),
    pa.field("attention", _TEXT),
    pa.field("gamma", _TEXT),  # as asked: "4", "heuristic", "bass"
    pa.field("batch_size", pa.int32()),
    pa.field("batch_index", pa.int32()),  # which batch of its case and repeat the sequence stood in
    pa.field("temperature", pa.float64()),
    pa.field("top_k", pa.int32()),  # null: off
    pa.field("top_p", pa.float64()),  # null: off
    pa.field("sigmoid_alpha", pa.float64()),  # null unless the method is sigmoid
    pa.field("sigmoid_beta", pa.float64()),
    pa.field("max_new_tokens", pa.int32()),
    pa.field("dtype", _TEXT),
    pa.field("device_name", _TEXT),
    pa.field("seed", _COUNT),
    pa.field("repeat", pa.int32()),
    pa.field("status", _TEXT),  # "ok", "failed" or "skipped"
    pa.field("error", _TEXT),
]

COUNTS: list[pa.Field[Any]] = [
    pa.field("prompt_tokens", _COUNT),
    pa.field("new_tokens", _COUNT),
    pa.field("finish_reason", _TEXT),  # "eos" or "length"
    pa.field("verify_steps", _COUNT),
    pa.field("drafted", _COUNT),  # drafts offered to the verifier
    pa.field("accepted", _COUNT),  # drafts kept: without the resampled or bonus token
    pa.field("step_gamma", pa.list_(pa.int32())),  # drafts made; those offered may be fewer
    pa.field("step_drafted", pa.list_(pa.int32())),
    pa.field("step_accepted", pa.list_(pa.int32())),
    pa.field("step_draft_us", pa.list_(pa.float32())),
    pa.field("step_target_us", pa.list_(pa.float32())),
    pa.field("step_verify_us", pa.list_(pa.float32())),
]

TIME: list[pa.Field[Any]] = [
    pa.field("wall_s", _SECONDS),  # of the sequence, prefill included
    pa.field("ttft_s", _SECONDS),  # until the first verify step's tokens are there
    pa.field("draft_s", _SECONDS),
    pa.field("target_s", _SECONDS),
    pa.field("verify_s", _SECONDS),
    pa.field("verify_kernel_us", pa.float64()),  # per step, from the profiling pass
    pa.field("verify_launches", pa.float64()),  # per step, from the profiling pass
]

MACHINE: list[pa.Field[Any]] = [
    pa.field("nvml_t_s", pa.list_(pa.float64())),  # monotonic host clock, from the sequence's start
    pa.field("nvml_gpu_util_pct", pa.list_(pa.float32())),
    pa.field("nvml_mem_used_bytes", pa.list_(pa.int64())),
    pa.field("nvml_power_w", pa.list_(pa.float32())),
    pa.field("nvml_sm_clock_mhz", pa.list_(pa.float32())),
    pa.field("energy_j", pa.float64()),
    pa.field("peak_memory_bytes", _COUNT),
    pa.field("mfu", pa.float64()),
    pa.field("throttle_reasons", pa.list_(_TEXT)),
]

QUALITY: list[pa.Field[Any]] = [
    pa.field("hypothesis", _TEXT),
    pa.field("reference", _TEXT),
    pa.field("metric", _TEXT),  # the headline metric's name: "rouge1", "wer", "pass"
    pa.field("metric_value", pa.float64()),
    pa.field("metric_weight", pa.float64()),  # the corpus figure is the mean weighted by this
    pa.field("metrics", pa.map_(_TEXT, pa.float64())),  # every metric by name, the headline too
    pa.field("target_logprob", pa.float64()),  # mean per new token, nats
]

SCHEMA = pa.schema(WHAT + COUNTS + TIME + MACHINE + QUALITY)

CASE_KEY = [
    "pair", "task", "dataset", "method", "engine", "attention", "gamma", "batch_size",
    "temperature", "top_k", "top_p", "sigmoid_alpha", "sigmoid_beta", "max_new_tokens", "dtype",
]  # fmt: skip
"""Columns that make two rows the same case; runs are compared case by case on these."""

RUN, MICRO = "run", "micro"
"""Kinds of result files."""

_SAMPLES = pa.list_(pa.float32())

MICRO_FACTS: list[pa.Field[Any]] = [
    pa.field("run_id", _TEXT),
    pa.field("preset", _TEXT),  # "custom" if an option replaced one of its axes
    pa.field("method", _TEXT),
    pa.field("exact", pa.bool_()),
    pa.field("implementation", _TEXT),  # "torch" or "cuda"
    pa.field("batch_size", pa.int32()),
    pa.field("gamma", pa.int32()),
    pa.field("vocab_size", pa.int32()),
    pa.field("dtype", _TEXT),
    pa.field("noise", pa.float64()),  # standard deviation of draft - target, in logits
    pa.field("l2", _TEXT),  # "cold": swept before; "warm": the same again; null on a CPU
    pa.field("device_name", _TEXT),
    pa.field("seed", _COUNT),
    pa.field("status", _TEXT),  # "ok" or "failed"
    pa.field("error", _TEXT),
    pa.field("input_sets", pa.int32()),
    pa.field("set_bytes", _COUNT),  # both logits of one set
    pa.field("l2_bytes", _COUNT),
    pa.field("calls_per_replay", pa.int32()),
    pa.field("replays", pa.int32()),
    pa.field("accepted", pa.float64()),  # drafts, the mean over the sets' sequences
    pa.field("expected_accepted", pa.float64()),  # in theory; null unless token by token
    pa.field("time_us", pa.float64()),  # of one call: the figure that counts
    pa.field("time_from", _TEXT),  # "graph", "kernels" (sum of durations) or, on a CPU, "wall"
    pa.field("bytes_moved", pa.float64()),  # that must come from memory for one call
    pa.field("read_gbps", pa.float64()),  # 1e9 bytes/s, measured on this card
    pa.field("launch_floor_us", pa.float64()),  # the smallest kernel in a graph
    pa.field("floor_us", pa.float64()),  # bytes_moved / read_gbps
    pa.field("floor_ratio", pa.float64()),  # time_us / floor_us
    pa.field("bandwidth_share", pa.float64()),  # floor_us / time_us
    pa.field("kernel_us", pa.float64()),  # per eager call, from the profiling pass
    pa.field("launches", pa.float64()),  # per eager call, from the profiling pass
    pa.field("graph_error", _TEXT),  # why no graph could be captured
    pa.field("profile_error", _TEXT),
    pa.field("throttle_reasons", pa.list_(_TEXT)),
]

MICRO_SAMPLES: list[pa.Field[Any]] = [
    # the median over the replays, interquartile range / median, and the replays' own
    pa.field(f"{name}{part}", kind)
    for name in ("graph_us", "host_us", "wall_us")
    for part, kind in (("", pa.float64()), ("_spread", pa.float64()), ("_samples", _SAMPLES))
]
"""`graph_us`: GPU time in a replayed graph. `host_us`: host time to issue an eager call. `wall_us`: of
an eager call that is waited for."""

MICRO_SCHEMA = pa.schema(MICRO_FACTS + MICRO_SAMPLES)

SHAPE_KEY = ["batch_size", "gamma", "vocab_size", "dtype"]
MICRO_KEY = [*SHAPE_KEY, "noise", "l2", "method"]
"""Columns that make two rows of micro files the same case."""

SCHEMAS = {RUN: SCHEMA, MICRO: MICRO_SCHEMA}
