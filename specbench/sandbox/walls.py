"""The walls of the sandbox: the command lines that make the two kinds of isolation.

They agree but for one thing: only "namespaces" bounds the number of files in the scratch, and with it the
kernel memory of empty ones; bubblewrap has no option for that.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shlex
import sys
from pathlib import Path

PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
DEVICES = ("/dev/null", "/dev/urandom")
USERS = range(50_000, 60_000)
SERIAL = itertools.count(os.getpid() * 61)


def executable() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@functools.cache
def view() -> tuple[list[str], dict[str, str]]:
    """What is shown read-only, and the links at the root: the system's libraries and Python's own."""
    top = [Path("/", name) for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64")]
    links = {str(path): str(path.readlink()) for path in top if path.is_symlink()}
    python = Path(executable())
    prefixes = dict.fromkeys([python.parent.parent, Path(os.path.realpath(sys.base_prefix))])
    wanted = [path for path in top if path.is_dir() and not path.is_symlink()]
    wanted += [prefix / name for prefix in prefixes for name in ("lib", "lib64")]
    wanted += [python, Path("/etc/ld.so.cache")]
    shown: list[str] = []
    for path in wanted:
        inside = any(path.is_relative_to(other) for other in (*shown, *links))
        if path.exists() and not inside:
            shown.append(str(path))
    return shown, links


def can_change_user() -> bool:
    """Whether this is root, of the machine or of a container that has the ids of USERS."""
    if os.geteuid() != 0:
        return False
    spans = [map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(first <= USERS[0] and USERS[-1] < first + count for first, _, count in spans)


def wrapper(kind: str, scratch_bytes: int, mount_point: str) -> list[str]:
    """The command line that makes the isolation and runs what follows it inside."""
    if kind == "none":
        return []
    root = can_change_user()
    # The limit of processes does not bind root, and counts all that one user has: each sandbox takes
    # an id of its own. An ordinary user gets a user namespace, which counts for itself.
    uid = str(USERS[next(SERIAL) % len(USERS)])
    drop = ["setpriv", "--inh-caps=-all", "--no-new-privs"]
    drop += ["--reuid", uid, "--regid", uid, "--clear-groups"] if root else ["--bounding-set=-all"]
    spaces = ["mount", "pid", "net", "ipc", "uts"]
    if kind == "namespaces":
        unshare = ["setpriv", "--pdeathsig", "KILL", "unshare", "--fork", "--kill-child"]
        unshare += [f"--{space}" for space in spaces]
        unshare += [] if root else ["--user", "--map-root-user"]
        return [*unshare, "sh", "-c", mounts(scratch_bytes, mount_point), "sh", *drop]
    command = ["bwrap", "--die-with-parent", "--new-session"]
    command += [f"--unshare-{space}" for space in spaces[1:]]
    if root:
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--uid", uid, "--gid", uid]
    # First, for Python itself may lie in /tmp.
    command += ["--perms", "1777", "--size", str(scratch_bytes), "--tmpfs", "/tmp"]
    shown, links = view()
    for path in [*shown, *DEVICES]:
        # Else a parent takes the mode of the original, and /root lets nobody through.
        for parent in reversed(Path(path).parents[:-1]):
            command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind" if path in shown else "--dev-bind", path, path]
    for path, goal in links.items():
        command += ["--symlink", goal, path]
    command += ["--remount-ro", "/", "--chdir", "/tmp"]
    return [*command, *drop] if root else command


def mounts(scratch_bytes: int, mount_point: str) -> str:
    """The shell script that builds the view in a new mount namespace and runs its arguments there.

    The shell stays the first process of the pid namespace, where no signal of the code inside and no
    change of user can end it or part it from this process.
    """
    shown, links = view()
    made = [f"mkdir -p .{shlex.quote(path)}" for path in shown if Path(path).is_dir()]
    options = "nosuid,nodev"
    scratch = f"mode=1777,size={scratch_bytes},nr_inodes=4096,{options}"
    lines = [
        "set -eu",
        f"mount -t tmpfs -o mode=755,size=1m,{options} tmpfs {shlex.quote(mount_point)}",
        f"cd {shlex.quote(mount_point)}",
        "mkdir tmp old",
        f"mount -t tmpfs -o {scratch} tmpfs ./tmp",
        *made,
        "ln -s old/proc proc",  # umount reads it; dangling thereafter
    ]
    for path in [*shown, *DEVICES]:
        inner = f".{shlex.quote(path)}"
        if not Path(path).is_dir():
            lines += [f"mkdir -p .{shlex.quote(str(Path(path).parent))}", f": > {inner}"]
        lines += [f"mount --rbind {shlex.quote(path)} {inner}"]
        if path in shown:
            for part in [path, *writable_below(path)]:
                lines += [f"mount -o remount,bind,ro,{options} .{shlex.quote(part)}"]
    lines += [f"ln -s {shlex.quote(goal)} .{shlex.quote(path)}" for path, goal in links.items()]
    lines += [
        f"mount -o remount,bind,ro,{options} .",
        "pivot_root . old",
        "umount -l /old",
        "cd /tmp",
        "unset OLDPWD",
        '"$@"',
        "exit $?",  # keeps the shell from becoming its last command
    ]
    return "\n".join(lines)


def writable_below(path: str) -> list[str]:
    """File systems mounted inside a folder that are not read-only themselves."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point, options = line.split()[4:6]
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point)
        if point.startswith(f"{path}/") and "rw" in options.split(","):
            found.append(point)
    return found
