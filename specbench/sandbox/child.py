"""What runs inside the sandbox: one process that answers calls, one that judges the answers.

`supervisor.py` runs this file's text, with the job as text in `job`, twice per completion. The *solver*
executes the generated code and answers calls. The *judge* executes the data set's own code and its test,
and sees of the solver only lines of plain data, so nothing the generated code does to Python reaches the
place where the verdict is formed. Every protocol fault (an end, a malformed or oversized line, a value
that is no plain data) ends the judging at once: it is never an exception that a test might catch.

The file imports the standard library alone: nothing else can be seen inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

LINE_BYTES = 4 << 20  # of one call or answer
DEPTH = 100  # of nested containers
TEXT = 300  # characters of a message

# What the judge raises again under its own name; the rest becomes an Exception. StopIteration is not
# here: raised inside the test's `all(map(candidate, ...))` it would end the loop and pass it.
RAISED = (
    ArithmeticError, AssertionError, AttributeError, EOFError, FileNotFoundError, ImportError,
    IndexError, KeyError, LookupError, MemoryError, NameError, NotImplementedError, OSError,
    OverflowError, PermissionError, ProcessLookupError, RecursionError, RuntimeError, TypeError,
    UnicodeError, ValueError, ZeroDivisionError,
)  # fmt: skip


# --- plain data as text -------------------------------------------------------------------------------


def encode(value: Any, depth: int = 0) -> Any:
    """JSON for plain data: containers, bytes, complex and long integers become [tag, ...].

    A subclass (Counter, a namedtuple, an IntEnum) crosses as the plain value that it holds.

    Raises:
        ValueError: `value` holds something else, or is nested too deeply.
    """
    if depth > DEPTH:
        raise ValueError(f"nested more than {DEPTH} deep")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if abs(number) < 1 << 63 else ["int", hex(number)]
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, bytes):
        return ["bytes", bytes.hex(value)]
    if isinstance(value, dict):
        flat = [part for item in dict.items(value) for part in item]
        return ["dict", *(encode(part, depth + 1) for part in flat)]
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, *(encode(part, depth + 1) for part in value)]
    raise ValueError(f"{type(value).__name__} is not plain data")


def decode(text: Any) -> Any:
    """The plain data that `encode` wrote; only exact built-in types come out of it.

    Raises:
        ValueError, TypeError, LookupError, RecursionError: `text` is not what `encode` writes.
    """
    if type(text) is dict:
        raise ValueError("an object is no plain data")
    if type(text) is not list:
        return text
    tag, *parts = text
    if tag == "int":
        return int(parts[0], 16)
    if tag == "complex":
        return complex(parts[0], parts[1])
    if tag == "bytes":
        return bytes.fromhex(parts[0])
    values = [decode(part) for part in parts]
    if tag == "dict":
        return dict(zip(values[::2], values[1::2], strict=True))
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[tag](values)


class Lines:
    """JSON lines over two pipes, of at most LINE_BYTES each way."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd, self.write_fd, self.rest = read_fd, write_fd, b""

    def send(self, message: Any) -> None:
        """Raises ValueError if the line is too long, OSError if nobody reads."""
        line = json.dumps(message).encode() + b"\n"
        if len(line) > LINE_BYTES:
            raise ValueError(f"more than {LINE_BYTES} bytes")
        while line:
            line = line[os.write(self.write_fd, line) :]

    def receive(self) -> Any:
        """Raises EOFError at the end, ValueError or RecursionError for what is no line of JSON."""
        parts = [self.rest]
        size = len(self.rest)
        while b"\n" not in parts[-1]:
            if size > LINE_BYTES:
                raise ValueError(f"more than {LINE_BYTES} bytes")
            parts.append(os.read(self.read_fd, 1 << 16))
            size += len(parts[-1])
            if not parts[-1]:
                raise EOFError
        line, _, self.rest = b"".join(parts).partition(b"\n")
        return json.loads(line)


def describe(error: BaseException) -> str:
    """The message of an exception; empty if it has none that can be had."""
    try:
        return str.__str__(str(error))[:TEXT]
    except Exception:
        return ""


# --- the solver ---------------------------------------------------------------------------------------


def solve(job: dict[str, Any], lines: Lines) -> None:
    """Execute the generated code, then answer calls until the judge ends."""
    lines.send(["ready"])
    module = types.ModuleType("solution")
    sys.modules["solution"] = module  # dataclasses look their module up
    try:
        exec(compile(job["code"], "solution", "exec"), module.__dict__)
        function = module.__dict__[job["entry_point"]]
    except BaseException as error:
        lines.send(["failed", type(error).__name__, describe(error)])
        return
    lines.send(["defined"])
    while True:
        args, kwargs = lines.receive()
        lines.send(answer(function, decode(args), decode(kwargs)))


def answer(function: Callable[..., Any], args: Any, kwargs: Any) -> list[Any]:
    """What to send back for one call."""
    try:
        result = function(*args, **kwargs)
    except Exception as error:
        name, text = type(error).__name__, describe(error)
        known = next((kind.__name__ for kind in type(error).__mro__ if kind in RAISED), "Exception")
        return ["raised", known, text if name == known else reason(name, text)]
    except BaseException as error:
        return ["failed", type(error).__name__, describe(error)]
    try:
        reply = ["value", encode(result)]
        if len(json.dumps(reply)) < LINE_BYTES:
            return reply
        return ["failed", "ValueError", f"returned more than {LINE_BYTES} bytes"]
    except BaseException as error:
        return ["failed", type(error).__name__, f"cannot take what was returned: {describe(error)}"]


# --- the judge ----------------------------------------------------------------------------------------


def check(job: dict[str, Any], lines: Lines, verdict_fd: int) -> None:
    """Run the data set's test against the solver; write "ready", then the verdict."""

    def say(*words: str) -> None:
        os.write(verdict_fd, json.dumps(words).encode() + b"\n")

    def end(*words: str) -> NoReturn:
        say(*words)
        os._exit(0)

    def receive() -> Any:
        try:
            message = lines.receive()
            if type(message) is list and lines.rest == b"":
                return message
        except EOFError:
            end("ended")
        except Exception:
            pass  # whatever a garbled line raises, it is garbled
        end("failed", "the generated code wrote into the channel of its answers")

    def expect(*states: str) -> list[Any]:
        message = receive()
        if message and message[0] in states:
            return message  # type: ignore[no-any-return]
        if len(message) == 3 and message[0] == "failed":
            end("failed", reason(str(message[1]), str(message[2])))
        end("failed", "the generated code wrote into the channel of its answers")

    def candidate(*args: Any, **kwargs: Any) -> Any:
        try:
            lines.send([encode(args), encode(kwargs)])
        except OSError:
            end("ended")
        except ValueError as error:
            end("failed", f"the test's arguments cannot be sent: {error}")
        message = expect("value", "raised")
        try:
            if message[0] == "value":
                return decode(message[1])
            name, text = str(message[1]), str(message[2])
        except Exception:
            end("failed", "the generated code wrote into the channel of its answers")
        raise {kind.__name__: kind for kind in RAISED}.get(name, Exception)(text)

    try:
        first = lines.receive()
    except EOFError:
        end("not started")
    if first != ["ready"]:
        end("not started")
    say("ready")
    expect("defined")
    if "random" in job["test"]:
        importlib.import_module("random").seed(0)  # so that it draws the same cases each time
    names: dict[str, Any] = {"__name__": "test"}
    try:
        exec(compile(completed(job["prompt"]), "prompt", "exec"), names)
        exec(compile(job["test"], "test", "exec"), names)
        names[job["entry_point"]] = candidate  # a few tests call the function by its name
        names["check"](candidate)
    except BaseException as error:
        end("failed", reason(type(error).__name__, describe(error)))
    end("passed")


def completed(prompt: str) -> str:
    """The prompt as a module of its own: a body is added where it ends at the signature."""
    try:
        compile(prompt, "prompt", "exec")
    except SyntaxError:
        return f"{prompt.rstrip()}\n    pass\n"
    return prompt


def reason(name: str, text: str) -> str:
    """ "NameError: message", or the name alone."""
    return f"{name}: {text}" if text else name


# --- limits -------------------------------------------------------------------------------------------

# System calls that no solution needs and that reach past namespaces and limits, as (x86_64, aarch64):
# vsock is in no network namespace; System V and memfd memory is in nobody's address space.
FORBIDDEN = {
    "socket": (41, 198), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190),
    "mq_open": (240, 180), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280),
    "userfaultfd": (323, 282), "perf_event_open": (298, 241), "io_uring_setup": (425, 425),
    "unshare": (272, 97), "setns": (308, 268),
}  # fmt: skip
CLONE = (56, 220)
CLONE3 = 435
CLONE_NEWUSER = 0x10000000
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def forbid() -> None:
    """No new privileges, and none of FORBIDDEN: they fail with EPERM. Other machines: the first only.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def prctl(*args: Any) -> None:
        if libc.prctl(*args) != 0:
            raise OSError(ctypes.get_errno(), "prctl refused")

    prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    machine = os.uname().machine
    if machine not in AUDIT_ARCH:
        return
    column = list(AUDIT_ARCH).index(machine)
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow, eperm, enosys = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026
    code = [
        (load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCH[machine]), (give, 0, 0, kill),
        (load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (give, 0, 0, eperm),
        # The C library falls back from clone3, whose flags lie out of sight, to clone.
        (equal, 0, 1, CLONE3), (give, 0, 0, enosys),
    ]  # fmt: skip
    for numbers in FORBIDDEN.values():
        code += [(equal, 0, 1, numbers[column]), (give, 0, 0, eperm)]
    code += [
        (equal, 0, 3, CLONE[column]), (load, 0, 0, 16),
        (any_bit, 0, 1, CLONE_NEWUSER), (give, 0, 0, eperm), (give, 0, 0, allow),
    ]  # fmt: skip
    filters = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    program = struct.pack("@HP", len(code), ctypes.addressof(filters))
    prctl(22, 2, ctypes.c_char_p(program), 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def confine(limits: dict[str, int], count_others: bool) -> None:
    """Set the resource limits of this process and its children; they cannot be raised again."""
    processes = limits["processes"] + (tasks_of_user() if count_others else 0)
    hard = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_FSIZE: limits["scratch_bytes"],
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_AS: limits["memory_bytes"],
    }
    for kind, value in hard.items():
        resource.setrlimit(kind, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_s"], limits["cpu_s"] + 1))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a full file is an OSError


def tasks_of_user() -> int:
    """Threads that this user has by now; without a user namespace they all count against the limit."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == os.getuid():
                count += len(list((process / "task").iterdir()))
    return count


def main(job: dict[str, Any], role: str, *fds: str) -> None:
    """Play the role ("solver" or "judge")."""
    os.open("/dev/null", os.O_RDONLY)  # takes the number 0: standard input is read and closed
    numbers = [int(fd) for fd in fds]
    for fd in numbers:
        os.set_inheritable(fd, False)
    confine(job["limits"], job["count_others"])
    forbid()
    sys.argv[1:] = []
    if role == "solver":
        solve(job, Lines(numbers[0], numbers[1]))
    else:
        check(job, Lines(numbers[0], numbers[1]), numbers[2])


if __name__ == "__main__":
    status = 1
    try:
        main(json.loads(globals()["job"]), *sys.argv[1:])
        status = 0
    except (EOFError, BrokenPipeError):
        status = 0  # the judge is done
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)  # neither exit handlers nor destructors get a turn
