"""The kernels on a CPU: their own text, translated to C++ and launched by the ordinary launchers.

What CUDA's words mean there is in emulation.h; what is translated here is what no macro can be: the
inline PTX, and memory that a thread block shares. `Emulator.take_over` puts the emulator in the place
of the GPU in `specbench.cuda.launch`; tensors, grids, arguments and mail stay as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from specbench.cuda import launch
from specbench.cuda.loader import DTYPES, source

HEADER = Path(__file__).with_name("emulation.h")
FLAGS = ("-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-ffp-contract=off")
BLOCKS = 64
"""Thread blocks of a launch at most: as many stacks are set aside."""
STACK_BYTES = 16 << 10
"""Of a thread, as in emulation.h."""
RESIDENT = 6
"""Thread blocks that fit this "GPU" at once, which is what grids are planned for."""
OUTCOMES = (
    "",
    "hangs: every thread waits for what no thread will do",
    "does not come to an end",
    "has lanes of a warp meet in different operations",
    "loads a vector from an address that is not aligned",
    "overflows a thread's stack of the emulation: is some array too large?",
)
"""What `launch` of emulation.h returns."""
PTX = {
    "": "",
    "cvt.f32.f16 %0, %1;": "wide = emulated::widen_half(half);",
    "rcp.approx.ftz.f32 %0, %1;": "result = 1.0f / value;",
    "st.relaxed.gpu.global.u64 [%0], %1;": "emulated::post(slot, word);",
    "ld.relaxed.gpu.global.u64 %0, [%1];": "word = emulated::peek(slot);",
    "ld.relaxed.gpu.global.u32 %0, [%1];": "word = emulated::peek(slot);",
}
"""An instruction of the kernels in C++, by the names it has there."""
LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_bool
)

Source = tuple[str, str, str]
"""A kernel's stem, the dtype of its logits, its text."""


class EmulationError(Exception):
    """A kernel did what would hang a GPU, or is undefined there."""


def missing() -> str:
    """Why nothing can be emulated here; "" if it can."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "the kernels are emulated on Linux x86-64 alone: fibers need its calling convention"
    return (
        "" if shutil.which("g++") else "g++ is not installed: it compiles the kernels for the CPU"
    )


def translate(stem: str, text: str) -> str:
    """A kernel's spliced source as C++ with the entry point `launch`."""
    # A KeyError here is PTX that is new: say above what it means.
    text = re.sub(r'\basm(?: volatile)?\("([^"]*)".*?\);', lambda m: PTX[m[1]], text, flags=re.S)
    number = itertools.count()
    text = re.sub(
        r"__shared__ ([\w<>]+) (\w+)((?:\[\w+\])?);",
        lambda m: f"auto &{m[2]} = emulated::shared<{m[1]}{m[3]}>({next(number)});",
        text,
    )
    return (
        f'#include "{HEADER}"\n{text}\n#line 1 "emulation.py"\n'
        'extern "C" int launch(unsigned width, unsigned height, const void *argument, char *stacks,'
        f" bool backwards) {{\n    return emulated::launch({stem}, width, height, argument, stacks,"
        " backwards);\n}\n"
    )


class Compiler:
    """Kernels as shared libraries in a folder, each compiled once, whoever asks for it first.

    Args:
        folder: the workers of pytest-xdist may share it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._begun: dict[Source, Future[int]] = {}

    def begin(self, sources: Iterable[Source]) -> None:
        """Compiles them side by side in the background, in their order."""
        for one in sources:
            self._begun[one] = self._pool.submit(self._compile, *one)

    def entry(self, stem: str, dtype: str, text: str | None = None) -> int:
        """The address of `launch` for a kernel; what has not begun yet is compiled at once."""
        one = (stem, dtype, source(stem) if text is None else text)
        begun = self._begun.get(one)
        return self._compile(*one) if begun is None or begun.cancel() else begun.result()

    def close(self) -> None:
        """Compiles nothing more."""
        self._pool.shutdown(cancel_futures=True)

    def _compile(self, stem: str, dtype: str, text: str) -> int:
        import fcntl  # not on every system, and this module says why it cannot be used there

        code = translate(stem, text)
        name = hashlib.sha256(f"{dtype}\0{code}".encode()).hexdigest()[:16]
        library = self._folder / f"{stem}-{name}.so"
        with library.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be at it
            if not library.exists():
                part = library.with_suffix(".part")
                macro = f"-D{DTYPES[dtype]}"
                done = subprocess.run(
                    ("g++", *FLAGS, macro, "-x", "c++", "-", "-o", str(part)),
                    input=code, capture_output=True, text=True, check=False,
                )  # fmt: skip
                if done.returncode:
                    raise EmulationError(f"{stem} is no C++ to g++:\n{done.stderr}")
                part.rename(library)
        entry = ctypes.cast(ctypes.CDLL(str(library)).launch, ctypes.c_void_p).value
        assert entry is not None
        return entry


@dataclass(frozen=True)
class EmulatedKernel:
    """What `specbench.cuda.loader.Kernel` is to the launchers."""

    pointer: int
    device_index: int = 0

    def resident(self, threads: int) -> int:
        return RESIDENT


class Emulator:
    """What stands where `specbench.cuda.launch` expects a GPU, CuPy's driver and torch's CUDA."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._launches = 0
        # Touched where stacks are used, and nowhere else does it take memory.
        self._stacks = mmap.mmap(-1, BLOCKS * launch.THREADS * STACK_BYTES, flags=mmap.MAP_PRIVATE)
        self._first_stack = ctypes.addressof(ctypes.c_char.from_buffer(self._stacks))

    def take_over(self, monkeypatch: Any) -> None:
        """For one test. Of torch the launchers get exactly what they use today, so that a call to
        CUDA that is new there is noticed."""
        driver = SimpleNamespace(launchCooperativeKernel=self._launch, launchKernel=self._launch)
        cupy = SimpleNamespace(cuda=SimpleNamespace(driver=driver))
        stream = SimpleNamespace(cuda_stream=0)
        cuda = SimpleNamespace(
            current_device=lambda: 0,
            current_stream=lambda device=None: stream,
            device=contextlib.nullcontext,
            is_current_stream_capturing=lambda: False,
            set_device=lambda device: None,
            Event=lambda: SimpleNamespace(record=lambda stream: None),
        )
        on_the_cpu = SimpleNamespace(
            cuda=cuda, zeros=torch.zeros, int32=torch.int32, int64=torch.int64,
            device=lambda kind, index: torch.device("cpu", index),
        )  # fmt: skip
        monkeypatch.setattr(launch, "torch", on_the_cpu)
        monkeypatch.setattr(launch, "import_cupy", lambda: cupy)
        monkeypatch.setattr(launch, "load", self._load)
        monkeypatch.setattr(launch, "_THREAD", threading.local())

    def _load(
        self, stem: str, dtype: str, device_index: int, text: str | None = None
    ) -> EmulatedKernel:
        return EmulatedKernel(self._compiler.entry(stem, dtype, text), device_index)

    def _launch(
        self, pointer: int, width: int, height: int, depth: int, threads: int, *rest: int
    ) -> None:
        """CuPy's `launchKernel`, and the end of it: the kernel has run when it returns."""
        *_, stream, arguments = rest[:5]
        assert (depth, threads, stream) == (1, launch.THREADS, 0)
        assert width * height <= BLOCKS, f"{width} x {height} thread blocks are too many to emulate"
        argument = ctypes.c_void_p.from_address(arguments).value
        # Two launches each way, so that both halves of the mail meet both.
        backwards = self._launches // 2 % 2 == 1
        self._launches += 1
        outcome = LAUNCH(pointer)(width, height, argument, self._first_stack, backwards)
        if outcome:
            raise EmulationError(f"the kernel {OUTCOMES[outcome]}")
