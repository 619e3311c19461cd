"""The recipe of the embedded demo: `python -m specbench.demo.train lm`, `... data` or `... asr`.

`lm` trains the pair `demo-lm` from scratch (grammar problems and the standard library), measures
it, and writes two model directories, metrics.json and MODEL_CARD.md. `data` writes the held-out
problems and functions as JSONL. Both read the standard library of the running Python, or the one
that `--stdlib` names; a library is parsed in full only by a Python of its own version.

`asr` speaks the sentences of the speech pair `demo-asr`, trains it, measures it, and writes its
held-out audio, two model directories, metrics.json and MODEL_CARD.md; see `specbench.demo.speech`.
"""

import argparse
import json
import logging
import platform
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from specbench.demo import corpus, dataset, fitting, scoring
from specbench.demo.card import write_card
from specbench.demo.dataset import Data, code_examples, summary_examples
from specbench.demo.fitting import DRAFT, TARGET, Control, Fit, Pair, Trainer
from specbench.demo.prompts import code_prompt, summarization_prompt
from specbench.demo.recipe import FULL, SMOKE, Recipe
from specbench.demo.tokens import (
    WIDTHS,
    Example,
    Kind,
    Tokens,
    encode,
    plan,
    store,
    train_tokenizer,
)

HERE = Path(__file__).parent
GAMMA = 4
MAX_SUMMARY = 40
MAX_BODY = 160  # tokens; one problem in a thousand needs more than 128
log = logging.getLogger(__name__)


# --- training ------------------------------------------------------------------------------


def _checks(tokenizer: Any, data: Data, device: str, summary_weight: float = 0.3) -> Any:
    """Validation losses; the summaries' count less, being several times larger."""
    code = encode(tokenizer, code_examples(data.validation_problems)).to(device)
    functions = encode(tokenizer, summary_examples(data.validation_functions)).to(device)
    pad = tokenizer.pad_token_id

    def check(model: Any, done: float) -> dict[str, float]:
        with fitting.autocast(device):
            summary = fitting.completion_loss(model, functions, pad)
            return {
                "validation_code": fitting.completion_loss(model, code, pad),
                "summary": summary,
                "validation_summary_weighted": summary * summary_weight,
            }

    return check


def train_target(tokenizer: Any, data: Data, recipe: Recipe, device: str) -> tuple[Any, Fit]:
    """Stage 1: next tokens of problems, functions and their summaries."""
    tokens, order = dataset.target_tokens(tokenizer, data, recipe)
    batches = plan(tokens, order, recipe.budget, recipe.seed)
    log.info("target: %d examples, %d batches", len(order), len(batches))
    model = fitting.new_model(TARGET, recipe.seed).to(device)
    if device == "cuda":
        fitting.compile_layers(model)
    loss = fitting.language_loss(recipe.prompt_weight)
    trainer = Trainer(model, tokens.to(device), loss, recipe.target, tokenizer.pad_token_id)
    report = fitting.fit(trainer, batches, _checks(tokenizer, data, device))
    return model, report


def sampled_tokens(
    tokenizer: Any, target: Any, prompts: list[str], longest: int, rows_at_once: int
) -> Tokens:
    """The prompts with one completion each, sampled from the target at temperature 1."""
    ready = tokenizer(prompts)["input_ids"]
    short = [i for i, ids in enumerate(ready) if len(ids) <= WIDTHS[-1]]
    texts = [prompts[i] for i in short]
    outputs = scoring.generate(target, tokenizer, texts, longest, True, rows_at_once)
    end = [tokenizer.eos_token_id]
    pairs = [
        (ready[i], rest + end if len(rest) < longest else rest)
        for i, rest in zip(short, outputs, strict=True)
    ]
    return store(pairs, [Kind.SAMPLED] * len(pairs))


def joined(parts: list[Tokens]) -> Tokens:
    """One store of several."""
    offsets = [0]
    for part in parts:
        offsets.append(offsets[-1] + len(part.flat))
    starts = [part.starts + offset for part, offset in zip(parts, offsets, strict=False)]
    columns = [torch.cat([getattr(p, n) for p in parts]) for n in ("lengths", "prompts", "kinds")]
    return Tokens(torch.cat([p.flat for p in parts]), torch.cat(starts), *columns)


def paired_tokens(
    tokenizer: Any, target: Any, data: Data, recipe: Recipe
) -> tuple[Tokens, list[int]]:
    """Functions with a summary, some without and a sampled one, and problems with their bodies.

    The functions without a docstring matter most: the target has learnt no summary of them by
    heart, so its law there is like its law on functions that it never saw.
    """
    plain = [f for f in data.sources if not f.is_test] * recipe.samples
    others = [f for f in data.sources if f.is_test]
    prompts = [summarization_prompt(f.source) for f in plain + others]
    sampled = sampled_tokens(tokenizer, target, prompts, MAX_SUMMARY, recipe.sample_rows)
    known = encode(tokenizer, summary_examples(data.summaries))
    code = encode(tokenizer, code_examples(data.problems[-recipe.paired_problems :]))
    functions = len(sampled) + len(known)
    order = list(range(functions)) * recipe.paired_epochs
    return joined([sampled, known, code]), order + [functions + i for i in range(len(code))]


def _pair_check(
    tokenizer: Any, target: Any, data: Data, recipe: Recipe, device: str, control: Control
) -> Any:
    """Total variation on validation prompts, continued by the target as it was at the start."""
    prompts = {
        "code": [code_prompt(p) for p, _, _ in data.validation_problems],
        "summary": [summarization_prompt(f.source) for f in data.validation_functions],
    }
    stores = {
        key: sampled_tokens(tokenizer, target, texts, MAX_BODY, recipe.sample_rows).to(device)
        for key, texts in prompts.items()
    }
    losses = _checks(tokenizer, data, device)

    def check(pair: Any, done: float) -> dict[str, float]:
        with fitting.autocast(device):
            found = {
                key: fitting.variation(pair.target, pair.draft, tokens, tokenizer.pad_token_id)
                for key, tokens in stores.items()
            }
        control.update(found["summary"], found["code"], done)
        told = {"lean": control.lean, "code_weight": control.code_weight}
        scores = {f"{role}_{key}": value for role in ("target", "draft")
                  for key, value in losses(getattr(pair, role), done).items()}  # fmt: skip
        return {f"distance_{key}": value for key, value in found.items()} | told | scores

    return check


def train_pair(
    tokenizer: Any, base: Any, data: Data, recipe: Recipe, device: str
) -> tuple[Any, Fit]:
    """A new draft and a copy of the given target, together; `base` itself stays as it is."""
    torch.manual_seed(recipe.seed + 1)
    target = fitting.uncompiled(base).to(torch.bfloat16 if device == "cuda" else torch.float32)
    control = Control(recipe.summary_goal, recipe.code_goal)
    tokens, order = paired_tokens(tokenizer, target, data, recipe)
    check = _pair_check(tokenizer, target, data, recipe, device, control)
    batches = plan(tokens, order, recipe.budget, recipe.seed + 1)
    log.info("pair: %d examples, %d batches", len(order), len(batches))
    draft = fitting.new_model(DRAFT, recipe.seed + 1).to(device)
    pair = Pair(fitting.uncompiled(base).train(), draft)
    if device == "cuda":
        for model in (pair.target, pair.draft, target):
            fitting.compile_layers(model)
    loss = fitting.agreement_loss(target, control)
    trainer = Trainer(pair, tokens.to(device), loss, recipe.pair, tokenizer.pad_token_id)
    report = fitting.fit(trainer, batches, check)
    return pair, report


# --- writing and measuring -----------------------------------------------------------------


def export(model: Any, tokenizer: Any, folder: Path) -> None:
    """A complete model directory in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = fitting.uncompiled(model)
    plain.to(torch.float16).save_pretrained(folder)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
               for name in ("bos", "eos", "pad")}  # fmt: skip
    GenerationConfig(**special).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load(folder: Path, device: str) -> tuple[Any, Any]:
    """A model directory in float32, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval().to(device), AutoTokenizer.from_pretrained(folder)


def quality(model: Any, tokenizer: Any, data: Data, device: str) -> dict[str, Any]:
    """One model on both abilities: loss per token, ROUGE and pass@1 of greedy decoding."""
    rows, problems = data.held_out_functions, data.held_out_problems
    prompts = [summarization_prompt(row["source"]) for row in rows]
    pad = tokenizer.pad_token_id
    answers = [Example(p, row["reference"]) for p, row in zip(prompts, rows, strict=True)]
    bodies = [Example(code_prompt(p["prompt"]), p["canonical_solution"]) for p in problems]
    summaries = scoring.generate(model, tokenizer, prompts, MAX_SUMMARY)
    written = scoring.generate(model, tokenizer, [b.prompt for b in bodies], MAX_BODY)
    decoded = [tokenizer.decode(ids, skip_special_tokens=True) for ids in summaries]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "summarization_loss": fitting.completion_loss(
            model, encode(tokenizer, answers).to(device), pad),
        "code_loss": fitting.completion_loss(model, encode(tokenizer, bodies).to(device), pad),
        **scoring.rouge(decoded, [row["reference"] for row in rows]),
        "pass_at_1": scoring.pass_rate(problems, texts),
        "summaries": decoded[:6],
        "bodies": texts[:6],
    }  # fmt: skip


def agreement(
    target: Any, draft: Any, tokenizer: Any, prompts: list[str], longest: int
) -> dict[str, float]:
    """Overlap along sampled continuations of the target, and counted acceptance at gamma 4."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    outputs = scoring.generate(target, tokenizer, prompts, longest, sample=True)
    ready = tokenizer(prompts)["input_ids"]
    whole = [
        p + o + ([end] if len(o) < longest else []) for p, o in zip(ready, outputs, strict=True)
    ]
    counts = scoring.acceptance(target, draft, ready, GAMMA, longest, end, pad)
    return {
        "overlap": scoring.overlap(target, draft, whole, [len(p) for p in ready]),
        **counts.rates,
        **asdict(counts),
    }


def evaluate(folder: Path, data: Data, device: str, seed: int) -> dict[str, Any]:
    """Measures the exported pair, in float32."""
    target, tokenizer = load(folder / "target", device)
    draft, _ = load(folder / "draft", device)
    torch.manual_seed(seed)
    summaries = [summarization_prompt(row["source"]) for row in data.held_out_functions]
    problems = [code_prompt(row["prompt"]) for row in data.held_out_problems]
    return {
        "problem_count": len(problems),
        "function_count": len(summaries),
        "target": quality(target, tokenizer, data, device),
        "draft": quality(draft, tokenizer, data, device),
        "summarization": agreement(target, draft, tokenizer, summaries, MAX_SUMMARY),
        "code": agreement(target, draft, tokenizer, problems, MAX_BODY),
    }


def environment(device: str, stdlib: Path) -> dict[str, str]:
    """What a run depends on besides the recipe."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "stdlib": stdlib_version(stdlib),
    }


def stdlib_version(stdlib: Path) -> str:
    """The version of the library that was read: of another Python, by its folder."""
    if stdlib == corpus.default_stdlib():
        return platform.python_version()
    found = re.search(r"3\.\d+(\.\d+)?", stdlib.name)
    return found.group() if found else "unknown"


def base_target(
    recipe: Recipe, data: Data, device: str, reuse: Path | None
) -> tuple[Any, Any, dict[str, Any]]:
    """The target before it meets the draft, its tokenizer, and how its training went."""
    if reuse:
        model, tokenizer = load(reuse, device)
        return model, tokenizer, json.loads((reuse / "fit.json").read_text("utf-8"))
    tokenizer = train_tokenizer(dataset.tokenizer_texts(data))
    model, report = train_target(tokenizer, data, recipe, device)
    return fitting.uncompiled(model), tokenizer, asdict(report)


def run_lm(arguments: argparse.Namespace) -> None:
    """The whole recipe, from the seeds to the card."""
    recipe = SMOKE if arguments.smoke else FULL
    torch.set_float32_matmul_precision("high")
    device, output, began = arguments.device, arguments.output, time.monotonic()
    data = dataset.gather(recipe, arguments.stdlib)
    log.info("%d problems, %d summaries", len(data.problems), len(data.summaries))
    base, tokenizer, report = base_target(recipe, data, device, arguments.reuse_base)
    if arguments.keep_base:
        export(base, tokenizer, arguments.keep_base)
        (arguments.keep_base / "fit.json").write_text(json.dumps(report), "utf-8")
    pair, paired = train_pair(tokenizer, base, data, recipe, device)
    export(pair.target, tokenizer, output / "target")
    export(pair.draft, tokenizer, output / "draft")
    fits = {"target": report, "pair": asdict(paired)}
    reused = " (the target's first stage was run before)" if arguments.reuse_base else ""
    finish(output, recipe, data, fits, device, arguments.stdlib, began, reused)


def finish(
    output: Path, recipe: Recipe, data: Data, fits: dict[str, Any], device: str, stdlib: Path,
    began: float, reused: str,
) -> None:  # fmt: skip
    """Measures the pair and writes metrics.json and the card."""
    held_out = evaluate(output, data, device, recipe.seed)
    metrics = {
        "recipe": asdict(recipe),
        "environment": environment(device, stdlib),
        "data": {"problems": len(data.problems), "summaries": len(data.summaries),
                 "sources": len(data.sources)},
        "shapes": {"target": asdict(TARGET), "draft": asdict(DRAFT)},
        "fits": fits,
        "held_out": held_out,
        "total_seconds": time.monotonic() - began,
        "reused": reused,
    }  # fmt: skip
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", "utf-8")
    write_card(output / "MODEL_CARD.md", metrics)
    log.info("%s\ntotal %.0f s", json.dumps(held_out, indent=1), metrics["total_seconds"])


def run_data(arguments: argparse.Namespace) -> None:
    """Writes the two JSONL files."""
    functions = corpus.library(arguments.stdlib)
    arguments.output.mkdir(parents=True, exist_ok=True)
    dataset.write_rows(arguments.output / "code.jsonl", dataset.code_rows())
    rows = dataset.summarization_rows(functions)
    dataset.write_rows(arguments.output / "summarization.jsonl", rows)


def run_asr(arguments: argparse.Namespace) -> None:
    """The whole recipe of the speech pair."""
    from specbench.demo.speech import recipe as speech  # its packages come with the extra "demo"

    speech.run(arguments.output, arguments.device, arguments.smoke, arguments.reuse_target)


def parser() -> argparse.ArgumentParser:
    """The command line; each part of the demo has a command."""
    top = argparse.ArgumentParser(prog="specbench.demo.train", description=__doc__)
    commands = top.add_subparsers(required=True)
    lm = commands.add_parser("lm", help="train, measure and export the pair demo-lm")
    lm.add_argument("--output", type=Path, default=HERE / "lm")
    lm.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    lm.add_argument("--smoke", action="store_true", help="a minute on a CPU: every step, no skill")
    lm.add_argument(
        "--keep-base", type=Path, help="also write the target before it meets the draft"
    )
    lm.add_argument("--reuse-base", type=Path, help="start from such a target")
    lm.set_defaults(run=run_lm)
    data = commands.add_parser("data", help="write the held-out problems and functions")
    data.add_argument("--output", type=Path, default=HERE)
    data.set_defaults(run=run_data)
    asr = commands.add_parser("asr", help="speak, train, measure and export the pair demo-asr")
    asr.add_argument("--output", type=Path, default=HERE / "asr")
    asr.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asr.add_argument("--smoke", action="store_true", help="a minute on a CPU: every step, no skill")
    asr.add_argument("--reuse-target", type=Path, help="a stored target: train the draft alone")
    asr.set_defaults(run=run_asr)
    for command in (lm, data):
        command.add_argument("--stdlib", type=Path, default=corpus.default_stdlib())
    return top


def main() -> None:
    """Parses the command line and runs the command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    arguments = parser().parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
