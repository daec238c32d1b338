"""How commands that compute on a CPU get their memory: set before JAX is loaded.

A program that XLA compiled takes the memory of all its intermediate results at once, up
to some GB in training, and frees it at its end. glibc gets such a block from the kernel
and returns it each time, so that every step touches new pages, which the kernel has to
provide and to clear. Here malloc is told to keep what was freed. A block then rarely
fits the place of an earlier one exactly and some places stay unused, so XLA is told to
order operations by memory, too, which makes the blocks less than half as large.

Only commands do this: a library must not change the malloc of the program that uses it.
"""

import ctypes
import glob
import importlib.metadata
import os

COMMANDS = ('train', 'eval', 'predict', 'export', 'doctor')
"""Those that run compiled programs many times."""

_SCHEDULER = '--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'
# XLA ends the process at a flag that it does not know.
_KNOWS_SCHEDULER = ('0.10.2',)  # versions of jaxlib

# Of glibc's malloc.h: number and value, see `man mallopt`.
_MALLOC_OPTIONS = {
    # One heap for all threads: others are too small for the blocks, which would come
    # from the kernel.
    'M_ARENA_MAX': (-8, 1),
    'M_MMAP_MAX': (-4, 0),  # no block comes from the kernel
    'M_TRIM_THRESHOLD': (-1, -1),  # and nothing is returned to it
    'M_TOP_PAD': (-2, 64 * 2**20),  # bytes to grow by; they cost nothing until used
}
_ACCELERATORS = ('nvidia[0-9]*', 'accel*', 'vfio/[0-9]*', 'kfd', 'dxg')  # in /dev


def keep() -> bool:
    """Lets this process keep the memory of compiled programs between their runs.

    Does nothing where something other than a CPU may compute, without glibc, with a
    jaxlib for which it was not tried, and where the environment has settings of malloc
    or of XLA's scheduler. Processes that this one spawns are not affected, except that
    they inherit XLA_FLAGS.

    Returns:
        Whether it did.
    """
    flags = os.environ.get('XLA_FLAGS', '')
    if _user_decides(flags) or not (_on_cpu() and _has_glibc() and _knows_scheduler()):
        return False
    os.environ['XLA_FLAGS'] = f'{flags} {_SCHEDULER}'.strip()
    malloc = ctypes.CDLL(None)
    return all(malloc.mallopt(*option) == 1 for option in _MALLOC_OPTIONS.values())


def _user_decides(flags):
    names = ('GLIBC_TUNABLES', 'LD_PRELOAD')  # the latter may bring another malloc
    return 'xla_cpu_scheduler_type' in flags or any(
        name in names or name.startswith('MALLOC_') for name in os.environ
    )


def _on_cpu():
    asked = os.environ.get('JAX_PLATFORMS')
    if asked:
        return asked == 'cpu'
    return not any(glob.glob(f'/dev/{device}') for device in _ACCELERATORS)


def _has_glibc():
    try:
        version = os.confstr('CS_GNU_LIBC_VERSION')
    except (AttributeError, ValueError, OSError):  # Windows, macOS, musl
        return False
    return bool(version) and version.startswith('glibc')


def _knows_scheduler():
    try:
        return importlib.metadata.version('jaxlib') in _KNOWS_SCHEDULER
    except importlib.metadata.PackageNotFoundError:
        return False
