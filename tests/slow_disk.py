"""A disk that is slow, under a program that knows nothing of it.

    python tests/slow_disk.py FOLDER BYTES_PER_SECOND SECONDS_A_CALL COMMAND...

Every write and flush of a file below the folder, by any thread or library of the command
and of its children, takes its turn: one after the other, each the seconds of a call and
those of its bytes, as on a disk that is mounted `sync`. The kernel itself holds the call
back (seccomp's notifications: Linux on x86-64, no rights needed); who made it sleeps in
it, and only SIGKILL wakes it, as in one that a real disk keeps waiting. Reading, making
and renaming files are as fast as ever.

The command takes the place of this process: its number and its exit code are its own.
"""

import ctypes
import fcntl
import heapq
import os
import platform
import select
import socket
import struct
import sys
import time

# Numbers of system calls -> the argument that holds the bytes to write, None for none.
_CALLS = {1: 2, 18: 2, 74: None, 75: None}  # write, pwrite64, fsync, fdatasync
_VECTORS = (20, 296, 328)  # writev, pwritev, pwritev2
_SECCOMP, _SET_FILTER = 317, 1  # the system call, its operation
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5
_NO_NEW_PRIVILEGES, _SET_PTRACER, _ANY = 38, 0x59616D61, 2**64 - 1  # of prctl
_ARCHITECTURE = 0xC000003E
_NOTIFY, _ALLOW = 0x7FC00000, 0x7FFF0000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # of ioctl
_CONTINUE = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def is_possible() -> bool:
    """Whether the kernel can hold calls back."""
    path = "/proc/sys/kernel/seccomp/actions_avail"
    if platform.machine() != "x86_64" or not os.path.exists(path):
        return False
    with open(path) as file:
        return "user_notif" in file.read()


def command(folder: object, rate: float, latency: float) -> list[str]:
    """What stands before a command that shall run on such a disk."""
    return [sys.executable, __file__, str(folder), str(rate), str(latency)]


def main(argv: list[str]) -> None:
    """Becomes the command; a child of its own plays the disk."""
    folder, rate, latency, *rest = argv
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        _, (listener,), _, _ = socket.recv_fds(ours, 1, 1)
        quiet = os.open(os.devnull, os.O_RDWR)
        for number in range(3):  # who reads what the command says sees its end
            os.dup2(quiet, number)
        _Disk(folder, float(rate), float(latency)).serve(listener)
        os._exit(0)
    listener = _filter()
    socket.send_fds(theirs, [b"."], [listener])
    for number in (listener, ours.fileno(), theirs.fileno()):
        os.close(number)
    os.execvp(rest[0], rest)


class _Disk:
    """Answers calls one after the other, each when the disk has done it."""

    def __init__(self, folder: str, rate: float, latency: float):
        self._folder = os.path.realpath(folder) + "/"
        self._rate = rate
        self._latency = latency
        self._free = 0.0  # when the disk has done all that it was given
        self._waiting: list[tuple[float, int]] = []  # due times and calls

    def serve(self, listener: int) -> None:
        """Returns when no process is left that could call."""
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while True:
            due = self._waiting[0][0] - time.monotonic() if self._waiting else None
            ready = poll.poll(None if due is None else max(0.0, due * 1000))
            if ready and ready[0][1] & select.POLLIN:
                self._take(listener)
            elif ready:
                return
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                answer = (heapq.heappop(self._waiting)[1], 0, 0, _CONTINUE)
                _ioctl(listener, _SEND, bytearray(struct.pack("QqiI", *answer)))

    def _take(self, listener: int) -> None:
        asked = bytearray(80)
        if not _ioctl(listener, _RECEIVE, asked):
            return
        call, task, _, number, _, _, *arguments = struct.unpack("QIIiIQ6Q", asked)
        due = time.monotonic()
        if _file(task, arguments[0]).startswith(self._folder):
            seconds = self._latency + _size(task, number, arguments) / self._rate
            self._free = due = max(self._free, due) + seconds
        heapq.heappush(self._waiting, (due, call))


def _filter() -> int:
    """Has the kernel ask about this process's calls; returns where it asks."""
    numbers = (*_CALLS, *_VECTORS)
    lines = [
        (0x20, 0, 0, 4),  # the architecture
        (0x15, 0, len(numbers) + 1, _ARCHITECTURE),
        (0x20, 0, 0, 0),  # the call's number
        *((0x15, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        (0x06, 0, 0, _ALLOW),
        (0x06, 0, 0, _NOTIFY),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *x) for x in lines))
    program = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code))
    _LIBC.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _LIBC.prctl(_SET_PTRACER, ctypes.c_ulong(_ANY), 0, 0, 0)  # its child reads it
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):  # the first: 5.19
        listener = _LIBC.syscall(_SECCOMP, _SET_FILTER, flags, program)
        if listener >= 0:
            return listener
    raise OSError(ctypes.get_errno(), "seccomp")


def _ioctl(listener: int, request: int, data: bytearray) -> bool:
    """False if who called is not waiting any more: it was killed."""
    try:
        fcntl.ioctl(listener, request, data, True)
    except FileNotFoundError:
        return False
    return True


def _file(task: int, handle: int) -> str:
    try:
        return os.readlink(f"/proc/{task}/fd/{handle & 0xFFFFFFFF}")
    except OSError:  # it was closed, or who called is gone
        return ""


def _size(task: int, number: int, arguments: list[int]) -> int:
    """The bytes that a call wants to write."""
    if number not in _VECTORS:
        place = _CALLS[number]
        return 0 if place is None else arguments[place]
    _, where, count = arguments[:3]
    with open(f"/proc/{task}/mem", "rb") as memory:
        memory.seek(where)
        pairs = memory.read(16 * count)
    return sum(size for _, size in struct.iter_unpack("QQ", pairs))


if __name__ == "__main__":
    main(sys.argv[1:])
