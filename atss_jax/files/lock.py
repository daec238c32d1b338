"""One process at a time."""

import contextlib
import errno
import fcntl
import pathlib
import warnings
from collections.abc import Iterator

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(file: pathlib.Path, wait: bool = True) -> Iterator[None]:
    """Holds a lock file, until the end of this process at the latest, even by a kill.

    Programs that this process starts do not inherit the lock.

    Raises:
        BlockingIOError: another one holds it and we were not to wait.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open('w') as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
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
