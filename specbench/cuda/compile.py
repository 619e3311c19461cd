"""Compiles kernels for any GPU without having one: NVRTC to machine code, with ptxas's own report.

Needs the packages cuda-bindings and nvidia-cuda-nvrtc, and no CUDA headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from specbench.cuda.loader import DTYPES, KERNELS, options, refused, source
from specbench.errors import MachineError

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100")
"""T4, A100, RTX 30 and A10, RTX 40 and L4, H100, B200: what every kernel must compile for."""

_OF_CUPY = ("-ftz=true", "--device-as-default-execution-space")
"""What CuPy adds to the options of every kernel."""


@dataclass(frozen=True)
class Compiled:
    """What ptxas says of a kernel.

    Attributes:
        registers: of a thread.
        stack_bytes: of a thread: arrays indexed at run time.
        spill_bytes: of a thread, stored and loaded: registers that did not fit.
        shared_bytes: static shared memory of a CTA.
        log: the compiler's words.
    """

    stem: str
    dtype: str
    architecture: str
    registers: int
    stack_bytes: int
    spill_bytes: int
    shared_bytes: int
    log: str


def compile_report(
    architectures: Sequence[str] = ARCHITECTURES, dtypes: Sequence[str] = tuple(DTYPES)
) -> Iterator[Compiled]:
    """Every kernel for every dtype and architecture, one after the other as they are compiled."""
    for stem in KERNELS:
        for dtype in dtypes:
            for architecture in architectures:
                yield compile_kernel(stem, dtype, architecture)


def compiler() -> str:
    """The compiler's name and version, on which registers and spills depend: "NVRTC 13.0".

    Raises:
        MachineError: a package is missing.
    """
    _, major, minor = _nvrtc().nvrtcVersion()
    return f"NVRTC {major}.{minor}"


def compile_kernel(stem: str, dtype: str, architecture: str, text: str | None = None) -> Compiled:
    """Compiles a kernel with the options that `load` gives it.

    Args:
        stem: one of `KERNELS`.
        dtype: of the logits: float32, float16 or bfloat16.
        architecture: sm_75, sm_90, …
        text: compiled in the place of `source(stem)`.

    Raises:
        MachineError: a package is missing, or the compiler refuses the text.
    """
    code = source(stem) if text is None else text
    flags = (*options(dtype), *_OF_CUPY, f"--gpu-architecture={architecture}", "--ptxas-options=-v")
    succeeded, log = _compile(code, f"{stem}.cu", flags)
    if not succeeded:
        raise refused(stem, f"{dtype} on {architecture}", log)
    return Compiled(
        stem, dtype, architecture,
        registers=max(_numbers(r"Used (\d+) registers", log)),
        stack_bytes=sum(_numbers(r"(\d+) bytes stack frame", log)),
        spill_bytes=sum(_numbers(r"(\d+) bytes spill (?:stores|loads)", log)),
        shared_bytes=sum(_numbers(r"(\d+) bytes smem", log)),
        log=log,
    )  # fmt: skip


def _compile(code: str, name: str, flags: Sequence[str]) -> tuple[bool, str]:
    """Whether NVRTC made machine code of it, and its log."""
    nvrtc = _nvrtc()
    error, program = nvrtc.nvrtcCreateProgram(code.encode(), name.encode(), 0, [], [])
    try:
        (error,) = nvrtc.nvrtcCompileProgram(program, len(flags), [f.encode() for f in flags])
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = bytearray(size)
        nvrtc.nvrtcGetProgramLog(program, log)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return error == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.rstrip(b"\0\n ").decode()


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise MachineError(
            f"NVRTC is not installed: {' '.join(str(error).split())}",
            "pip install cuda-bindings nvidia-cuda-nvrtc",
        ) from error
    return nvrtc


def _numbers(pattern: str, log: str) -> list[int]:
    """The report has one such number for each function that was not inlined."""
    return [int(number) for number in re.findall(pattern, log)]
