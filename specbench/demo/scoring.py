"""Measures a pair: losses, ROUGE, pass@1, overlap and real acceptance of drafted tokens."""

import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 5


# --- generating ----------------------------------------------------------------------------


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: list[str],
    max_new_tokens: int,
    sample: bool = False,
    rows_at_once: int = 256,
) -> list[list[int]]:
    """The completions' tokens, without <eos> and padding; greedy unless `sample`."""
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    found: list[list[int]] = [[] for _ in prompts]
    device = next(model.parameters()).device
    for first in range(0, len(order), rows_at_once):
        rows = order[first : first + rows_at_once]
        inputs = tokenizer([prompts[i] for i in rows], return_tensors="pt", padding=True)
        output = model.generate(
            input_ids=inputs["input_ids"].to(device),
            attention_mask=inputs["attention_mask"].to(device),
            max_new_tokens=max_new_tokens,
            do_sample=sample,
            **({"top_k": 0, "top_p": 1.0, "temperature": 1.0} if sample else {}),
        )
        for i, ids in zip(rows, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            end = tokenizer.eos_token_id
            found[i] = ids[: ids.index(end)] if end in ids else ids
    return found


# --- quality -------------------------------------------------------------------------------


def rouge(hypotheses: list[str], references: list[str]) -> dict[str, float]:
    """Mean ROUGE F1 of the pairs, with stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(kinds, use_stemmer=True)
    pairs = zip(references, hypotheses, strict=True)
    scores = [scorer.score(reference, hypothesis) for reference, hypothesis in pairs]
    return {kind: sum(s[kind].fmeasure for s in scores) / len(scores) for kind in kinds}


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def passes(program: str) -> bool:
    """Whether a program ends well within its limits, in a process of its own."""
    try:
        ended = subprocess.run(
            [sys.executable, "-I", "-c", program],
            timeout=2 * CPU_SECONDS,
            capture_output=True,
            preexec_fn=_limit,
        )
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0


def pass_rate(problems: list[dict[str, str]], bodies: list[str]) -> float:
    """pass@1: the share of problems whose one body passes the problem's test."""
    programs = [
        f"{problem['prompt']}{body}\n\n{problem['test']}\n\ncheck({problem['entry_point']})\n"
        for problem, body in zip(problems, bodies, strict=True)
    ]
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(passes, programs)) / len(programs)


# --- acceptance ----------------------------------------------------------------------------


@dataclass
class Counts:
    """What a run of speculative sampling counted."""

    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    new_tokens: int = 0

    @property
    def rates(self) -> dict[str, float]:
        """acceptance = accepted / drafted; tokens per step counts the target's own token too."""
        return {
            "acceptance": self.accepted / max(self.drafted, 1),
            "tokens_per_step": self.new_tokens / max(self.steps, 1),
        }


class Rows:
    """Growing sequences, padded on the right. ids: (B, L) int64, lengths: (B,)."""

    def __init__(self, prompts: list[list[int]], room: int, pad: int, device: Any) -> None:
        longest = max(map(len, prompts))
        self.ids = torch.full((len(prompts), longest + room), pad, device=device)
        self.lengths = torch.tensor([len(p) for p in prompts], device=device)
        for row, prompt in enumerate(prompts):
            self.ids[row, : len(prompt)] = torch.tensor(prompt, device=device)

    def write(self, offset: int, values: torch.Tensor) -> None:
        """Puts values (B,) behind the sequences, `offset` tokens further on."""
        self.ids.scatter_(1, (self.lengths + offset)[:, None], values[:, None])

    def probabilities(self, model: Any, count: int, offset: int) -> torch.Tensor:
        """(B, count, V): the next-token laws after offset, offset+1, ... unverified tokens."""
        width = int(self.lengths.max()) + offset + count - 1
        hidden = model.model(input_ids=self.ids[:, :width], use_cache=False).last_hidden_state
        where = (self.lengths - 1 + offset)[:, None] + torch.arange(count, device=hidden.device)
        picked = hidden.gather(1, where[..., None].expand(-1, -1, hidden.shape[-1]))
        law: torch.Tensor = model.lm_head(picked).float().softmax(-1)
        return law


def _draw(law: torch.Tensor) -> torch.Tensor:
    return torch.multinomial(law, 1).squeeze(-1)


@torch.no_grad()
def acceptance(
    target: Any, draft: Any, prompts: list[list[int]], gamma: int, max_new: int, eos: int, pad: int
) -> Counts:
    """Token-by-token speculative sampling at temperature 1, without a cache, all prompts at once."""
    device = next(target.parameters()).device
    rows = Rows(prompts, max_new + 2 * gamma + 2, pad, device)
    begin, alive = rows.lengths.clone(), torch.ones(len(prompts), dtype=torch.bool, device=device)
    counts = Counts()
    while alive.any():
        laws = []
        for i in range(gamma):
            laws.append(rows.probabilities(draft, 1, i)[:, 0])
            rows.write(i, _draw(laws[-1]))
        accepted, last = _verify(rows, target, torch.stack(laws, 1), gamma)
        _commit(rows, accepted, last, alive, counts, gamma, eos)
        alive &= ~_ended(rows, begin, max_new, eos)
    return counts


def _verify(
    rows: Rows, target: Any, draft_probs: torch.Tensor, gamma: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) accepted drafts and (B,) the token that follows them; draft_probs: (B, gamma, V)."""
    target_probs = rows.probabilities(target, gamma + 1, 0)
    where = rows.lengths[:, None] + torch.arange(gamma, device=draft_probs.device)
    drafts = rows.ids.gather(1, where)[..., None]
    of_target, of_draft = target_probs[:, :gamma].gather(2, drafts), draft_probs.gather(2, drafts)
    kept = (torch.rand_like(of_draft) * of_draft < of_target).squeeze(-1)
    accepted = kept.long().cumprod(1).sum(1)
    at = accepted[:, None, None].expand(-1, 1, target_probs.shape[-1])
    padded = torch.cat([draft_probs, torch.zeros_like(draft_probs[:, :1])], 1)
    law = target_probs.gather(1, at).squeeze(1)
    residual = (law - padded.gather(1, at).squeeze(1)).clamp(min=0)
    empty = residual.sum(-1, keepdim=True) <= 0
    return accepted, _draw(torch.where(empty, law, residual))


def _commit(
    rows: Rows,
    accepted: torch.Tensor,
    last: torch.Tensor,
    alive: torch.Tensor,
    counts: Counts,
    gamma: int,
    eos: int,
) -> None:
    """Keeps the accepted drafts and the last token; nothing behind an <eos> counts."""
    drafted = _until_end(rows, gamma, eos)
    rows.ids.scatter_(1, (rows.lengths + accepted)[:, None], last[:, None])
    where = rows.lengths[:, None] + torch.arange(gamma + 1, device=last.device)
    fresh = rows.ids.gather(1, where)
    inside = torch.arange(gamma + 1, device=last.device) <= accepted[:, None]
    ends = (fresh == eos) & inside
    before = ends.long().cumsum(1) - ends.long() == 0
    kept = (inside & before).sum(1) * alive
    counts.steps += int(alive.sum())
    counts.drafted += int((drafted * alive).sum())
    counts.accepted += int((torch.minimum(accepted, kept) * alive).sum())
    counts.new_tokens += int(kept.sum())
    rows.lengths += kept


def _until_end(rows: Rows, gamma: int, eos: int) -> torch.Tensor:
    """(B,) how many drafts there are up to the draft's own <eos>: what follows is not drafted."""
    where = rows.lengths[:, None] + torch.arange(gamma, device=rows.lengths.device)
    ends = (rows.ids.gather(1, where) == eos).long()
    return (ends.cumsum(1) - ends == 0).sum(1)


def _ended(rows: Rows, begin: torch.Tensor, max_new: int, eos: int) -> torch.Tensor:
    newest = rows.ids.gather(1, (rows.lengths - 1)[:, None]).squeeze(1)
    return (newest == eos) | (rows.lengths - begin >= max_new)


@torch.no_grad()
def overlap(target: Any, draft: Any, sequences: list[list[int]], prompts: list[int]) -> float:
    """Mean of sum(min(target_probs, draft_probs)) over the completions' tokens.

    sequences: prompt and completion tokens, sampled from the target; prompts: prompt lengths.
    """
    total, count = 0.0, 0
    device = next(target.parameters()).device
    for ids, prompt in zip(sequences, prompts, strict=True):
        row = torch.tensor([ids], device=device)
        span = slice(prompt - 1, len(ids) - 1)
        laws = [m(input_ids=row).logits[0, span].float().softmax(-1) for m in (target, draft)]
        total += float(torch.minimum(*laws).sum())
        count += len(ids) - prompt
    return total / max(count, 1)
