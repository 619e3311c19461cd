"""Which errors mean that the GPU is gone for this process."""

from __future__ import annotations

import pytest
import torch

from specbench.telemetry.lost import CODES, lost_reason


def accelerator_error(code, text="CUDA error: something"):
    error = torch.AcceleratorError(text)
    error.error_code = code
    return error


@pytest.mark.parametrize("code", sorted(CODES))
def test_torch_says_it_by_its_code(code):
    assert lost_reason(accelerator_error(code)) == "CUDA error: something"


@pytest.mark.parametrize("code", [1, 2, 98, 209, 701, 720, 801, 900])
def test_a_call_that_was_merely_wrong_is_no_loss(code):
    assert lost_reason(accelerator_error(code, "CUDA error: unknown error")) is None


def test_cupy_says_it_by_its_status():
    runtime = pytest.importorskip("cupy_backends.cuda.api.runtime")
    assert "cudaErrorIllegalAddress" in lost_reason(runtime.CUDARuntimeError(700))
    assert lost_reason(runtime.CUDARuntimeError(2)) is None


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: device-side assert triggered", "CUDA error: uncorrectable ECC error encountered",
        "Triton Error [CUDA]: an illegal memory access was encountered",
        "CUDA driver error: no CUDA-capable device is detected", "CUDA error: GPU is lost",
    ],
)  # fmt: skip
def test_others_say_it_in_words(text):
    assert lost_reason(RuntimeError(text)) == text.splitlines()[0]


@pytest.mark.parametrize(
    "error",
    [
        None, ValueError("a kernel is broken"), torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: invalid configuration argument"), RuntimeError("unknown error"),
        RuntimeError("CUDA error: operation not permitted when stream is capturing"),
        RuntimeError("ptxas fatal: /usr/local/cuda/bin/ptxas: wrong address space"),
        ValueError("my/cuda_sampler said: unknown error in row 3"),
    ],
)  # fmt: skip
def test_other_failures_are_none(error):
    assert lost_reason(error) is None


def test_what_an_error_was_raised_from_counts():
    def wrapped():
        try:
            raise accelerator_error(719)
        except RuntimeError:
            raise ValueError("the method failed")  # noqa: B904

    with pytest.raises(ValueError, match="the method failed") as caught:
        wrapped()
    assert lost_reason(caught.value) == "CUDA error: something"
