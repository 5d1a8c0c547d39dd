"""One process at a time, on the file systems that there are."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .experiment import ExperimentError

__all__ = ["locked"]

UNKNOWN = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems without `flock` answer."""


@contextmanager
def locked(file: Path | None, taken: str = "", say: Callable[[str], object] = lambda line: None) -> Iterator[None]:
    """One process at a time; others wait, or are told that it is `taken`.

    The lock falls with who holds it. Where the file system knows no such locks, a second file stands for it, which
    names its host and process; that is said. A folder that nobody can write to needs no lock.

    Raises:
        ExperimentError: `taken`, where that is given and another process holds it.
    """
    if file is None:
        yield
        return
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    try:
        held = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.EROFS or (error.errno == errno.EACCES and not os.access(file.parent, os.W_OK)):
            yield
            return
        raise
    try:  # the file stays: to remove it would race with whoever waits for it
        try:
            fcntl.flock(held, fcntl.LOCK_EX | (fcntl.LOCK_NB if taken else 0))
        except BlockingIOError:
            raise ExperimentError(taken) from None
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise
            beside = file.with_name(f"{file.name}.held")
            say(f"note: this file system has no locks ({error.strerror}); {beside} stands for one")
            with _beside(beside, taken):
                yield
            return
        yield
    finally:
        os.close(held)


@contextmanager
def _beside(file: Path, taken: str) -> Iterator[None]:
    """A file that only one can make. Who finds that of a process of this host that has ended takes its place."""
    own = f"{socket.gethostname()} {os.getpid()}"
    while True:
        try:
            held = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            break
        except FileExistsError:
            if _ended(file):
                file.unlink(missing_ok=True)
            elif taken:
                raise ExperimentError(f"{taken}; where no process does, remove {file}") from None
            else:
                time.sleep(0.1)
    try:
        with os.fdopen(held, "w") as stream:
            stream.write(own)
        yield
    finally:
        file.unlink(missing_ok=True)


def _ended(file: Path) -> bool:
    """Whether it is of a process of this host that is no more."""
    try:
        host, process = file.read_text(encoding="utf-8").split()
        if host != socket.gethostname():
            return False
        os.kill(int(process), 0)
    except (OSError, ValueError) as error:
        return isinstance(error, ProcessLookupError)
    return False
