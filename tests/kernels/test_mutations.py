"""Would the tests notice? Each kernel is broken on purpose, and the judge must say so.

A mutation replaces text of the spliced source. Its panel, the inputs that show it, must pass with the
text as it is: that is tested too. A mutation whose text is gone, or occurs twice, fails without a GPU:
then the kernel has changed, and the mutation must follow it.

A dropped barrier may go unnoticed by luck, so the threads that the barrier waits for are made late as
well; late with the barrier in its place, they must do no harm.

Left out, because a kernel so broken may wait for ever and take the GPU with it: dropping a `post`,
posting 0, clearing the half in use, stale mail or stale normalisers where several thread blocks share
a sequence (they may differ over where it ends, and wait for what the others never post), and in
`block` the last barrier of a sequence (a warp may read the next one's stops and never post).
`sample` and `numbers` have tests of their own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from specbench.cuda.launch import Grid
from specbench.cuda.loader import source

INF = float("inf")
U_IS_ZERO = 3_313_741
"""A seed whose first uniform at position 0 is exactly 0."""
NARROW = (0.0, 4.0)
LATE = (
    "{ const long long end = clock64() + 100000; while (clock64() < end) {} "
    'asm volatile("" ::: "memory"); }'
)
"""Some 50 µs: longer than anything else in these launches. Nothing is read ahead of it."""

# ---- Panels -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """Steps of one shape, launched by turns by one launcher."""

    steps: list[Any]
    members: int = 3
    groups: int | None = None
    """None: one for each sequence."""
    waves: bool = True
    """Whether `fused` takes two slots at a time, rather than all."""
    options: dict[str, Any] = field(default_factory=dict)
    keeps_lse: bool = False
    launches: int = 6

    def grid(self, method: str) -> Grid:
        batch, gamma, _ = self.steps[0].shape
        wave = 2 if self.waves and method == "fused" else gamma + 1
        return Grid(self.groups or batch, self.members, 3, wave)


def mixed(problem):
    return Panel([problem(12, 5, 203, seed=seed) for seed in range(3)], groups=4)


def all_sampled(problem):
    return Panel([problem(24, 5, 203, seed=seed, mixed=False) for seed in range(3)], groups=12)


def narrow(problem):
    """For sigmoid: a range that forbids many ids and tells the others apart."""
    steps = [
        problem(24, 5, 203, seed=seed, mixed=False, noise=(0.8, 2.0, 4.0)) for seed in range(3)
    ]
    return Panel(steps, groups=12, options={"sigmoid_range": NARROW})


def heavy_tails(problem):
    """The target's last ids hold most of its mass: who leaves them out normalises by far too little."""
    panel = mixed(problem)
    for step in panel.steps:
        step.target_logits[..., -4:] += 6
    return panel


def tempered(problem):
    return replace(mixed(problem), options={"sigmoid_range": NARROW})


def alone(problem):
    """One thread block for each sequence."""
    return replace(all_sampled(problem), members=1)


def deep(problem):
    """More rows than a thread block has lanes for: some take several slices of a row."""
    steps = [problem(8, 64, 203, seed=seed, mixed=False, noise=(0.3,)) for seed in range(2)]
    return Panel(steps, members=2, waves=False)


def odd(problem):
    """Fewer entries than a vector or a Philox group holds."""
    return Panel(
        [problem(40, 3, 7, seed=seed, mixed=False) for seed in range(3)], groups=20, members=2
    )


def wide(problem):
    """Every warp has something to race for."""
    steps = [problem(8, 5, 6151, seed=seed, mixed=False) for seed in range(3)]
    return Panel(steps, members=2, waves=False)


def wide_alone(problem):
    """By one thread block: two that differ over where a step may end would wait for each other."""
    return replace(wide(problem), members=1)


def long(problem):
    """Full acceptance of 64 drafts: the token after them is written by another warp than the first."""
    steps = [problem(4, 64, 61, seed=seed, mixed=False, noise=(0.0,)) for seed in range(3)]
    return Panel(steps, members=1, waves=False)


def long_in_turn(problem):
    """The same, one sequence after the other by one thread block."""
    return replace(long(problem), groups=1)


def greedy(problem):
    steps = [problem(8, 6, 203, seed=seed) for seed in range(3)]
    return Panel([step.but(temperature=torch.zeros_like(step.temperature)) for step in steps])


def high(problem):
    """exp2 of these is beyond float32, unless the largest is taken off first."""
    data = problem(12, 3, 64, mixed=False)
    return Panel(
        [data.but(target_logits=data.target_logits + 200, draft_logits=data.draft_logits + 200)]
    )


def forbidden(problem):
    """Neither target nor draft has any weight at the drafted ids: 0 < 0 is false, 0 <= 0 is not."""
    data = problem(12, 3, 64, mixed=False)
    at = data.draft_tokens[:, :, None]
    target, draft = data.target_logits.clone(), data.draft_logits.scatter(2, at, -INF)
    target[:, :3] = target[:, :3].scatter(2, at, -INF)
    return Panel([data.but(target_logits=target, draft_logits=draft)])


def u_is_zero(problem):
    """The first uniform is 0, and the target forbids the draft."""
    data = problem(12, 1, 64, mixed=False)
    target = data.target_logits.clone()
    target[:, :1] = target[:, :1].scatter(2, data.draft_tokens[:, :, None], -INF)
    seeds, positions = torch.full_like(data.seeds, U_IS_ZERO), torch.zeros_like(data.seeds)
    return Panel([data.but(target_logits=target, seeds=seeds, positions=positions)])


def equal(problem):
    """Target and draft are equal and the first draft is no id: a rejection, and an empty residual."""
    data = problem(12, 3, 64, mixed=False, noise=(0.0,))
    return Panel([data.but(draft_tokens=torch.full_like(data.draft_tokens, -1))])


def dead(problem):
    """A draft that the target forbids, then one that the draft model had forbidden: 0 · inf."""
    data = problem(12, 2, 64, mixed=False)
    at = data.draft_tokens[:, :, None]
    target, draft = data.target_logits.clone(), data.draft_logits.clone()
    target[:, :1] = target[:, :1].scatter(2, at[:, :1], -INF)
    draft[:, 1:] = draft[:, 1:].scatter(2, at[:, 1:], -INF)
    return Panel([data.but(target_logits=target, draft_logits=draft)])


def one_nan(problem, poisoned):
    """A NaN where no draft points, and the first draft is no id."""
    data = problem(12, 2, 203, mixed=False)
    rows = getattr(data, poisoned).clone()
    rows[:, 0, 77] = torch.nan
    return Panel(
        [data.but(draft_tokens=torch.full_like(data.draft_tokens, -1), **{poisoned: rows})]
    )


def target_nan(problem):
    return one_nan(problem, "target_logits")


def draft_nan(problem):
    return one_nan(problem, "draft_logits")


def apart(problem):
    """Rows, sequences and drafts lie wider apart than they are long."""

    def spread(tensor):
        wide = tensor.new_zeros([2 * size for size in tensor.shape])
        view = wide[tuple(slice(0, 2 * n, 2) for n in tensor.shape[:-1])][..., : tensor.shape[-1]]
        return view.copy_(tensor)

    steps = [problem(6, 3, 203, seed=seed, mixed=False) for seed in range(2)]
    names = ("target_logits", "draft_logits", "draft_tokens")
    steps = [s.but(**{name: spread(getattr(s, name)) for name in names}) for s in steps]
    return Panel(steps, options={"sigmoid_range": NARROW})


def kept(problem):
    return replace(all_sampled(problem), keeps_lse=True)


def far(problem):
    """The second sequence's target lies 2³² elements after the first's: 8.6 GB."""
    if torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("needs 12 GB of GPU memory")
    data = problem(2, 2, 1001, torch.float16, mixed=False)
    block = torch.empty(2**32 + 2**20, dtype=torch.float16, device="cuda")
    block[: 2**20] = 0
    target = block.as_strided((2, 3, 1001), (2**32 + 8192, 1001, 1)).copy_(data.target_logits)
    return Panel([data.but(target_logits=target)], options={"sigmoid_range": NARROW})


# ---- Mutations ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` in the source of a method's kernel, and the panel must show it.

    Attributes:
        late: (old, new): some threads made late as well, which alone must be harmless.
    """

    name: str
    methods: str
    old: str
    new: str
    panel: Callable[[Any], Panel]
    late: tuple[str, str] | None = None


def late(anchor, threads):
    """Threads made late in front of a line."""
    return anchor, f"if ({threads}) {LATE} {anchor}"


SUM = "fused block"
ALL = "exact sigmoid fused block"
TOKEN = "exact sigmoid fused"
READ = "const Word word = summarize("
COUNT = "if (place.member() == 0 && threadIdx.x == 0) a.epochs[blockIdx.y] = place.epoch + 1;"

MUTATIONS = [
    # Acceptance
    Mutation(
        "0 <= 0", TOKEN, "step.uniforms[slot] * draft < target",
        "step.uniforms[slot] * draft <= target", forbidden,
    ),
    Mutation(
        "u of 0 accepts", TOKEN, "step.uniforms[slot] * draft < target",
        "step.uniforms[slot] * draft <= target", u_is_zero,
    ),
    Mutation(
        "u of 0 accepts", "block", "last == 0 || step.uniforms[last - 1] < prefix[last]",
        "last == 0 || step.uniforms[last - 1] <= prefix[last]", u_is_zero,
    ),
    Mutation(
        "a stray id is accepted", "sigmoid fused", "return step.drafts[slot] >= 0 && ", "return ",
        equal,
    ),
    Mutation(
        "one uniform for all slots", ALL, "PURPOSE_ACCEPT, slot, 0)", "PURPOSE_ACCEPT, 0, 0)",
        narrow,
    ),
    Mutation(
        "draft length ignored", ALL,
        "return length < 0 ? 0 : length > a.gamma ? a.gamma : (int)length;", "return a.gamma;",
        mixed,
    ),
    # Normalisers
    Mutation(
        "the largest is not taken off", SUM, "top = fmaxf(top * scale, norm.max);", "top = 0.0f;",
        high,
    ),
    Mutation(
        "edges forgotten", SUM, "if (slice == a.slices - 1 && shape.head",
        "if (false && shape.head", odd,
    ),
    Mutation(
        "last slice dropped", SUM, "const int last = min((slice + 1) * share, shape.vectors);",
        "const int last = slice == a.slices - 1 ? 0 : min((slice + 1) * share, shape.vectors);",
        mixed,
    ),
    Mutation(
        "slices rounded down", SUM, "by_slices(a, shape.vectors + a.slices - 1)",
        "by_slices(a, shape.vectors)", heavy_tails,
    ),
    Mutation(
        "a slice not merged", SUM, "rows.slot(a, row)), a.slices, reader, readers,",
        "rows.slot(a, row)), a.slices - 1, reader, readers,", mixed,
    ),
    Mutation(
        "maxima merged, sums added", SUM,
        "return {max, one.sum * exp2f(one.max - max) + other.sum * exp2f(other.max - max)};",
        "return {max, one.sum + other.sum};", deep,
    ),
    Mutation(
        "temperature ignored", "sigmoid fused block",
        "temperature(a.temperatures ? a.temperatures[sequence] : a.temperature),",
        "temperature(a.temperatures && a.temperatures[sequence] == 0.0f ? 0.0f : 1.0f),", tempered,
    ),
    Mutation("kept normaliser in the wrong base", SUM, "{lse * LOG2_E, ", "{lse, ", kept),
    # Rows
    Mutation(
        "residual of the draft's row before", ALL,
        "Method::draft_row(a, step.sequence, row) : target;",
        "Method::draft_row(a, step.sequence, row > 0 ? row - 1 : 0) : target;", narrow,
    ),
    Mutation(
        "residual of the target's row after", ALL,
        "const auto *target = Method::target_row(a, step.sequence, row);",
        "const auto *target = Method::target_row(a, step.sequence, min(row + 1, a.gamma));", narrow,
    ),
    Mutation(
        "rows taken as contiguous", "sigmoid fused block", "row * a.target_row_stride;",
        "row * a.vocab;", apart,
    ),
    Mutation(
        "drafts taken as contiguous", ALL, "(long long)sequence * a.token_stride",
        "(long long)sequence * a.gamma", apart,
    ),
    Mutation(
        "offset of 32 bits", "sigmoid fused block",
        "a.target_logits + sequence * a.target_batch_stride",
        "a.target_logits + (int)(sequence * a.target_batch_stride)", far,
    ),
    # The race
    Mutation(
        "draft not subtracted", ALL, "const float weight = fmaf(-share, taken, whole);",
        "const float weight = whole;", narrow,
    ),
    Mutation(
        "accept and residual share their numbers", ALL, "PURPOSE_ACCEPT = 1, PURPOSE_RESIDUAL = 2",
        "PURPOSE_ACCEPT = 1, PURPOSE_RESIDUAL = 1", narrow,
    ),
    Mutation(
        "the last Philox group forgotten", ALL,
        "min((place.member() + 1) * a.share, (a.vocab + 3) / 4)",
        "min((place.member() + 1) * a.share, a.vocab / 4)", odd,
    ),
    Mutation(
        "what is not there weighs 1", "exact", "static float MISSING() { return 0.0f; }",
        "static float MISSING() { return 1.0f; }", odd,
    ),
    Mutation(
        "what is not there weighs as much", "sigmoid fused block",
        "static float MISSING() { return minus_infinity(); }",
        "static float MISSING() { return 0.0f; }", odd,
    ),
    Mutation(
        "an empty residual gives no token", ALL,
        "if (winner == NOBODY || winner == TARGET_ALONE) winner = race_alone(a, shared, stop);", "",
        equal,
    ),
    Mutation("a NaN of the target unseen", "sigmoid", "invalid |= whole != whole;", "", target_nan),
    Mutation("a NaN of the draft unseen", "sigmoid", "alone |= taken != taken;", "", draft_nan),
    Mutation(
        "the noise of the first group for all", ALL,
        "if (group < last) noise = race_noise(a, step.sequence, group);", "", wide,
    ),
    Mutation(
        "the first member's winner wins", ALL,
        "collect(mail, place.members(), lane, 32, [&](Word word) { best = larger(best, word); });",
        "collect(mail, 1, lane, 32, [&](Word word) { best = larger(best, word); });", narrow,
    ),
    Mutation(
        "one seed for all", ALL, "return a.seeds ? a.seeds[sequence] : a.seed;", "return a.seed;",
        narrow,
    ),
    Mutation(
        "one position for all", ALL, "return a.positions ? a.positions[sequence] : a.position;",
        "return a.position;", narrow,
    ),
    Mutation("nine rounds of Philox", ALL, "round < 10", "round < 9", narrow),
    # Block
    Mutation(
        "prefix above 1", "block", "fminf(running * factor, 1.0f)", "running * factor", all_sampled,
    ),
    Mutation(
        "a dead prefix revives", "block",
        "running = running > 0.0f ? fminf(running * factor, 1.0f) : 0.0f;",
        "running = fminf(running * factor, 1.0f);", dead,
    ),
    Mutation(
        "residual without the prefix", "block", "drafted ? inverse(fmaxf(prefix, EMPTY)) : 0.0f",
        "drafted ? 1.0f : 0.0f", all_sampled,
    ),
    Mutation(
        "every stop passes", "block",
        "step.uniforms[step.accepted[stop] - 1] < z * inverse(z + (1.0f - prefix))", "true",
        all_sampled,
    ),
    Mutation("h without 1 - P", "block", "z * inverse(z + (1.0f - prefix))", "z", all_sampled),
    # Greedy
    Mutation(
        "the smallest is the best", ALL, "const bool better = value > best ||",
        "const bool better = value < best || where == 0x7FFFFFFF ||", greedy,
    ),
    Mutation(
        "any draft is the argmax", ALL, "step.drafts[accepted] == id_of(shared.best[accepted])",
        "true", greedy,
    ),
    # Mail
    Mutation(
        "the launch not counted", SUM, COUNT, "", alone, late(READ, "threadIdx.x >= 192"),
    ),
    Mutation(
        "the launch not counted", "exact sigmoid", COUNT, "", greedy, late(READ, "blockIdx.x > 0"),
    ),
    Mutation(
        "the other half not cleared", SUM, "other[word] = 0;", ";", alone,
        late(READ, "threadIdx.x >= 192"),
    ),
]  # fmt: skip


def barrier(name, methods, comment, panel, late):
    """Leaves of the barrier with that comment what each warp meets alone."""
    old = f"__syncthreads();  // {comment}"
    return Mutation(name, methods, old, "__syncwarp();", panel, late)


BARRIERS = [
    barrier(
        "drafts not yet fetched", "exact sigmoid", "Facts, drafts and normalisers come from all warps.",
        narrow, late("if (slot >= a.gamma) return;", "threadIdx.x >= 32"),
    ),
    barrier(
        "normalisers not yet gathered", SUM, "Facts, drafts and normalisers come from all warps.",
        wide_alone, late("int log_readers = 5;", "threadIdx.x >= 32"),
    ),
    barrier(
        "winners of other warps not yet known", TOKEN, "Winners come from all warps.", wide,
        late("const float share = alone ? 0.0f : step.weight[stop];", "threadIdx.x >= 32"),
    ),
    barrier(
        "winner not yet gathered", "exact fused", "Each stop's winner comes from one warp.", long,
        late("const Word *mail = winner_mail<Method>(a, place, shared.step.sequence, stop);", "true"),
    ),
    barrier(
        "the next sequence while the last one is written", TOKEN,
        "The next sequence reuses everything shared.", long_in_turn,
        late("const long long token = winner == NOBODY ||", "threadIdx.x >= 32"),
    ),
    barrier(
        "argmax of other warps not yet known", ALL, "The rows' winners come from all warps.", greedy,
        late("if (threadIdx.x % 32 == 0) shared.best[row] = best;", "threadIdx.x >= 32"),
    ),
]  # fmt: skip

EXCUSED = {
    "The stops come from one warp.": "who misses the stops examines on, and may wait for ever",
    "All have read the epoch; the drafts come from all warps.": (
        "the leader meets two more barriers before it looks at a draft, and a thread that reads the "
        "epoch too late still has rows to post that the leader waits for"
    ),
    "Lanes read what others wrote.": "a ballot of the whole warp stands between writing and reading",
}
"""Barriers that are not dropped, and why: no outcome shows it, or none ever comes. `make sanitize`
looks at these (racecheck)."""

CASES = [
    pytest.param(mutation, method, id=f"{method}-{mutation.name}".replace(" ", "-"))
    for mutation in MUTATIONS + BARRIERS
    for method in mutation.methods.split()
]
LATENESS = [case for case in CASES if case.values[0].late]
PANELS = sorted(
    {(case.values[0].panel.__name__, case.values[1]) for case in CASES}
)  # fmt: skip


def mutated(method, *edits):
    """The source of a method's kernel with texts replaced, each of which must occur exactly once."""
    text = source(f"verify_{method}")
    for old, new in edits:
        count = text.count(old)
        assert count == 1, (
            f"{old!r} occurs {count} times in verify_{method}: the kernel has changed, and this "
            "mutation in tests/kernels/test_mutations.py must follow it"
        )
        text = text.replace(old, new)
    return text


def first_fault(bind, wrong, method, panel, text):
    """What the judge says against the first wrong launch; "" if none was wrong."""
    kernel = bind(method, panel.steps[0], text=text, grid=panel.grid(method))
    for i in range(panel.launches):
        step = panel.steps[i % len(panel.steps)]
        options = {"draft_lse": step.draft_lse()} if panel.keeps_lse else {}
        found = kernel(step, **panel.options, **options)
        fault = wrong(method, step, found, share=0.1, **panel.options)
        if fault:
            return fault
    return ""


# ---- Without a GPU ------------------------------------------------------------------------------


@pytest.mark.parametrize(("mutation", "method"), CASES)
def test_the_mutated_text_is_there(mutation, method):
    edits = [(mutation.old, mutation.new)] + ([mutation.late] if mutation.late else [])
    assert mutated(method, *edits) != source(f"verify_{method}")


def test_a_text_that_is_gone_or_doubled_is_told():
    with pytest.raises(AssertionError, match="occurs 0 times in verify_fused"):
        mutated("fused", ("no such text", ""))
    with pytest.raises(AssertionError, match="must follow it"):
        mutated("fused", ("__syncthreads();", ""))


def test_every_barrier_is_dropped_or_excused():
    """A new barrier needs a test that fails without it, or a reason why there is none."""
    there = {
        barrier
        for method in ALL.split()
        for barrier in re.findall(r"__sync\w+\(\);(.*)", source(f"verify_{method}"))
    }
    dropped = {mutation.old.removeprefix("__syncthreads();") for mutation in BARRIERS}
    assert there == dropped | {f"  // {comment}" for comment in EXCUSED}


def test_names_tell_mutations_apart():
    assert len({case.id for case in CASES}) >= len(CASES) - 3  # "u of 0" has two texts


# ---- On a GPU -----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize(("panel", "method"), PANELS)
def test_the_kernel_as_it_is_passes(problem, bind, wrong, panel, method):
    assert (
        first_fault(bind, wrong, method, globals()[panel](problem), source(f"verify_{method}"))
        == ""
    )


@pytest.mark.gpu
@pytest.mark.parametrize(("mutation", "method"), CASES)
def test_a_mutated_kernel_is_caught(problem, bind, wrong, mutation, method):
    edits = [(mutation.old, mutation.new)] + ([mutation.late] if mutation.late else [])
    panel = mutation.panel(problem)
    assert first_fault(bind, wrong, method, panel, mutated(method, *edits)) != ""


@pytest.mark.gpu
@pytest.mark.parametrize(("mutation", "method"), LATENESS)
def test_late_threads_are_waited_for(problem, bind, wrong, mutation, method):
    """The same lateness with the barrier in its place."""
    panel = mutation.panel(problem)
    assert first_fault(bind, wrong, method, panel, mutated(method, mutation.late)) == ""
