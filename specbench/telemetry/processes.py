"""Who else computes on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath


@dataclass(frozen=True)
class Process:
    """A process with a context on the GPU, as NVML lists it.

    Attributes:
        name: of its program, without folders; None where a container hides it.
        memory_bytes: of the GPU; None if it is not told.
    """

    pid: int
    name: str | None = None
    memory_bytes: int | None = None

    def __str__(self) -> str:
        memory = None if self.memory_bytes is None else f"{self.memory_bytes / 1e9:.1f} GB"
        about = ", ".join(part for part in (f"pid {self.pid}", memory) if part)
        return f"{self.name} ({about})" if self.name else about


def foreign(
    listed: Sequence[Process], is_own: Callable[[int], bool] | None = None
) -> list[Process] | None:
    """Those of the listed processes that are neither this one nor its children; None if unknown.

    In a container NVML may number processes as the host does, so that this one does not find itself.
    Having a context it must be there: an empty list then tells nothing, and one of several is taken for
    this process, the one with the most memory. How many others there are is right all the same.

    Args:
        is_own: whether a pid is this process's or a child's.
    """
    is_own = is_own or descends_from(os.getpid())
    own = [process for process in listed if is_own(process.pid)]
    if not own:
        own = sorted(listed, key=lambda process: process.memory_bytes or 0)[-1:]
    return [process for process in listed if process not in own] if own else None


def descends_from(ancestor: int) -> Callable[[int], bool]:
    """Tells whether a pid is that process or one below it; elsewhere than on Linux, whether it is it."""

    def tell(pid: int) -> bool:
        while pid > 1 and pid != ancestor:
            pid = _parent(pid)
        return pid == ancestor

    return tell


def program(name: str | bytes | None) -> str | None:
    """A process's name without its folders: a result file names none of a machine's."""
    text = name.decode(errors="replace") if isinstance(name, bytes) else name
    return PurePath(text.strip()).name or None if text else None


def _parent(pid: int) -> int:
    """0 if the process is gone, or the system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(")")[2].split()[1])  # the name before may hold anything
    except (OSError, ValueError, IndexError):
        return 0
