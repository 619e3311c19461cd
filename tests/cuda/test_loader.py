"""Splicing and hashing of kernels/, and loading on a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest

from specbench.cuda import loader
from specbench.errors import MachineError

MAIN = """// the kernel
#include "common.cuh"
#include "philox.cuh"
extern "C" __global__ void twice(float* out) { out[threadIdx.x] = two() * (INPUT); }
"""
COMMON = """#pragma once
#include "philox.cuh"
__device__ float two() { return one() + one(); }
"""
PHILOX = """#pragma once
__device__ float one() { return 1.0f; }
"""


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """A folder of one kernel and two headers in the place of kernels/."""
    for name, text in (("twice.cu", MAIN), ("common.cuh", COMMON), ("philox.cuh", PHILOX)):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(loader, "kernels_dir", lambda: tmp_path)
    return tmp_path


def origins(text):
    """Each line of code with the file and number that the compiler would name for it."""
    found, name, number = {}, "", 0
    for line in text.splitlines():
        if line.startswith("#line"):
            _, first, name = line.split()
            number = int(first)
            continue
        if line.strip():
            found[line] = (name.strip('"'), number)
        number += 1
    return found


def test_includes_are_spliced_once_at_the_place_of_the_first(kernels):
    lines = [x for x in loader.source("twice").splitlines() if x.strip() and not x.startswith("#")]
    assert lines == [
        "// the kernel",
        "__device__ float one() { return 1.0f; }",
        "__device__ float two() { return one() + one(); }",
        MAIN.splitlines()[3],
    ]


def test_no_include_and_no_pragma_once_is_left(kernels):
    text = loader.source("twice")
    assert "#include" not in text
    assert "#pragma once" not in text


def test_lines_keep_the_file_and_number_they_have_in_kernels(kernels):
    found = origins(loader.source("twice"))
    for name, text in (("twice.cu", MAIN), ("common.cuh", COMMON), ("philox.cuh", PHILOX)):
        for number, line in enumerate(text.splitlines(), 1):
            if not line.startswith("#"):
                assert found[line] == (f"kernels/{name}", number)


def test_other_pragmas_and_a_commented_include_stay(kernels):
    (kernels / "twice.cu").write_text('#pragma unroll\n// #include "gone.cuh"\n')
    assert "#pragma unroll" in loader.source("twice")
    assert '// #include "gone.cuh"' in loader.source("twice")


def test_a_missing_kernel_is_named(kernels):
    with pytest.raises(MachineError, match=r"kernels/gone\.cu is missing"):
        loader.source("gone")


@pytest.mark.parametrize(
    "include",
    ['"gone.cuh"', '"../twice.cu"', '"/etc/passwd"', '".."', '""', "<cuda_fp16.h>", "HEADER"],
)
def test_an_include_of_anything_else_is_refused(kernels, include):
    (kernels / "twice.cu").write_text(f"\n# include {include}\n")
    with pytest.raises(MachineError) as error:
        loader.source("twice")
    assert error.value.message.startswith(f"kernels/twice.cu:2: # include {include}: ")


def test_headers_that_include_each_other_end(kernels):
    (kernels / "philox.cuh").write_text('#pragma once\n#include "common.cuh"\nint a;\n')
    assert loader.source("twice").count("int a;") == 1


def test_options_name_the_dtype():
    assert loader.options("bfloat16") == ("-std=c++17", "-DINPUT_BF16")
    assert len({loader.options(dtype) for dtype in loader.DTYPES}) == 3


def test_the_hash_sees_names_and_content_of_cuda_c_alone(kernels):
    first = loader.kernel_hash()
    assert len(first) == 16
    int(first, 16)
    (kernels / "NOTES.md").write_text("what was tried")
    assert loader.kernel_hash() == first
    (kernels / "philox.cuh").write_text(PHILOX + " ")
    second = loader.kernel_hash()
    (kernels / "philox.cuh").rename(kernels / "random.cuh")
    assert len({first, second, loader.kernel_hash()}) == 3
    (kernels / "random.cuh").rename(kernels / "philox.cuh")
    (kernels / "philox.cuh").write_text(PHILOX)
    assert loader.kernel_hash() == first


def test_neither_torch_nor_cupy_is_imported_with_it():
    code = (
        "import sys; from specbench.cuda import loader; loader.kernel_hash();"
        "print({'torch', 'cupy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_load_says_what_is_missing_before_it_compiles(monkeypatch, kernels):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MachineError, match="CuPy is not installed"):
        loader.load("twice", "float32", 0)


@pytest.mark.gpu
def test_load_compiles_and_reports_what_the_kernel_takes(kernels):
    (kernels / "twice.cu").write_text(MAIN.replace("INPUT", "threadIdx.x"))
    kernel = loader.load("twice", "float32", 0, loader.source("twice"))
    assert kernel.pointer
    assert kernel.max_threads == 1024
    assert 0 < kernel.registers <= 255
    assert (kernel.local_bytes, kernel.shared_bytes) == (0, 0)
    assert kernel.resident(1024) >= kernel.resident(1024, 40_000) > 0
    assert loader.load("twice", "float32", 0, loader.source("twice")) is kernel


@pytest.mark.gpu
def test_a_loaded_kernel_runs_in_the_context_of_torch(kernels):
    import torch

    (kernels / "twice.cu").write_text(MAIN.replace("INPUT", "threadIdx.x"))
    kernel = loader.load("twice", "float16", 0, loader.source("twice"))
    out = torch.zeros(32, device="cuda:0")
    torch.cuda.synchronize()
    kernel.raw((1,), (32,), (out.data_ptr(),))
    torch.cuda.synchronize()
    assert out.tolist() == [2.0 * i for i in range(32)]


@pytest.mark.gpu
def test_what_the_compiler_refuses_is_told_with_its_log(kernels):
    with pytest.raises(MachineError, match=r'kernels/twice\.cu\(4\)(.|\n)*"INPUT" is undefined'):
        loader.load("twice", "float32", 0, loader.source("twice"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", loader.DTYPES)
@pytest.mark.parametrize("stem", loader.KERNELS)
def test_every_kernel_loads(stem, dtype):
    kernel = loader.load(stem, dtype, 0)
    assert kernel.registers > 0
    assert kernel.resident(32) > 0
