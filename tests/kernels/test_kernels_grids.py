"""A step's result does not depend on the grid that computes it, planned or not."""

from dataclasses import astuple, replace

import pytest
import torch

from specbench.cuda.launch import MAX_GAMMA, Grid

pytestmark = pytest.mark.gpu

SHAPE = (5, 6, 2053)
WHOLE = SHAPE[1] + 1
"""γ+1: a wave of all rows, the only one for kernels that must see them all."""
RACES = [
    Grid(groups, members, slices)
    for groups, members, slices in ((1, 1, 2), (5, 7, 3), (2, 64, 16), (3, 2, 100), (5, 1, 2))
]
READS = [
    Grid(groups, members, slices, wave)
    for groups, members, slices, wave in (
        (1, 1, 2, WHOLE), (1, 1, 3, 1), (5, 2, 2, 2), (2, 7, 16, WHOLE), (1, 64, 100, 1),
        (2, 64, 33, WHOLE), (5, 1, 512, 3), (3, 7, 4, 2), (5, 16, 100, MAX_GAMMA + 1),
    )
]  # fmt: skip
STOPS = [
    replace(grid, stops_at_once=stops)
    for grid in READS
    for stops in (1, 2, MAX_GAMMA + 1)
    if grid.wave >= WHOLE
]
CASES = (
    [("exact", grid) for grid in RACES]
    + [("sigmoid", grid) for grid in RACES]
    + [("fused", grid) for grid in READS]
    + [("block", grid) for grid in STOPS]
)


def name(value):
    if isinstance(value, Grid):
        return "-".join(map(str, astuple(value)))
    return str(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("method", "grid"), CASES, ids=name)
def test_any_grid_gives_the_same_step(problem, bind, wrong, method, grid, dtype):
    """Three launches, so that both halves of the mail are used again; the last with other inputs."""
    data, other = problem(*SHAPE, dtype, seed=50), problem(*SHAPE, dtype, seed=51)
    kernel = bind(method, data, grid=grid)
    for step in (data, other, data, other):
        assert wrong(method, step, kernel(step), share=0.2 if method == "sigmoid" else 0.02) == ""


@pytest.mark.parametrize("vocab", [1, 3, 31, 130])
@pytest.mark.parametrize(("method", "grid"), CASES, ids=name)
def test_more_blocks_and_slices_than_there_is_work(problem, bind, wrong, method, grid, vocab):
    data = problem(5, SHAPE[1], vocab, seed=52)
    found = bind(method, data, grid=grid)(data, sigmoid_range=(-10.0, 10.0))
    assert wrong(method, data, found, (-10.0, 10.0)) == ""


@pytest.mark.parametrize("wave", [1, 2, 3, 5, 16])
def test_waves_end_anywhere(problem, bind, wrong, wave):
    """Rejection in the first wave, at the end of one, in the last, and none at all; kept
    log-normalisers too."""
    data = problem(60, 16, 300, seed=53, mixed=False, noise=(0.05, 0.2, 1.0))
    kernel = bind("fused", data, grid=Grid(12, 3, 2, wave))
    assert wrong("fused", data, kernel(data)) == ""
    assert wrong("fused", data, kernel(data, draft_lse=data.draft_lse())) == ""


@pytest.mark.parametrize("stops", [1, 5, 129])
@pytest.mark.parametrize("gamma", [1, 33, 64, 128])
@pytest.mark.parametrize("members", [1, 5])
def test_block_races_for_many_stops(problem, bind, wrong, gamma, members, stops):
    """A long prefix below 1 leaves many rows open: more than warps, more than a warp's lanes."""
    data = problem(32, gamma, 61, seed=54, mixed=False, noise=(0.15, 0.3))
    kernel = bind("block", data, grid=Grid(16, members, 2, gamma + 1, stops))
    for _ in range(2):
        assert wrong("block", data, kernel(data)) == ""
    assert wrong("block", data, kernel(data, draft_lse=data.draft_lse())) == ""
