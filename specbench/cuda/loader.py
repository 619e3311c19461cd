"""From the text in kernels/ to a compiled kernel on a GPU.

CuPy's disk cache does not see files that a source includes, so our own includes are spliced in and
the compiler gets one text; no other include is allowed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from specbench.assets import kernels_dir
from specbench.cuda.requirements import check_cooperative_launch, import_cupy, require
from specbench.errors import MachineError

KERNELS = (
    "verify_exact", "verify_sigmoid", "verify_fused", "verify_block", "sample", "numbers",
)  # fmt: skip
"""Stems: kernels/<stem>.cu holds the one entry point `extern "C" __global__ void <stem>(...)`."""

DTYPES = {"float32": "INPUT_F32", "float16": "INPUT_F16", "bfloat16": "INPUT_BF16"}
"""The macro that stands for each dtype of the logits."""

_INCLUDE = re.compile(r'\s*#\s*include\s*(?:"(?P<own>[^"]*)"|\S+)')
_ONCE = re.compile(r"\s*#\s*pragma\s+once\b")


def source(stem: str) -> str:
    """The text of a kernel with its includes spliced in, each once, at the place of the first.

    `#line` directives make the compiler's messages name the file and line of kernels/.

    Raises:
        MachineError: a file is missing, or an include is not a file of kernels/.
    """
    return "\n".join(_spliced(kernels_dir(), f"{stem}.cu", set())) + "\n"


def options(dtype: str) -> tuple[str, ...]:
    """The compiler's options for logits of a dtype of `DTYPES`; CuPy adds -ftz=true and the GPU's."""
    return ("-std=c++17", f"-D{DTYPES[dtype]}")


def kernel_hash() -> str:
    """SHA-256 over name and content of all CUDA C in kernels/: 16 hex digits.

    Raises:
        MachineError: the folder is missing from this installation.
    """
    digest = hashlib.sha256()
    for path in sorted(kernels_dir().glob("*.cu*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.name}\0{content}\n".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel on one GPU.

    Attributes:
        pointer: its CUfunction, as an integer.
        device_index: the GPU it was loaded on.
        max_threads: threads that a CTA may have.
        registers: of a thread.
        local_bytes: of a thread: stack and spills.
        shared_bytes: static shared memory of a CTA.
        raw: CuPy's RawKernel; holding it keeps the module loaded.
    """

    pointer: int
    device_index: int
    max_threads: int
    registers: int
    local_bytes: int
    shared_bytes: int
    raw: Any = field(repr=False, compare=False)

    def resident(self, threads: int, shared_bytes: int = 0) -> int:
        """CTAs that fit the whole GPU at once, of so many threads and bytes of dynamic shared memory.

        A grid barrier needs all CTAs resident: more than this would deadlock.
        """
        cuda = import_cupy().cuda
        with cuda.Device(self.device_index) as device:
            each = cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
                self.pointer, threads, shared_bytes
            )
        return int(each) * int(device.attributes["MultiProcessorCount"])


@cache
def load(stem: str, dtype: str, device_index: int, text: str | None = None) -> Kernel:
    """Compiles a kernel for a GPU and loads it; later calls with equal arguments return the same.

    Torch and CuPy both use the GPU's primary context, so torch's streams and pointers fit.

    Args:
        stem: one of `KERNELS`.
        dtype: of the logits: float32, float16 or bfloat16.
        device_index: the GPU, in torch's and CuPy's common count.
        text: compiled in the place of `source(stem)`.

    Raises:
        MachineError: something is missing here (see `require`), or the compiler refuses the text.
    """
    require()
    check_cooperative_launch(device_index)
    cupy = import_cupy()
    code = source(stem) if text is None else text
    module = cupy.RawModule(code=code, options=options(dtype), backend="nvrtc")
    with cupy.cuda.Device(device_index):
        try:
            raw = module.get_function(stem)
        except cupy.cuda.compiler.CompileException as error:
            raise refused(stem, dtype, str(error)) from None
        return Kernel(
            pointer=raw.kernel.ptr,
            device_index=device_index,
            max_threads=raw.max_threads_per_block,
            registers=raw.num_regs,
            local_bytes=raw.local_size_bytes,
            shared_bytes=raw.shared_size_bytes,
            raw=raw,
        )


def refused(stem: str, dtype: str, log: str) -> MachineError:
    """The error for a kernel that does not compile, with the compiler's log."""
    return MachineError(
        f"kernels/{stem}.cu does not compile for {dtype}:\n{log.strip()}",
        "Unless you changed kernels/, this is a bug in specbench: please report it with these lines.",
    )


def _spliced(root: Path, name: str, seen: set[str]) -> Iterator[str]:
    """Lines of a file of kernels/. What is dropped leaves an empty line, so that numbers hold."""
    seen.add(name)
    yield f'#line 1 "kernels/{name}"'
    for number, line in enumerate(_read(root, name).split("\n"), 1):
        include = _INCLUDE.match(line)
        if include is None:
            yield "" if _ONCE.match(line) else line
            continue
        inner = _included(root, include["own"], f"kernels/{name}:{number}: {line.strip()}")
        if inner not in seen:
            yield from _spliced(root, inner, seen)
            yield f'#line {number} "kernels/{name}"'
        yield ""


def _read(root: Path, name: str) -> str:
    try:
        return (root / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MachineError(
            f"kernels/{name} is missing from this installation ({root})",
            "Reinstall specbench from a wheel, or run it from a complete checkout.",
        ) from None


def _included(root: Path, name: str | None, where: str) -> str:
    """The included file's name. Kernels are one flat folder: anything else would escape the hash."""
    if name is None or name != Path(name).name or not (root / name).is_file():
        raise MachineError(
            f"{where}: this is no file of kernels/", "Kernels include nothing but one another."
        )
    return name
