"""Writes demo-lm's model card from what the recipe measured: every figure comes from there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CARD = """# demo-lm

A pair of small language models for trying speculative sampling without a download: a *target* of
{target_millions:.1f} M parameters and a *draft* of {draft_millions:.2f} M, {ratio:.1f} times
smaller. They are a demonstration and a test object, not assistants.

## What they do

- **code**: from the signature and docstring of a small Python function (one of the kind that
  `specbench/demo/grammar.py` generates) to its body.
- **summarization**: from the source of a Python function, docstring removed, to the first line of
  its docstring.

Prompts must be built with `specbench.demo.prompts`. They know nothing else: no chat, no general
programming, no language but terse docstring English. Summaries are often wrong in content.

## Architecture

Llama (`LlamaForCausalLM`), tied embeddings, float16 safetensors, context of 768 positions; one
byte-level BPE tokenizer of 4,096 entries for both, which puts `<bos>` in front and never adds
`<eos>`.

| | layers | hidden | heads (key/value) | head size | intermediate | parameters |
| --- | --- | --- | --- | --- | --- | --- |
{shapes}

## Training

From scratch, by `python -m specbench.demo.train lm`, on {problems:,} generated problems and on the
standard library of CPython {stdlib}: {summaries:,} functions with a docstring and {sources:,}
without. Held out by the hash of the name: one in 18 of the library's function names (and another
for early stopping), and one in twelve combinations of operations of the grammar. Nothing of these
is trained on.

1. The target learns next tokens.
2. A new draft and the target are trained together, on problems, on functions with a docstring and
   on functions without one, continued by the target of stage 1. The draft learns the target's law
   (KL divergence and total variation). The target keeps its own law but *leans towards the draft*
   on summaries, as far as it takes to bring their total variation to about {summary_goal} on
   validation functions; the draft stops learning code at {code_goal}. So the agreement of this pair
   was aimed at, for the number of drafted tokens to matter: it says nothing about other pairs.

Seed {seed}. Device: {device}. torch {torch}, transformers {transformers}.

| stage | steps | tokens (padding included) | seconds | training loss at the end |
| --- | --- | --- | --- | --- |
{fits}

The first loss is in nats per token, prompts weighted {prompt_weight}; the second is the sum of what
target and draft learn. Whole recipe with data, sampling and measuring:
{total_seconds:.0f} s{reused}.

## Measured on the held-out data

{problem_count} problems (`code.jsonl`) and {function_count} functions (`summarization.jsonl`),
weights as exported, computed in float32. Decoding is greedy for ROUGE and pass@1.

| | target | draft |
| --- | --- | --- |
{quality}

Agreement at temperature 1, without top-k or top-p. Overlap: the mean of Σ min(target, draft)
probability along continuations sampled from the target. Acceptance: accepted / drafted tokens of
speculative sampling at γ = 4, counted; what the draft would draft behind its own `<eos>` counts as
neither.

| | overlap | acceptance | tokens per verify step | drafted |
| --- | --- | --- | --- | --- |
{agreement}

## Licences

Weights, tokenizer and generated problems: Apache-2.0. The texts of the standard library, which the
models were trained on and which `summarization.jsonl` quotes, are Copyright (c) 2001 Python
Software Foundation; All Rights Reserved, under the PSF License Version 2: `../LICENSE-PSF.txt`.
"""

RECIPE_FIELDS = ("seed", "prompt_weight", "summary_goal", "code_goal")
_QUALITY = (
    ("code: held-out loss (nats per token)", "code_loss", ".3f"),
    ("code: pass@1", "pass_at_1", ".3f"),
    ("summarization: held-out loss (nats per token)", "summarization_loss", ".3f"),
    ("summarization: ROUGE-1", "rouge1", ".3f"),
    ("summarization: ROUGE-2", "rouge2", ".3f"),
    ("summarization: ROUGE-L", "rougeL", ".3f"),
)


def _shapes(metrics: dict[str, Any]) -> str:
    rows = []
    for role in ("target", "draft"):
        s, count = metrics["shapes"][role], metrics["held_out"][role]["parameters"]
        rows.append(
            f"| {role} | {s['layers']} | {s['hidden']} | {s['heads']} ({s['kv_heads']}) "
            f"| {s['head_dim']} | {s['intermediate']} | {count:,} |"
        )
    return "\n".join(rows)


def fits_table(metrics: dict[str, Any]) -> str:
    """Rows of what each stage of training took."""
    rows = []
    for role, fit in metrics["fits"].items():
        cells = (f"{fit['steps']:,}", f"{fit['tokens']:,}", f"{fit['seconds']:.0f}")
        rows.append(f"| {role} | {' | '.join(cells)} | {fit['train_loss']:.3f} |")
    return "\n".join(rows)


def quality_table(metrics: dict[str, Any], figures: Sequence[tuple[str, str, str]]) -> str:
    """Rows of held-out figures of target and draft: (label, key, format) each."""
    target, draft = metrics["held_out"]["target"], metrics["held_out"]["draft"]
    return "\n".join(
        f"| {label} | {target[key]:{form}} | {draft[key]:{form}} |" for label, key, form in figures
    )


def _agreement(metrics: dict[str, Any]) -> str:
    rows = []
    for task in ("code", "summarization"):
        m = metrics["held_out"][task]
        rows.append(
            f"| {task} | {m['overlap']:.3f} | {m['acceptance']:.3f} | {m['tokens_per_step']:.2f} "
            f"| {m['drafted']:,} |"
        )
    return "\n".join(rows)


def write_card(path: Path, metrics: dict[str, Any]) -> None:
    """Fills the card with the figures of metrics.json."""
    sizes = {role: metrics["held_out"][role]["parameters"] for role in ("target", "draft")}
    text = _CARD.format(
        **metrics["data"],
        **metrics["environment"],
        **{key: metrics["recipe"][key] for key in RECIPE_FIELDS},
        target_millions=sizes["target"] / 1e6,
        draft_millions=sizes["draft"] / 1e6,
        ratio=sizes["target"] / sizes["draft"],
        shapes=_shapes(metrics),
        fits=fits_table(metrics),
        quality=quality_table(metrics, _QUALITY),
        agreement=_agreement(metrics),
        total_seconds=metrics["total_seconds"],
        reused=metrics.get("reused", ""),
        problem_count=metrics["held_out"]["problem_count"],
        function_count=metrics["held_out"]["function_count"],
    )
    path.write_text(text, "utf-8")
