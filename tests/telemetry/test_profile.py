"""Kernel time out of a profiler's trace."""

import pytest
import torch

from specbench.errors import MachineError
from specbench.telemetry.profile import kernel_times, profile_kernels


def event(cat, name, dur):
    return {"cat": cat, "name": name, "dur": dur, "ph": "X"}


def test_work_on_the_gpu_counts_once():
    found = kernel_times(
        [
            event("kernel", "verify", 4.0), event("kernel", "verify", 6.0),
            event("gpu_memcpy", "Memcpy DtoD", 1.0), event("gpu_memset", "Memset", 1.0),
            event("gpu_user_annotation", "step", 20.0), event("cuda_runtime", "cudaLaunchKernel", 9),
            {"name": "process_name", "ph": "M"},
        ],
        calls=2,
    )  # fmt: skip
    assert (found.kernel_us, found.launches) == (6.0, 2.0)
    assert found.by_name == {"verify": 5.0, "Memcpy DtoD": 0.5, "Memset": 0.5}


def test_a_profiler_that_saw_nothing_is_an_error_and_no_zero():
    with pytest.raises(MachineError, match="saw no kernel"):
        kernel_times([event("cpu_op", "aten::add", 1.0)], calls=1)


@pytest.mark.gpu
def test_counts_the_launches_of_known_kernels_exactly():
    block = torch.zeros(1 << 20, device="cuda")

    def call():
        block.add_(1)
        block.mul_(2)

    found = profile_kernels(call, 50)
    assert found.launches == 2
    assert len(found.by_name) == 2
    assert 0 < found.kernel_us < 1000


@pytest.mark.gpu
def test_counts_copies_and_fills():
    source, target = torch.zeros(1 << 20, device="cuda"), torch.ones(1 << 20, device="cuda")

    def call():
        target.copy_(source)  # a copy on the device
        target.zero_()

    assert profile_kernels(call, 10).launches == 2
