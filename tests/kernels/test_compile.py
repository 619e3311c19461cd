"""Every kernel compiles for every dtype and architecture, without a GPU, and spills nothing."""

from __future__ import annotations

import sys

import pytest

from specbench.assets import kernels_dir
from specbench.cuda.compile import ARCHITECTURES, compile_kernel, compile_report
from specbench.cuda.loader import DTYPES, KERNELS
from specbench.errors import MachineError

TAME = """
extern "C" __global__ void probe(float* out) {
    __shared__ float shared[32];
    shared[threadIdx.x] = out[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = shared[31 - threadIdx.x];
}
"""
GREEDY = """
extern "C" __global__ void __launch_bounds__(1024, 2) probe(float* out) {
    float many[64];
#pragma unroll
    for (int i = 0; i < 64; ++i) many[i] = out[i * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 64; ++i) out[i * 1024 + threadIdx.x] = many[i] * many[63 - i];
}
"""
DTYPE = """
#if defined(INPUT_F32) + defined(INPUT_F16) + defined(INPUT_BF16) != 1
#error which dtype
#endif
extern "C" __global__ void probe() {}
"""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stem", KERNELS)
def test_every_kernel_compiles_and_spills_nothing(stem, architecture, record_property):
    spilled = []
    for dtype in DTYPES:
        compiled = compile_kernel(stem, dtype, architecture)
        assert f"Compiling entry function '{stem}' for '{architecture}'" in compiled.log
        record_property(dtype, f"{compiled.registers} registers, {compiled.stack_bytes} B stack")
        if compiled.spill_bytes:
            spilled.append(f"{dtype}:\n{compiled.log}")
    assert not spilled, "\n".join(spilled)


def test_every_source_is_a_kernel_that_is_compiled():
    assert {path.stem for path in kernels_dir().glob("*.cu")} == set(KERNELS)


def test_the_report_has_them_all(monkeypatch):
    from specbench.cuda import compile

    monkeypatch.setattr(compile, "compile_kernel", lambda *what: what)
    assert len(set(compile_report())) == len(KERNELS) * len(DTYPES) * len(ARCHITECTURES)
    assert list(compile_report(["sm_90"], ["float16"])) == [
        (stem, "float16", "sm_90") for stem in KERNELS
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_ptxas_says_is_read(architecture):
    tame = compile_kernel("probe", "float32", architecture, TAME)
    assert 0 < tame.registers < 64
    assert (tame.stack_bytes, tame.spill_bytes, tame.shared_bytes) == (0, 0, 128)


def test_spills_are_seen():
    greedy = compile_kernel("probe", "float32", "sm_90", GREEDY)
    assert greedy.registers == 32
    assert greedy.spill_bytes > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_is_told(dtype):
    assert compile_kernel("probe", dtype, "sm_80", DTYPE).dtype == dtype


def test_a_refusal_shows_the_compilers_log():
    with pytest.raises(MachineError) as error:
        compile_kernel("probe", "float16", "sm_80", '#line 7 "kernels/probe.cu"\nint = 1;\n')
    assert "kernels/probe.cu does not compile for float16 on sm_80" in error.value.message
    assert "kernels/probe.cu(7): error" in error.value.message


def test_without_nvrtc_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MachineError, match="NVRTC is not installed") as error:
        compile_kernel("probe", "float32", "sm_80", TAME)
    assert error.value.hint == "pip install cuda-bindings nvidia-cuda-nvrtc"
