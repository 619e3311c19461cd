"""The result file: one Parquet file per run, one row per generated sequence.

A null means that the machine or this version could not tell; it is never written as 0.

History of `SCHEMA_VERSION` (readers refuse a newer major number):
    1.0 (2026-11): the first.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

SCHEMA_VERSION = "1.0"
METADATA_KEY = b"specbench"
"""Key of the file's metadata: a JSON object with `schema_version`, `run_id`, `created_utc`, `argv`,
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
    pa.field("implementation", _TEXT),  # "torch" (the law as torch ops) or "cuda" (a kernel)
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
