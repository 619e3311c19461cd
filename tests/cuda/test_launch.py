"""The planned grids, for GPUs of any size. Needs no GPU."""

import pytest

from specbench.cuda.launch import plan, plan_race, share

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
