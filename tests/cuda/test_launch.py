"""The planned grids, for GPUs of any size. Needs no GPU."""

import re

import pytest

from specbench.assets import kernels_dir
from specbench.cuda.launch import MAX_GAMMA, THREADS, Grid, plan, plan_race, share
from specbench.sampling import names

VOCABULARIES = (1, 31, 1000, 51_865, 151_936, 262_144)


def assert_runs(grid, batch, resident):
    """More blocks than fit at once would wait for one another for ever."""
    assert 1 <= grid.blocks <= resident
    assert 1 <= grid.groups <= batch
    assert 2 <= grid.slices <= 512
    assert grid.wave >= 1
    assert grid.stops_at_once >= 1


@pytest.mark.parametrize("resident", [1, 2, 40, 264])
@pytest.mark.parametrize("batch", [1, 2, 8, 300])
@pytest.mark.parametrize("gamma", [0, 5, 128])
def test_a_planned_grid_fits_the_gpu(batch, gamma, resident):
    for row_bytes in (size * vocab for vocab in VOCABULARIES for size in (2, 4)):
        assert_runs(plan(batch, gamma + 1, row_bytes, resident, True), batch, resident)
        whole = plan(batch, gamma + 1, row_bytes, resident, False)
        assert_runs(whole, batch, resident)
        assert whole.wave >= gamma + 1  # block verification must see all rows at once


@pytest.mark.parametrize("resident", [1, 2, 40, 264])
@pytest.mark.parametrize("batch", [1, 8, 300])
def test_a_race_is_shared_out_whole(batch, resident):
    for vocab in VOCABULARIES:
        for itemsize in (2, 4):
            grid = plan_race(batch, 6, vocab * itemsize, itemsize, resident)
            assert_runs(grid, batch, resident)
            assert 4 * share(vocab, grid) * grid.members >= vocab


def test_host_and_kernels_agree_on_their_constants():
    """Another number of threads than the kernel was written for would leave rows unread."""
    text = (kernels_dir() / "common.cuh").read_text()
    found = dict(re.findall(r"\b(THREADS|MAX_GAMMA) = (\d+)", text))
    assert found == {"THREADS": str(THREADS), "MAX_GAMMA": str(MAX_GAMMA)}
    assert MAX_GAMMA == names.MAX_GAMMA


@pytest.mark.parametrize("field", ["groups", "members", "slices", "wave", "stops_at_once"])
def test_an_impossible_grid_is_no_grid(field):
    numbers = {"groups": 1, "members": 1, "slices": 2, "wave": 1, "stops_at_once": 1}
    with pytest.raises(ValueError, match=field):
        Grid(**(numbers | {field: 0}))


@pytest.mark.parametrize("slices", range(2, 513))
def test_the_kernels_division_by_slices_is_exact(slices):
    """value * ceil(2^32 / slices) >> 32 is value // slices, for every item and vector of a row."""
    inverse = -(-(1 << 32) // slices)
    for value in (slices - 1, slices, slices + 1, 257 * slices - 1, 257 * slices, 65_536 + slices):
        assert value * inverse >> 32 == value // slices
