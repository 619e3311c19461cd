"""The embedded pair and its task data: complete, small enough, honestly held out, really trained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from specbench.demo import corpus, prompts

DEMO = Path(prompts.__file__).parent
ROLES = ("target", "draft")


def rows_of(name):
    return [json.loads(line) for line in (DEMO / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def problems():
    return rows_of("code.jsonl")


@pytest.fixture(scope="module")
def functions():
    return rows_of("summarization.jsonl")


@pytest.fixture(scope="module")
def pair():
    transformers = pytest.importorskip("transformers")
    load = transformers.AutoModelForCausalLM.from_pretrained
    return {role: load(DEMO / "lm" / role, dtype=torch.float32).eval() for role in ROLES}


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(DEMO / "lm" / "target")


# --- task data -----------------------------------------------------------------------------


def test_code_has_the_fields_of_humaneval(problems):
    fields = ["task_id", "prompt", "entry_point", "canonical_solution", "test"]
    assert [list(row) for row in problems] == [fields] * 164
    assert [row["task_id"] for row in problems] == [f"demo/{n}" for n in range(164)]
    assert len({row["entry_point"] for row in problems}) == 164


def test_every_canonical_solution_passes_its_own_test(problems):
    for row in problems:
        scope = {}
        exec(row["prompt"] + row["canonical_solution"] + "\n" + row["test"], scope)
        scope["check"](scope[row["entry_point"]])


def test_a_wrong_body_fails_the_test(problems):
    passed = 0
    for row in problems:
        scope = {}
        exec(row["prompt"] + "    return None\n" + row["test"], scope)
        try:
            scope["check"](scope[row["entry_point"]])
            passed += 1
        except AssertionError:
            pass
    assert passed == 0


def test_summaries_are_whole_sentences_of_distinct_functions(functions):
    assert len(functions) == 120
    assert all(list(row) == ["id", "name", "module", "source", "reference"] for row in functions)
    assert len({row["name"] for row in functions}) == 120
    for row in functions:
        assert 4 <= len(row["reference"].split()) <= 20
        assert 3 <= len(row["source"].splitlines()) <= 41
        assert row["reference"] not in row["source"]


def test_published_names_belong_to_the_held_out_part(functions):
    assert {corpus.part_of(row["name"]) for row in functions} == {"held_out"}


def test_nothing_published_is_in_the_training_functions_of_this_python(functions):
    root = corpus.default_stdlib()
    picked = ("asyncio", "json", "random.py", "statistics.py", "mailbox.py", "tkinter/__init__.py")
    found = []
    for name in picked:
        paths = sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]
        for path in filter(Path.exists, paths):
            found += corpus.functions_of(path.read_text("utf-8"), path.stem)
    training = corpus.training_functions(found)
    assert len(training) > 500
    names = {row["name"] for row in functions}
    assert names & {name for function in found for name in function.names}
    assert not names & {name for function in training for name in function.names}
    validation = corpus.validation_functions(found)
    assert not {f.name for f in validation} & {f.name for f in training}


def test_source_loses_its_docstring_and_keeps_the_rest():
    text = (
        'class A:\n    @deco\n    def f(self):\n        """Say it.\n\n        More.\n        """\n'
    )
    text += "        def g():\n            return 1\n\n        return g\n"
    outer, inner = corpus.functions_of(text, "m")
    assert outer.summary == "Say it."
    assert outer.names == ("f", "g")
    assert outer.source.splitlines() == [
        "# m.A", "@deco", "def f(self):", "    def g():", "        return 1", "    return g",
    ]  # fmt: skip
    assert inner.source == "# m.A\ndef g():\n    return 1"


def test_prompts_are_cut_to_a_length_that_fits():
    long = "\n".join(["x = 1"] * 400)
    assert len(prompts.summarization_prompt(long)) < 1500
    assert prompts.code_prompt("def f():\n").startswith("<|code|>def f")


# --- models --------------------------------------------------------------------------------


def test_everything_embedded_stays_under_20_megabytes():
    files = [path for path in (DEMO / "lm").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20e6


def test_sizes_of_the_pair(pair):
    counts = {role: sum(p.numel() for p in model.parameters()) for role, model in pair.items()}
    assert 6e6 < counts["target"] < 8e6
    assert 0.6e6 < counts["draft"] < 1e6
    assert pair["draft"].config.num_hidden_layers == 2
    for model in pair.values():
        assert model.config.vocab_size == 4096
        assert model.generation_config.eos_token_id == model.config.eos_token_id == 2


def test_one_tokenizer_for_both(tokenizer):
    texts = [(DEMO / "lm" / role / "tokenizer.json").read_bytes() for role in ROLES]
    assert texts[0] == texts[1]
    assert len(tokenizer) == 4096


def test_tokenizer_adds_bos_and_no_eos_and_gives_text_back(tokenizer, problems):
    for row in problems[:20]:
        ids = tokenizer(row["canonical_solution"])["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.eos_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == row["canonical_solution"]


def test_prompt_and_completion_are_encoded_apart(tokenizer, problems):
    row = problems[0]
    prompt, body = prompts.code_prompt(row["prompt"]), row["canonical_solution"]
    apart = tokenizer(prompt)["input_ids"] + tokenizer(body, add_special_tokens=False)["input_ids"]
    assert tokenizer(prompt + body)["input_ids"] == apart


def test_every_prompt_leaves_room_for_an_answer(tokenizer, problems, functions):
    texts = [prompts.code_prompt(row["prompt"]) for row in problems]
    texts += [prompts.summarization_prompt(row["source"]) for row in functions]
    assert max(len(ids) for ids in tokenizer(texts)["input_ids"]) + 200 <= 768


@torch.no_grad()
def loss(model, tokenizer, prompt, completion):
    start = tokenizer(prompt)["input_ids"]
    rest = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    logits = model(torch.tensor([start + rest])).logits[0, len(start) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(rest)).item()


def mean_losses(pair, tokenizer, examples):
    return {
        role: sum(loss(model, tokenizer, *example) for example in examples) / len(examples)
        for role, model in pair.items()
    }


def test_target_is_plainly_better_on_held_out_problems(pair, tokenizer, problems):
    rows = problems[:12]
    examples = [(prompts.code_prompt(r["prompt"]), r["canonical_solution"]) for r in rows]
    losses = mean_losses(pair, tokenizer, examples)
    assert losses["target"] < 0.2
    assert losses["draft"] > 1.5 * losses["target"]


def test_target_is_plainly_better_on_held_out_summaries(pair, tokenizer, functions):
    rows = functions[::3]
    examples = [(prompts.summarization_prompt(r["source"]), r["reference"]) for r in rows]
    losses = mean_losses(pair, tokenizer, examples)
    assert losses["target"] < 4.5
    assert losses["draft"] > losses["target"] + 0.15


@torch.no_grad()
def test_target_solves_held_out_problems_greedily(pair, tokenizer, problems):
    solved = 0
    for row in problems[:5]:
        ids = tokenizer(prompts.code_prompt(row["prompt"]), return_tensors="pt")["input_ids"]
        output = pair["target"].generate(ids, max_new_tokens=160, do_sample=False)
        body = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        scope = {}
        exec(row["prompt"] + body + "\n" + row["test"], scope)
        scope["check"](scope[row["entry_point"]])
        solved += 1
    assert solved == 5


def test_the_card_tells_what_was_measured():
    metrics = json.loads((DEMO / "lm" / "metrics.json").read_text("utf-8"))
    card = (DEMO / "lm" / "MODEL_CARD.md").read_text("utf-8")
    assert f"{metrics['held_out']['target']['pass_at_1']:.3f}" in card
    for task in ("code", "summarization"):
        assert 0.6 <= metrics["held_out"][task]["acceptance"] <= 0.9
        assert f"{metrics['held_out'][task]['acceptance']:.3f}" in card


def test_importing_the_demo_and_its_prompts_imports_nothing_heavy():
    code = "import sys, specbench.demo.prompts, specbench.demo.grammar; "
    code += "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=DEMO.parent.parent)
