"""The result files, of two kinds: of `specbench run`, one row per generated sequence, and of
`specbench micro`, one row per shape, method and state of the L2.

A null means that the machine or this version could not tell; it is never written as 0.

History of `SCHEMA_VERSION` (readers refuse a newer major number):
    1.0 (2026-11): the first; later with files of the kind "micro", which changed nothing for runs.
    1.1 (2026-11): batches. New: `execution`, `load_format`, `synthetic_acceptance`, `prompt_lengths`,
        `refill`; `first_step`, `step_random_us`, `step_commit_us`, `step_end_s`; `start_s`,
        `batch_wall_s`, `prefill_s`, `capture_s`, `gpu_s`, `host_gap_s`. `mfu` is no longer always
        null. `wall_s` and `ttft_s` begin when the sequence takes its slot, before with the batch.
    1.2 (2026-11): speech. New: `audio_s`; `prefill_s` has the encoders in it.
    1.3 (2026-11): code that is run, documents. New: `completions_per_sample`, `completion`,
        `chat_template`; `document_kept`, `answer_tokens`; `verdict`. Where an answer was cut,
        `hypothesis` is what was scored, and `target_logprob` is of its tokens. How it reads:
        `repetition_4`, `distinct_1`, `distinct_2`; of an approximation `law_tv`. `verify_kernel_us` and
        `verify_launches` are no longer always null.
    1.4 (2026-11): decoding stops where an answer is final. `finish_reason` may be "stop"; what a step
        brought past that is in no column. Before, it went on and was cut afterwards.
    1.5 (2026-11): who else is on the GPU: `foreign_processes`. Energy of short batches, for sums:
        `energy_coarse_j`, with `energy_period_s`; `energy_j` wants ten such periods, before a second.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

SCHEMA_VERSION = "1.5"
METADATA_KEY = b"specbench"
"""Key of the file's metadata: a JSON object with `schema_version`, `kind` ("micro"; a run's file has
none), `run_id`, `created_utc`, `argv`,
`scenario` (text), `scenario_sha256`, `git_sha`, `git_dirty`, `packages`, `device_name`, `driver`,
`cuda`, `clocks`, `kernel_hash`, `python`, `platform`; of a run also `methods` and
`resolved_scenario` (JSON text of all the scenario's fields); of an A/B also `INTERLEAVED`, `build`
("reference" or "new") and `turns` (when each repeat's process began, and its place among all)."""

INTERLEAVED = "interleaved"
"""Key of the metadata: an id that both files of an A/B have, whose builds ran in turns on one machine."""

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
    pa.field("completion", pa.int32()),  # which of a sample's completions, from 0
    pa.field("method", _TEXT),
    # what verified: "torch" (the law as torch ops) or "cuda" (a kernel); at γ = 0 what would have
    pa.field("implementation", _TEXT),
    pa.field("engine", _TEXT),
    pa.field("attention", _TEXT),  # "pad" or "split"
    pa.field("execution", _TEXT),  # how a step ran: "eager", "graphs" or "compiled"
    pa.field("load_format", _TEXT),  # "auto": the pair's weights; "dummy": random ones of its shape
    # probability with which each draft was accepted, whatever the models said; null: the verifier
    # decided. At γ = 0 nothing is accepted, but the value stands there too: it is the same case.
    pa.field("synthetic_acceptance", pa.float64()),
    # of the task synthetic, the lengths that were asked for: "512", "128,2048"; null: texts
    pa.field("prompt_lengths", _TEXT),
    pa.field("refill", pa.bool_()),  # whether a waiting sequence takes the slot of one that ended
    pa.field("completions_per_sample", pa.int32()),  # sequences of each sample, of other luck
    pa.field("chat_template", pa.bool_()),  # whether the prompt went through the tokenizer's
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
    pa.field("audio_s", _SECONDS),  # length of what a speech pair heard; null: it reads
    # share of a document's characters that are in the prompt: under 1 where the models have too few
    # positions for all; null: there is no document
    pa.field("document_kept", pa.float64()),
    pa.field("new_tokens", _COUNT),
    # "eos"; "stop": the answer was final, so decoding stopped there; "length": at max_new_tokens
    pa.field("finish_reason", _TEXT),
    # new tokens with which the answer was whole: fewer than all where it ended before them and the rest
    # was cut, since only the whole output shows that, or the file is of 1.3; null: it was never seen to
    # end, or the task cuts nothing
    pa.field("answer_tokens", _COUNT),
    pa.field("verify_steps", _COUNT),
    pa.field("drafted", _COUNT),  # drafts offered to the verifier
    pa.field("accepted", _COUNT),  # drafts kept: without the resampled or bonus token
    # The batch's step in which the sequence ran first: 0 unless it was refilled. The lists below are
    # of its own steps, the batch's from first_step to first_step + verify_steps; the times of a step
    # are the whole batch's.
    pa.field("first_step", pa.int32()),
    pa.field("step_gamma", pa.list_(pa.int32())),  # drafts made; those offered may be fewer
    pa.field("step_drafted", pa.list_(pa.int32())),
    pa.field("step_accepted", pa.list_(pa.int32())),
    pa.field("step_random_us", pa.list_(pa.float32())),  # random numbers of torch operations
    pa.field("step_draft_us", pa.list_(pa.float32())),
    pa.field("step_target_us", pa.list_(pa.float32())),
    pa.field("step_verify_us", pa.list_(pa.float32())),
    pa.field("step_commit_us", pa.list_(pa.float32())),  # the tokens' way to the host
    pa.field("step_end_s", pa.list_(_SECONDS)),  # from the batch's start to the tokens on the host
]

TIME: list[pa.Field[Any]] = [
    # Captures and compiling are cut out of all of these.
    pa.field("start_s", _SECONDS),  # from the batch's start until the sequence took its slot
    pa.field("wall_s", _SECONDS),  # of the sequence from then on, prefill included
    pa.field("ttft_s", _SECONDS),  # from then until its first verify step's tokens are there
    pa.field("draft_s", _SECONDS),  # over its own steps, as are the next two
    pa.field("target_s", _SECONDS),
    pa.field("verify_s", _SECONDS),
    # The batch's, the same in each of its rows.
    pa.field("batch_wall_s", _SECONDS),  # from its start to its last sequence's end
    pa.field("prefill_s", _SECONDS),  # all its prefills, and what encoders took to hear
    pa.field("capture_s", _SECONDS),  # capturing and compiling, beside the wall time
    pa.field("gpu_s", _SECONDS),  # all phases in the stream; null on a CPU
    pa.field("host_gap_s", _SECONDS),  # batch_wall_s - gpu_s, a lower bound; see telemetry.spans
    pa.field("verify_kernel_us", pa.float64()),  # per step, from the profiling pass
    pa.field("verify_launches", pa.float64()),  # per step, from the profiling pass
]

MACHINE: list[pa.Field[Any]] = [
    pa.field("nvml_t_s", pa.list_(pa.float64())),  # monotonic host clock, from the batch's start
    pa.field("nvml_gpu_util_pct", pa.list_(pa.float32())),
    pa.field("nvml_mem_used_bytes", pa.list_(pa.int64())),
    pa.field("nvml_power_w", pa.list_(pa.float32())),
    pa.field("nvml_sm_clock_mhz", pa.list_(pa.float32())),
    # an equal share of the batch's; null if it is shorter than ten periods, or captures were in it
    pa.field("energy_j", pa.float64()),
    # the same where it is shorter: off by a period's worth at either end, so fit for sums alone
    pa.field("energy_coarse_j", pa.float64()),
    pa.field("energy_period_s", _SECONDS),  # between two steps of the GPU's counter
    # of the process: models, this case's caches and logits, and what its block of cases shares
    pa.field("peak_memory_bytes", _COUNT),
    # the batch's: 2 · parameters · tokens processed / batch_wall_s / peak; null: no peak is known
    pa.field("mfu", pa.float64()),
    pa.field("throttle_reasons", pa.list_(_TEXT)),  # see report.clocks
    # who else computed on the GPU: "python3 (pid 4711, 2.1 GB)", in a container the pid alone, there
    # maybe of the host's numbering; [] if nobody; null: it is not told
    pa.field("foreign_processes", pa.list_(_TEXT)),
]

QUALITY: list[pa.Field[Any]] = [
    pa.field("hypothesis", _TEXT),  # what is scored; of code, what was run behind the prompt
    pa.field("reference", _TEXT),
    pa.field("metric", _TEXT),  # the headline metric's name: "rouge1", "wer", "pass@1"
    pa.field("metric_value", pa.float64()),
    pa.field("metric_weight", pa.float64()),  # the corpus figure is the mean weighted by this
    pa.field("metrics", pa.map_(_TEXT, pa.float64())),  # every metric by name, the headline too
    pa.field("verdict", _TEXT),  # of code that was run: "passed", or why not
    pa.field("target_logprob", pa.float64()),  # mean per new token of the answer, nats
    # of the answer's tokens, the end token left out: see tasks.fluency; null: too few of them
    pa.field("repetition_4", pa.float64()),
    pa.field("distinct_1", pa.float64()),
    pa.field("distinct_2", pa.float64()),
    # total variation of the laws by which an approximation emitted all tokens from the target's, their
    # mean; null: the method is exact or does not say its law, or nothing was drafted
    pa.field("law_tv", pa.float64()),
]

SCHEMA = pa.schema(WHAT + COUNTS + TIME + MACHINE + QUALITY)

CASE_KEY = [
    "pair", "task", "dataset", "prompt_lengths", "load_format", "method", "engine", "attention",
    "execution", "gamma", "batch_size", "refill", "completions_per_sample", "chat_template",
    "synthetic_acceptance", "temperature", "top_k", "top_p", "sigmoid_alpha", "sigmoid_beta",
    "max_new_tokens", "dtype",
]  # fmt: skip
"""Columns that make two rows the same case; runs are compared case by case on these."""

BEFORE_1_1: dict[str, Any] = {
    "load_format": "auto", "execution": "eager", "refill": False, "synthetic_acceptance": None,
    "prompt_lengths": None,
}  # fmt: skip
"""Columns of `CASE_KEY` that files of schema 1.0 lack, and what those runs did, since there was nothing
else: so they find their twins in later files."""

BEFORE_1_3: dict[str, Any] = {
    "completions_per_sample": 1, "completion": 0, "chat_template": False,
}  # fmt: skip
"""The same of columns that files of schema 1.2 and older lack."""

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
