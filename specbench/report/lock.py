"""One writer for a run: a lock that goes with the process that holds it, however that dies."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second writer away
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class HeldError(Exception):
    """Another process holds the lock; the text says which."""


def hold(directory: Path) -> IO[str]:
    """Locks a run's folder for as long as the returned file is open.

    The lock is the kernel's (flock), not the file's being there: one that a dead process left behind
    stops nobody. Programs that are started meanwhile do not inherit it. A file system without locks
    (some network ones) locks nothing.

    Raises:
        HeldError: another process, or another writer of this one, holds it.
        OSError: the folder takes no file.
    """
    file = (directory / LOCK_FILE).open("a+", encoding="utf-8")
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise HeldError(holder or "another process") from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            file.close()
            raise
    with suppress(OSError):  # the disk is full: the lock holds without a name
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    return file
