"""What keeps the code in a box from the user's files, the network and other processes, as far as Linux lets us.

Namespaces of its own first: all mounts read-only but for its home, no network, no process but those it starts, all of
which end with it. Where the system does not grant them (inside many containers), Landlock: nothing can be written
outside of its home, no TCP connection made, no other process sent a signal. Elsewhere there is neither.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

MEANS = NAMESPACES, LANDLOCK, NOTHING = "namespaces", "landlock", "nothing"

_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_PIDS, _NEW_NET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_NOSUID, _NODEV, _RECURSIVE, _PRIVATE = 0x2, 0x4, 0x4000, 0x40000
_READ_ONLY, _AT_RECURSIVE, _AT_FDCWD = 0x1, 0x8000, -100
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_CAPABILITY_VERSION = 0x20080522
# System calls that are younger than the C library may be; these numbers are the same on every processor.
_MOUNT_SETATTR, _CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 442, 444, 445, 446
_SET_INTERFACE_FLAGS, _UP = 0x8914, 0x1
_PROCESSES = 256
_SECRET = ("TOKEN", "SECRET", "PASSW", "CREDENTIAL", "KEY", "AUTH", "COOKIE")


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables whose names do not speak of secrets."""
    return {name: value for name, value in environment.items() if not any(word in name.upper() for word in _SECRET)}


def confine(home: Path, *inherited: int, loopback: bool = False) -> str:
    """Confine this process to `home`, which becomes its working directory, and say by what means.

    `loopback` lets it and those that it starts talk to one another over TCP: with namespaces on an interface that
    nobody else has, with Landlock on those of the machine.

    With namespaces the caller goes on in a new process, and the old one waits for it to end, without the descriptors
    `inherited`, and ends in the same way.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this is what has to go
    apart = _live_apart()
    if apart and loopback:
        _start_loopback()
    means = NAMESPACES if apart and _only_read(home) else LANDLOCK if _landlock(home, tcp=loopback) else NOTHING
    if apart:
        _in_new_process(inherited)
    os.chdir(home)
    return means


def end_with_parent() -> None:
    """End when the process that has started this one ends."""
    with contextlib.suppress(OSError, AttributeError):
        _call("prctl", _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def adopt_orphans() -> None:
    """Be the parent of processes below that lose theirs."""
    with contextlib.suppress(OSError, AttributeError):
        _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _call(name: str, *arguments: object) -> int:
    """Call a function of the C library; OSError if it fails, AttributeError if it is not there."""
    result: int = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


# --- namespaces ----------------------------------------------------------------------------------------------------


def _live_apart() -> bool:
    """Enter new namespaces; that of processes holds for the next process only, not yet for this one."""
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", _NEW_USER | _NEW_MOUNTS | _NEW_PIDS | _NEW_NET | _NEW_IPC)
    except (OSError, AttributeError):
        return False
    # Outside, and to all files, we are who we were.
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path("/proc/self", name).write_text(text)
    return True


def _start_loopback() -> None:
    """A new namespace has this one interface, and it is down."""
    from fcntl import ioctl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        ioctl(handle, _SET_INTERFACE_FLAGS, struct.pack("16sh22x", b"lo", _UP))


def _only_read(home: Path) -> bool:
    """Make everything that is mounted read-only but for `home`, which is empty, small, and gone with the box."""
    attributes = struct.pack("<QQQQ", _READ_ONLY | _NOSUID, 0, 0, 0)
    try:
        _call("mount", None, b"/", None, _RECURSIVE | _PRIVATE, None)
        _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, len(attributes))
    except OSError:
        return False
    for folder, size in ((home, "1g"), (Path("/dev/shm"), "256m")):
        with contextlib.suppress(OSError):
            _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", _NOSUID | _NODEV, f"size={size},mode=700".encode())
    return True


def _in_new_process(inherited: tuple[int, ...]) -> None:
    """Go on as a process that can be ended with all it starts: as its first process, one that only waits, ends."""
    first = os.fork()
    if not first:
        _wait_for_the_end(inherited)
    box = os.fork()
    if not box:
        end_with_parent()
        _give_up_rights()
        return
    for descriptor in inherited:
        os.close(descriptor)
    _, status = os.waitpid(box, 0)
    os.kill(first, signal.SIGKILL)
    _end_as(os.waitstatus_to_exitcode(status))


def _wait_for_the_end(inherited: tuple[int, ...]) -> NoReturn:
    end_with_parent()
    for descriptor in inherited:
        os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # what loses its parent comes here, and is not to stay as a zombie
    while True:
        signal.pause()


def _give_up_rights() -> None:
    """In its own namespaces a process may mount as it likes; not so without the capabilities for it."""
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("capset", struct.pack("<Ii", _CAPABILITY_VERSION, 0), bytes(24))
    resource.setrlimit(resource.RLIMIT_NPROC, (_PROCESSES, _PROCESSES))  # counted for these namespaces alone


def _end_as(code: int) -> NoReturn:
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -code)
    os._exit(code)


# --- Landlock ------------------------------------------------------------------------------------------------------

_WRITE_FILE = 1 << 1
_WRITES_BY_VERSION = {1: 0x1FF2, 2: 0x3FF2, 3: 0x7FF2}  # write, remove and make; then move; then truncate
_TCP, _SIGNALS_AND_SOCKETS = 0b11, 0b11
_RULE_PATH, _VERSION = 1, 1


def _landlock(home: Path, *, tcp: bool) -> bool:
    """Forbid to write anywhere but in `home`, to connect by TCP unless it may, and to send signals out of the box."""
    try:
        version = _call("syscall", _CREATE_RULESET, None, 0, _VERSION)
        writes = _WRITES_BY_VERSION[min(version, 3)]
        handled = struct.pack("<QQQ", writes, 0 if tcp else _TCP, _SIGNALS_AND_SOCKETS)
        size = 24 if version >= 6 else 16 if version >= 4 else 8
        rules = _call("syscall", _CREATE_RULESET, handled[:size], size, 0)
        for folder, allowed in ((home, writes), (Path(os.devnull), _WRITE_FILE)):
            handle = os.open(folder, os.O_PATH)
            rule = struct.pack("<Qi", allowed, handle)
            _call("syscall", _ADD_RULE, rules, _RULE_PATH, rule, 0)
            os.close(handle)
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call("syscall", _RESTRICT_SELF, rules, 0)
        os.close(rules)
    except (OSError, AttributeError):
        return False
    return True
