"""Grid, mail and arguments of a kernel, and its launch on torch's stream.

A launcher is bound to one shape. It owns what the thread blocks of its kernel write to each other
(see kernels/common.cuh), so one launcher must not run on two streams at once.
"""

from __future__ import annotations

import ctypes
import math
import struct
import threading
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from specbench.cuda.loader import Kernel, load
from specbench.cuda.requirements import import_cupy
from specbench.errors import MachineError

THREADS = 384
WARPS = THREADS // 32
"""Of a thread block: as in kernels/common.cuh."""
_THREAD = threading.local()
"""Whether this host thread has made the GPU's context its own, which a bare launch needs."""
VECTOR_BYTES = 16
MAX_GAMMA = 128
SLOTS_AT_ONCE = 8
"""Slots of a wave at most: few steps accept as many, and what follows a rejection need not be read."""
WAVE_US = 20.0
"""How long a wave may read where reading is slow: between waves lie two trips through the L2 cache."""
MAIL_US = 2.0
"""What a decision of all members costs, one that reading less must earn."""
LONE_MEMBER_BYTES = 2.5e5
"""What a thread block of a lone sequence should read at most, if there are more."""
ROUND_US = 6.0
"""What a sequence costs its group besides reading."""
BYTES_PER_US = 3.0e6
"""What a large GPU reads. These were measured on an H100 and only choose between grids."""


@dataclass(frozen=True)
class Grid:
    """How a batch is cut.

    Attributes:
        groups: a group takes every groups-th sequence.
        members: thread blocks of a group.
        slices: of each row, at least 2; a warp reads one at a time.
        wave: slots whose rows are read at once, before it is known whether the step gets that far.
        stops_at_once: rows where block verification may stop that are raced for at once.
    """

    groups: int
    members: int
    slices: int = 2
    wave: int = MAX_GAMMA + 1
    stops_at_once: int = MAX_GAMMA + 1

    def __post_init__(self) -> None:
        if min(self.groups, self.members, self.wave, self.stops_at_once) < 1 or self.slices < 2:
            raise ValueError(f"{self} cannot be launched: at least two slices and one of the rest")

    @property
    def blocks(self) -> int:
        """Thread blocks, all of which must be resident at once."""
        return self.groups * self.members


@cache
def plan(batch: int, slots: int, row_bytes: int, resident: int, in_waves: bool) -> Grid:
    """The grid for a kernel that reads all rows.

    Args:
        slots: γ + 1; each has a row of the target, all but the last one of the draft.
        row_bytes: of one row.
        resident: thread blocks that fit the GPU at once.
        in_waves: whether what follows a rejection may stay unread.
    """
    row_count = 2 * slots - 1
    groups, members = _groups(batch, row_count, row_bytes, resident)
    slot_us = 2 * row_bytes * groups / BYTES_PER_US
    wave = slots
    if in_waves:
        most = max(1, min(SLOTS_AT_ONCE, math.ceil(WAVE_US / slot_us)))
        wave = math.ceil(slots / math.ceil(slots / most))
    slices = _slices(min(row_count, 2 * wave), row_bytes, members, groups)
    return Grid(groups, members, slices, wave, 1 if slot_us > MAIL_US else slots)


def _groups(batch: int, row_count: int, row_bytes: int, resident: int) -> tuple[int, int]:
    """Groups and members: the slowest group decides; a lone sequence pays for each member's mail."""
    sequence_bytes = row_count * row_bytes
    useful = 32 if sequence_bytes < 1e6 else 64 if sequence_bytes < 3e6 else 96
    most = max(useful, math.ceil(sequence_bytes / LONE_MEMBER_BYTES))
    most = max(1, min(most, resident // 2, sequence_bytes // 4096))

    def cost(groups: int) -> float:
        members = min(resident // groups, most)
        read_us = sequence_bytes * resident / members / BYTES_PER_US
        return math.ceil(batch / groups) * (read_us + ROUND_US)

    groups = min(range(1, min(batch, resident) + 1), key=cost)
    return groups, min(resident // groups, most)


def _slices(row_count: int, row_bytes: int, members: int, groups: int) -> int:
    """Slices of a row, so that all warps have equally much to read.

    A lone sequence gives each warp one slice, but for the last ones, which fetch the drafts; and no
    more slices than a thread block can ask for at once: the next ones would wait for another trip.
    """
    warps = members * (WARPS - 1) if groups == 1 else 2 * members * WARPS
    readers = 32
    while readers > 1 and readers * row_count > THREADS:
        readers //= 2
    at_once = 4 * readers if groups == 1 else 512
    return max(2, min(warps // row_count, row_bytes // (32 * VECTOR_BYTES), at_once))


def plan_race(batch: int, slots: int, row_bytes: int, itemsize: int, resident: int) -> Grid:
    """The grid for a kernel that reads one row of each sequence, four entries a thread.

    Greedy sequences have all the target's rows read, in slices.
    """
    members = max(
        1, min(resident // min(batch, resident), -(-row_bytes // (4 * itemsize * THREADS)))
    )
    groups = min(batch, resident // members)
    return Grid(groups, members, _slices(slots, row_bytes, members, groups))


class _Launcher:
    """A kernel, its grid, its mail and its one argument, a struct passed by value."""

    def __init__(self, kernel: Kernel, grid: Grid, words: int, layout: str) -> None:
        self.kernel, self.grid = kernel, grid
        device = torch.device("cuda", kernel.device_index)
        self.mail = torch.zeros(2 * words, dtype=torch.int64, device=device)
        self.epochs = torch.zeros(grid.groups, dtype=torch.int32, device=device)
        self._device = device
        self._struct = struct.Struct(f"@{layout}")
        self._argument = ctypes.create_string_buffer(self._struct.size)
        self._arguments = (ctypes.c_void_p * 1)(ctypes.addressof(self._argument))
        self._address = ctypes.addressof(self._arguments)
        self._launch_kernel = import_cupy().cuda.driver.launchCooperativeKernel
        self._stream = torch.cuda.current_stream(device.index).cuda_stream
        self._cleared = torch.cuda.Event()
        if not torch.cuda.is_current_stream_capturing():
            self._cleared.record(torch.cuda.current_stream(device.index))

    @property
    def workspace_bytes(self) -> int:
        """Device memory of the mail."""
        return self.mail.nbytes + self.epochs.nbytes

    def _launch(self, *fields: float) -> None:
        self._struct.pack_into(self._argument, 0, *fields)
        stream = torch.cuda.current_stream(self._device.index).cuda_stream
        if stream != self._stream:
            self._move_to(stream)
        if not getattr(_THREAD, "bound", False):
            torch.cuda.set_device(torch.cuda.current_device())
            _THREAD.bound = True
        if torch.cuda.current_device() == self._device.index:
            self._enqueue(stream)
        else:
            with torch.cuda.device(self._device):
                self._enqueue(stream)

    def _move_to(self, stream: int) -> None:
        """The mail was cleared on the stream that was current when it was made: wait for that, and
        keep the memory for as long as this stream uses it. A capture begins with all work done."""
        current = torch.cuda.current_stream(self._device.index)
        if not torch.cuda.is_current_stream_capturing():
            current.wait_event(self._cleared)
            self.mail.record_stream(current)
            self.epochs.record_stream(current)
            self._stream = stream

    def _enqueue(self, stream: int) -> None:
        self._launch_kernel(
            self.kernel.pointer,
            self.grid.members,
            self.grid.groups,
            1,
            THREADS,
            1,
            1,
            0,
            stream,
            self._address,
        )


class VerifyLauncher(_Launcher):
    """One of the verify kernels for (B, γ, V).

    Args:
        stem: "verify_exact", "verify_sigmoid", "verify_fused" or "verify_block".
        text: compiled in the place of the kernel's source.
        grid: taken in the place of the planned one.

    Raises:
        MachineError: the kernel cannot be compiled or loaded here (see `loader.load`), or not one
            thread block of it fits the GPU.
    """

    def __init__(
        self,
        stem: str,
        batch_size: int,
        gamma: int,
        vocab_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        text: str | None = None,
        grid: Grid | None = None,
    ) -> None:
        kernel = load(stem, str(dtype).removeprefix("torch."), device_index(device), text)
        fit = resident(kernel, stem)
        row_bytes = vocab_size * dtype.itemsize
        if grid is None and stem in ("verify_fused", "verify_block"):
            grid = plan(batch_size, gamma + 1, row_bytes, fit, stem == "verify_fused")
        grid = grid or plan_race(batch_size, gamma + 1, row_bytes, dtype.itemsize, fit)
        rows = 2 * gamma + 1
        stops = 2 * (gamma + 1) if stem == "verify_block" else 1
        words = batch_size * (rows * grid.slices + stops * grid.members)
        super().__init__(kernel, grid, words, "2P4q2P4iI3i3f2i0P6P2q4P")
        self.shape = (batch_size, gamma, vocab_size)
        self._share = share(vocab_size, grid)

    def __call__(
        self,
        target_logits: Tensor,
        draft_logits: Tensor,
        draft_tokens: Tensor,
        tokens: Tensor,
        accepted: Tensor,
        *,
        target_probs: Tensor | None,
        draft_probs: Tensor | None,
        lengths: Tensor | None,
        temperature: float | Tensor,
        seeds: int | Tensor,
        positions: int | Tensor,
        draft_lse: Tensor | None,
        sigmoid_range: tuple[float, float],
    ) -> None:
        """Enqueues the step on torch's current stream. Everything has been checked by the caller.

        Args: as of `specbench.verify`; tokens (B, γ+1) and accepted (B,), int64, are written.
        """
        temperatures, one_temperature = _pointer_or_value(temperature)
        seed_pointer, seed = _pointer_or_value(seeds)
        position_pointer, position = _pointer_or_value(positions)
        grid = self.grid
        self._launch(
            target_logits.data_ptr(), draft_logits.data_ptr(),
            *target_logits.stride()[:2], *draft_logits.stride()[:2],
            _pointer(lengths), temperatures,
            *self.shape, grid.slices, -(-(1 << 32) // grid.slices), self._share,
            grid.wave, grid.stops_at_once, one_temperature, *sigmoid_range,
            draft_tokens.stride(0), 0 if draft_lse is None else draft_lse.stride(0),
            self.epochs.data_ptr(), self.mail.data_ptr(), draft_tokens.data_ptr(),
            _pointer(draft_lse), seed_pointer, position_pointer, seed, position,
            _pointer(target_probs), _pointer(draft_probs), tokens.data_ptr(), accepted.data_ptr(),
        )  # fmt: skip


class SampleLauncher(_Launcher):
    """The kernel `sample` for (B, V); errors as of `VerifyLauncher`."""

    def __init__(
        self, batch_size: int, vocab_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        kernel = load("sample", str(dtype).removeprefix("torch."), device_index(device))
        row_bytes = vocab_size * dtype.itemsize
        grid = plan_race(batch_size, 1, row_bytes, dtype.itemsize, resident(kernel, "sample"))
        super().__init__(kernel, grid, 2 * batch_size * grid.members, "8P5qf5i")
        self.shape = (batch_size, vocab_size)
        self._share = share(vocab_size, grid)

    def __call__(
        self,
        logits: Tensor,
        tokens: Tensor,
        lse: Tensor,
        *,
        temperature: float | Tensor,
        seeds: int | Tensor,
        positions: int | Tensor,
        purpose: int,
        slot: int,
    ) -> None:
        """Enqueues it on torch's current stream. Everything has been checked by the caller.

        Args:
            logits: (B, V); tokens (B,) int64 and lse (B,) float32, of any stride, are written.
        """
        temperatures, one_temperature = _pointer_or_value(temperature)
        seed_pointer, seed = _pointer_or_value(seeds)
        position_pointer, position = _pointer_or_value(positions)
        self._launch(
            logits.data_ptr(), temperatures, seed_pointer, position_pointer,
            tokens.data_ptr(), lse.data_ptr(), self.mail.data_ptr(), self.epochs.data_ptr(),
            logits.stride(0), tokens.stride(0), lse.stride(0), seed, position, one_temperature,
            *self.shape, self._share, purpose, slot,
        )  # fmt: skip


def draw_numbers(seeds: Tensor, positions: Tensor, uniforms: Tensor, exponentials: Tensor) -> None:
    """Fills uniforms (B, γ) and exponentials (B, V), float32 and contiguous, by the kernel `numbers`.

    Args:
        seeds, positions: (B,) int64 on the same GPU.
    """
    batch, gamma, vocab = *uniforms.shape, exponentials.shape[1]
    kernel = load("numbers", "float32", device_index(seeds.device))
    blocks = max(1, min(-(-vocab // (4 * THREADS)), 1024))
    fields = struct.pack(
        "@4P3i", seeds.data_ptr(), positions.data_ptr(), uniforms.data_ptr(),
        exponentials.data_ptr(), batch, gamma, vocab,
    )  # fmt: skip
    argument = ctypes.create_string_buffer(fields, len(fields))
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
    stream = torch.cuda.current_stream(seeds.device).cuda_stream
    with torch.cuda.device(seeds.device):
        import_cupy().cuda.driver.launchKernel(
            kernel.pointer, blocks, min(batch, 65535), 1, THREADS, 1, 1, 0, stream,
            ctypes.addressof(arguments), 0,
        )  # fmt: skip


def share(vocab_size: int, grid: Grid) -> int:
    """Philox groups, four entries each, that a member races."""
    return -(-vocab_size // (4 * grid.members))


def device_index(device: torch.device) -> int:
    """The GPU's number; torch's current one if the device does not say."""
    return torch.cuda.current_device() if device.index is None else device.index


def resident(kernel: Kernel, stem: str) -> int:
    """Thread blocks that fit the GPU at once, at least one; raises MachineError otherwise."""
    found = kernel.resident(THREADS)
    if found == 0:
        raise MachineError(
            f"not one thread block of {stem} fits this GPU",
            "It needs 384 threads and 48 KB of shared memory on one multiprocessor: another "
            "process or MIG slice may limit them.",
        )
    return found


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _pointer_or_value(value: float | Tensor) -> tuple[int, float]:
    """A pointer for the kernel to read, or 0 and the value that all sequences share."""
    return (value.data_ptr(), 0) if isinstance(value, Tensor) else (0, value)
