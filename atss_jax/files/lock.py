"""File locks: one process at a time may work in a folder or on a file."""

import contextlib
import errno
import pathlib
import warnings
from collections.abc import Iterator

import filelock

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(file: pathlib.Path, wait: bool = True) -> Iterator[None]:
    """Holds a lock file within the `with` block.

    The operating system frees the lock when the process ends, even if it is killed.
    Programs that this process starts do not inherit it.

    Raises:
        BlockingIOError: another process holds the lock and `wait` is False.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(file, timeout=-1 if wait else 0)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except filelock.Timeout:
            raise BlockingIOError(
                f'{file}: another process is at work here; wait until it has ended'
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f'{file}: this file system has no locks ({error.strerror}); nothing '
                'would stop a second process from working here',
                stacklevel=3,
            )
        yield
