"""The recipe of the embedded demo: `python -m specbench.demo.train lm` or `... data`.

`lm` trains the pair `demo-lm` from scratch (grammar problems and the standard library), measures
it, and writes two model directories, metrics.json and MODEL_CARD.md. `data` writes the held-out
problems and functions as JSONL. Both take the standard library to read with `--stdlib`.
"""

import argparse
import json
import platform
import re
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from specbench.demo import corpus, fitting, grammar, scoring
from specbench.demo.card import write_card
from specbench.demo.fitting import DRAFT, TARGET, Fit, Loss, Schedule
from specbench.demo.prompts import code_prompt, summarization_prompt
from specbench.demo.tokens import Example, Tokens, encode, plan, store, train_tokenizer

HERE = Path(__file__).parent
GAMMA = 4
MAX_SUMMARY = 40
MAX_BODY = 160
CHUNK = 4000


@dataclass(frozen=True)
class Recipe:
    """Every number that a run depends on."""

    seed: int = 20261122
    problems: int = 900_000
    reverse_every: int = 12
    summary_epochs: int = 10
    source_epochs: int = 2
    functions: int = 1_000_000
    test_sources: int = 16_000
    prompt_weight: float = 0.2
    validation: int = 240
    budget: int = 32_768
    measured: int = 1000
    sharpening: float = 0.6
    distilled_problems: int = 350_000
    samples: int = 5
    sample_rows: int = 2048
    distill_epochs: int = 3
    variation_weight: float = 1.0
    target: Schedule = Schedule(rate=3e-3, seconds=170)
    draft: Schedule = Schedule(rate=5e-3, seconds=110, noise=0.1)


FULL = Recipe()
SMOKE = replace(
    FULL, problems=600, summary_epochs=1, source_epochs=1, functions=60,
    test_sources=0, measured=4, validation=8,
    budget=2048, distilled_problems=200, samples=1, sample_rows=16, distill_epochs=1,
    target=Schedule(rate=3e-3, warmup=3, seconds=25, checks=2),
    draft=Schedule(rate=5e-3, warmup=3, seconds=12, checks=2, noise=0.1),
)  # fmt: skip


# --- data ----------------------------------------------------------------------------------


@dataclass
class Data:
    """Everything drawn before training; a problem is (prompt, body, docstring's first line)."""

    problems: list[tuple[str, str, str]]
    validation_problems: list[tuple[str, str, str]]
    held_out_problems: list[dict[str, str]]
    summaries: list[corpus.Function]
    sources: list[corpus.Function]
    validation_functions: list[corpus.Function]
    held_out_functions: list[dict[str, str]]


def _told(problem: grammar.Problem) -> tuple[str, str, str]:
    return problem.prompt, problem.body, problem.docstring.split("\n")[0]


def _problems(span: tuple[int, int]) -> list[tuple[str, str, str]]:
    return [_told(problem) for problem in grammar.training_problems(*span)]


def _validation_problems(count: int) -> list[tuple[str, str, str]]:
    """Held-out combinations that are not published."""
    published = grammar.held_out_behaviours()
    found, seed = [], 2 * grammar.SEED_STRIDE
    while len(found) < count:
        seed += 1
        problem = grammar.draw(seed, reserved=True)
        if grammar.held_out(problem.combination) and grammar.behaviour(problem) not in published:
            found.append(_told(problem))
    return found


def code_rows() -> list[dict[str, str]]:
    """The held-out problems in HumanEval's fields."""
    return [
        {
            "task_id": f"demo/{number}",
            "prompt": problem.prompt,
            "entry_point": problem.name,
            "canonical_solution": problem.body,
            "test": grammar.check_source(problem),
        }
        for number, problem in enumerate(grammar.held_out_problems())
    ]


def summarization_rows(functions: list[corpus.Function]) -> list[dict[str, str]]:
    """The held-out functions: source in, the docstring's first line out."""
    return [
        {
            "id": f"demo/{number}",
            "name": function.name,
            "module": function.module,
            "source": function.source,
            "reference": function.summary,
        }
        for number, function in enumerate(corpus.held_out_summaries(functions))
    ]


def gather(recipe: Recipe, stdlib: Path) -> Data:
    """Draws the problems on all cores while one of them reads the library."""
    starts = range(0, recipe.problems, CHUNK)
    spans = [(start, min(start + CHUNK, recipe.problems)) for start in starts]
    with ProcessPoolExecutor() as pool:
        reading = pool.submit(corpus.library, stdlib)
        drawn = list(pool.map(_problems, spans))
        functions = reading.result()
    allowed = corpus.training_functions(functions)
    plain = corpus.without_summary(allowed)
    tests = [f for f in plain if f.is_test][: recipe.test_sources]
    return Data(
        problems=[problem for chunk in drawn for problem in chunk],
        validation_problems=_validation_problems(recipe.validation),
        held_out_problems=code_rows()[: recipe.measured],
        summaries=corpus.with_summary(allowed)[: recipe.functions],
        sources=[f for f in plain if not f.is_test][: recipe.functions] + tests,
        validation_functions=corpus.validation_functions(functions)[: recipe.validation],
        held_out_functions=summarization_rows(functions)[: recipe.measured],
    )


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


# --- examples ------------------------------------------------------------------------------


def code_examples(problems: list[tuple[str, str, str]]) -> list[Example]:
    return [Example(code_prompt(prompt), body) for prompt, body, _ in problems]


def reverse_examples(problems: list[tuple[str, str, str]]) -> list[Example]:
    """Body to docstring, for problems: the summarization task on code that is easy to read."""
    return [
        Example(summarization_prompt(f"# demo\n{prompt.split(chr(10))[0]}\n{body}"), line)
        for prompt, body, line in problems
    ]


def summary_examples(functions: list[corpus.Function], noisy: bool = True) -> list[Example]:
    return [Example(summarization_prompt(f.source), f.summary, noisy) for f in functions]


def source_examples(functions: list[corpus.Function]) -> list[Example]:
    """Undocumented functions: only their source is learnt."""
    return [Example(summarization_prompt(f.source), "", True) for f in functions]


def _tokenizer_texts(data: Data) -> Iterator[str]:
    """About as much of the one ability as of the other."""
    for function in data.summaries + data.sources:
        yield function.source
        yield from repeat(function.summary, 4)
    for prompt, body, _ in data.problems[:20_000]:
        yield prompt
        yield body


def target_tokens(tokenizer: Any, data: Data, recipe: Recipe) -> tuple[Tokens, list[int]]:
    """The target's examples, and the numbers of those to train on, once per epoch."""
    groups = [
        (code_examples(data.problems), 1),
        (reverse_examples(data.problems[:: recipe.reverse_every]), 1),
        (summary_examples(data.summaries), recipe.summary_epochs),
        (source_examples(data.sources), recipe.source_epochs),
    ]
    examples = [example for group, _ in groups for example in group]
    order: list[int] = []
    first = 0
    for group, epochs in groups:
        order += list(range(first, first + len(group))) * epochs
        first += len(group)
    return encode(tokenizer, examples), order


# --- training ------------------------------------------------------------------------------


def _checks(
    tokenizer: Any, data: Data, device: str, summary_weight: float = 0.3
) -> Any:
    """Validation losses; the summaries' count less, being several times larger."""
    code = encode(tokenizer, code_examples(data.validation_problems)).to(device)
    functions = encode(tokenizer, summary_examples(data.validation_functions)).to(device)
    pad = tokenizer.pad_token_id

    def check(model: Any) -> dict[str, float]:
        with fitting.autocast(device):
            summary = fitting.completion_loss(model, functions, pad)
            return {
                "validation_code": fitting.completion_loss(model, code, pad),
                "summary": summary,
                "validation_summary_weighted": summary * summary_weight,
            }

    return check


def train_target(tokenizer: Any, data: Data, recipe: Recipe, device: str) -> tuple[Any, Fit]:
    tokens, order = target_tokens(tokenizer, data, recipe)
    batches = plan(tokens, order, recipe.budget, recipe.seed)
    print(f"target: {len(order)} examples, {len(batches)} batches", flush=True)
    model = fitting.new_model(TARGET, recipe.seed).to(device)
    if device == "cuda":
        fitting.compile_layers(model)
    report = fitting.fit(
        model, tokens.to(device), batches, fitting.language_loss(recipe.prompt_weight),
        recipe.target, _checks(tokenizer, data, device), tokenizer.pad_token_id,
    )  # fmt: skip
    return model, report


def sharpen(model: Any, temperature: float) -> None:
    """Folds a sampling temperature into the weights: the logits grow by its inverse."""
    with torch.no_grad():
        model.model.norm.weight.mul_(1 / temperature)


def _ids(tokenizer: Any, text: str, special: bool = True) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    return ids


def sampled_tokens(
    tokenizer: Any,
    target: Any,
    prompts: list[str],
    longest: int,
    rows_at_once: int,
    noisy: bool = False,
) -> Tokens:
    """The prompts with one completion each, sampled from the target at temperature 1."""
    outputs = scoring.generate(target, tokenizer, prompts, longest, True, rows_at_once)
    end = [tokenizer.eos_token_id]
    ready = [_ids(tokenizer, prompt) for prompt in prompts]
    pairs = [(p, o + end if len(o) < longest else o) for p, o in zip(ready, outputs, strict=True)]
    return store(pairs, [noisy] * len(pairs))


def joined(parts: list[Tokens]) -> Tokens:
    """One store of several."""
    offsets = [0]
    for part in parts:
        offsets.append(offsets[-1] + len(part.flat))
    starts = [part.starts + offset for part, offset in zip(parts, offsets, strict=False)]
    columns = [torch.cat([getattr(p, n) for p in parts]) for n in ("lengths", "prompts", "noisy")]
    return Tokens(torch.cat([p.flat for p in parts]), torch.cat(starts), *columns)


def distillation_tokens(
    tokenizer: Any, target: Any, data: Data, recipe: Recipe
) -> tuple[Tokens, list[int]]:
    """Problems with their bodies, and functions with summaries sampled from the target.

    Mostly functions without a docstring: the target has not learnt a summary of them by heart,
    so its law there is like its law on functions it never saw.
    """
    plain = [f for f in data.sources if not f.is_test] * recipe.samples
    others = [f for f in data.sources if f.is_test] + data.summaries * 2
    prompts = [summarization_prompt(f.source) for f in plain + others]
    summaries = sampled_tokens(tokenizer, target, prompts, MAX_SUMMARY, recipe.sample_rows, True)
    code = encode(tokenizer, code_examples(data.problems[-recipe.distilled_problems :]))
    numbers = list(range(len(summaries))) * recipe.distill_epochs
    return joined([summaries, code]), numbers + [len(summaries) + i for i in range(len(code))]


def _distance_check(tokenizer: Any, target: Any, data: Data, recipe: Recipe, device: str) -> Any:
    """Total variation between target and draft on validation prompts, both abilities."""
    prompts = {
        "code": [code_prompt(p) for p, _, _ in data.validation_problems],
        "summary": [summarization_prompt(f.source) for f in data.validation_functions],
    }
    stores = {
        key: sampled_tokens(tokenizer, target, texts, MAX_BODY, recipe.sample_rows).to(device)
        for key, texts in prompts.items()
    }
    pad = tokenizer.pad_token_id

    def check(draft: Any) -> dict[str, float]:
        with fitting.autocast(device):
            return {
                f"validation_{key}": fitting.variation(target, draft, tokens, pad)
                for key, tokens in stores.items()
            }

    return check


def train_draft(
    tokenizer: Any, target: Any, data: Data, recipe: Recipe, device: str
) -> tuple[Any, Fit]:
    torch.manual_seed(recipe.seed + 1)
    began = time.monotonic()
    tokens, order = distillation_tokens(tokenizer, target, data, recipe)
    check = _distance_check(tokenizer, target, data, recipe, device)
    print(f"sampled in {time.monotonic() - began:.0f}s", flush=True)
    batches = plan(tokens, order, recipe.budget, recipe.seed + 1)
    print(f"draft: {len(order)} examples, {len(batches)} batches", flush=True)
    model = fitting.new_model(DRAFT, recipe.seed + 1).to(device)
    if device == "cuda":
        fitting.compile_layers(model)
    loss: Loss = fitting.distillation_loss(target, recipe.variation_weight)
    report = fitting.fit(model, tokens.to(device), batches, loss, recipe.draft, check,
                         tokenizer.pad_token_id)  # fmt: skip
    return model, report


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


def agreement(target: Any, draft: Any, tokenizer: Any, prompts: list[str], longest: int) -> dict[str, float]:
    """Overlap along sampled continuations of the target, and counted acceptance at gamma 4."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    outputs = scoring.generate(target, tokenizer, prompts, longest, sample=True)
    ready = [_ids(tokenizer, prompt) for prompt in prompts]
    whole = [p + o + ([end] if len(o) < longest else []) for p, o in zip(ready, outputs, strict=True)]
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


def _told_fit(report: Fit) -> dict[str, Any]:
    return asdict(report)


def run_lm(arguments: argparse.Namespace) -> None:
    recipe = SMOKE if arguments.smoke else FULL
    if arguments.sharpening:
        recipe = replace(recipe, sharpening=arguments.sharpening)
    torch.set_float32_matmul_precision("high")
    device, output, began = arguments.device, arguments.output, time.monotonic()
    data = gather(recipe, arguments.stdlib)
    seconds = {"data": time.monotonic() - began}
    print(f"{len(data.problems)} problems, {len(data.summaries)} summaries, {len(data.sources)} "
          f"sources in {seconds['data']:.0f}s", flush=True)  # fmt: skip
    fits: dict[str, Any] = {}
    if arguments.reuse_target:
        tokenizer = AutoTokenizer.from_pretrained(arguments.reuse_target)
        target = AutoModelForCausalLM.from_pretrained(arguments.reuse_target, dtype=torch.float32)
        target.to(device)
        earlier = json.loads((arguments.reuse_target.parent / "metrics.json").read_text("utf-8"))
        fits["target"] = earlier["fits"]["target"]
        # undo the sharpening of the earlier run before applying this one's
        sharpen(target, 1 / earlier["recipe"]["sharpening"])
    else:
        tokenizer = train_tokenizer(_tokenizer_texts(data))
        model, report = train_target(tokenizer, data, recipe, device)
        target, fits["target"] = fitting.uncompiled(model), _told_fit(report)
    sharpen(target, recipe.sharpening)
    export(target, tokenizer, output / "target")
    teacher, _ = load(output / "target", device)
    teacher = teacher.to(torch.bfloat16) if device == "cuda" else teacher
    draft, report = train_draft(tokenizer, teacher, data, recipe, device)
    fits["draft"] = _told_fit(report)
    export(draft, tokenizer, output / "draft")
    reused = " (the target was trained in an earlier run)" if arguments.reuse_target else ""
    finish(output, recipe, data, fits, device, arguments.stdlib, began, reused)


def finish(
    output: Path, recipe: Recipe, data: Data, fits: dict[str, Any], device: str, stdlib: Path,
    began: float, reused: str,
) -> None:  # fmt: skip
    """Measures the pair and writes metrics.json and the card."""
    metrics = {
        "recipe": asdict(recipe),
        "environment": environment(device, stdlib),
        "data": {"problems": len(data.problems), "summaries": len(data.summaries),
                 "sources": len(data.sources)},
        "shapes": {"target": asdict(TARGET), "draft": asdict(DRAFT)},
        "fits": fits,
        "held_out": evaluate(output, data, device, recipe.seed),
        "total_seconds": time.monotonic() - began,
        "reused": reused,
    }  # fmt: skip
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", "utf-8")
    write_card(output / "MODEL_CARD.md", metrics)
    shown = {k: v for k, v in metrics["held_out"].items()}  # type: ignore[attr-defined]
    print(json.dumps(shown, indent=1), f"\ntotal {metrics['total_seconds']:.0f}s", flush=True)


def run_data(arguments: argparse.Namespace) -> None:
    functions = corpus.library(arguments.stdlib)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_rows(arguments.output / "code.jsonl", code_rows())
    write_rows(arguments.output / "summarization.jsonl", summarization_rows(functions))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="specbench.demo.train", description=__doc__)
    commands = top.add_subparsers(required=True)
    lm = commands.add_parser("lm", help="train, measure and export the pair demo-lm")
    lm.add_argument("--output", type=Path, default=HERE / "lm")
    lm.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    lm.add_argument("--smoke", action="store_true", help="a minute on a CPU: every step, no skill")
    lm.add_argument("--reuse-target", type=Path, help="distil a new draft from this target")
    lm.add_argument("--sharpening", type=float, help="temperature folded into the target")
    lm.set_defaults(run=run_lm)
    data = commands.add_parser("data", help="write the held-out problems and functions")
    data.add_argument("--output", type=Path, default=HERE)
    data.set_defaults(run=run_data)
    for command in (lm, data):
        command.add_argument("--stdlib", type=Path, default=corpus.default_stdlib())
    return top


def main() -> None:
    arguments = parser().parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
