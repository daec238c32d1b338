"""Memory for the images of batches that are loaded ahead, used again and again.

New memory costs more than it seems: the system clears each page, and maps it in each
process that shares it. With new shared memory for each batch this took longer than to
decode the images.

A slot is the memory of one batch. It is used again when no array looks at it any more,
however the array came about: a view, or a JAX array on a CPU, which may share the
memory of the NumPy array that it was made from. So a reader may keep a batch for as
long as it likes, and never sees it change.
"""

import ctypes
import mmap
import os
import queue
import weakref
from multiprocessing import heap

import numpy as np

_ALIGNED = mmap.PAGESIZE
"""Where slots begin: JAX shares memory only from multiples of 64 bytes on."""


_LARGEST_KEPT = 2**25 - 2**16
"""Bytes; with what malloc adds, just below glibc's DEFAULT_MMAP_THRESHOLD_MAX."""


class Memory:
    """Memory for the images of several batches; pages are taken when written to first.

    If shared, it can be an argument of a process that is started. It has no name that
    could outlive the processes, and is freed with the last array that looks at it.
    """

    def __init__(self, slots: int, slot_bytes: int, shared: bool):
        """Reserves the memory.

        Args:
            slots: number of slots.
            slot_bytes: what each holds at least.
            shared: whether worker processes will write to it.
        """
        self.slots = slots
        self._slot_bytes = max(-(-slot_bytes // _ALIGNED), 1) * _ALIGNED
        size = slots * self._slot_bytes
        self._memory = _shared(size) if shared else _private(size)

    def slot(self, number: int) -> np.ndarray:
        """(bytes,) uint8 array of a slot.

        Its base is an object made in this call, which lives as long as any view of the
        array.
        """
        kind = ctypes.c_uint8 * self._slot_bytes
        buffer = getattr(self._memory, 'buffer', self._memory)
        base = kind.from_buffer(buffer, number * self._slot_bytes)
        return np.ndarray(self._slot_bytes, np.uint8, base)


def _private(size):
    """Memory of this process alone, aligned."""
    memory = np.empty(size + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    return memory[start : start + size]


def _shared(size):
    """Memory without a name that can be sent to a process when it is started."""
    if not hasattr(os, 'memfd_create'):
        return heap.Arena(size)
    # Unlike files in /dev/shm, its size is limited by the memory alone.
    file = os.memfd_create('batches')
    os.ftruncate(file, size)
    arena = heap.Arena(size, file)
    weakref.finalize(arena, os.close, file)
    return arena


def keep_freed_memory() -> None:
    """Lets the C library keep memory that is freed, for the images decoded next.

    Otherwise glibc returns the memory of each decoded image to the system, which clears
    it for the next one: 460 page faults per image and a quarter of the processor time.
    It adapts to the largest block that was freed, up to 32 MB; settings of the user
    hold. Elsewhere this does nothing.
    """
    np.empty(_LARGEST_KEPT, np.uint8)  # and free it


class Slots:
    """Hands out the slots of a memory that no array looks at."""

    def __init__(self, memory: Memory):
        """All slots are free at first."""
        self._memory = memory
        # Its `put` may be called at any time, even within `get`, as finalizers are.
        self._free = queue.SimpleQueue()
        for number in range(memory.slots):
            self._free.put(number)

    def take(self) -> tuple[int, np.ndarray]:
        """A free slot's number and its (bytes,) uint8 array; waits until there is one.

        The slot is free again when the array and all views of it have been deleted.
        """
        number = self._free.get()
        array = self._memory.slot(number)
        weakref.finalize(array.base, self._free.put, number).atexit = False
        return number, array

    @property
    def all_taken(self) -> bool:
        """Whether no slot is free."""
        return self._free.empty()
