"""Slots are used again, but never while an array looks at them."""

import gc
import subprocess
import sys

import jax
import numpy as np
import pytest

from atss_jax.data.loader import prefetch
from atss_jax.data.slots import Memory, Slots
from tests.support.batches import assert_same, run_script, train_batches


@pytest.fixture(params=[False, True], ids=['private', 'shared'])
def slots(request):
    return Slots(Memory(2, 5000, shared=request.param))


def test_slots_are_apart_and_large_enough(slots):
    (first, one), (second, other) = slots.take(), slots.take()
    assert {first, second} == {0, 1}
    assert one.nbytes >= 5000 and other.nbytes >= 5000
    one[:], other[:] = 1, 2
    assert (one == 1).all() and (other == 2).all()


def test_a_slot_is_free_when_its_array_is_deleted(slots):
    (first, one), (_, other) = slots.take(), slots.take()
    assert slots.all_taken
    one[:] = 7
    del one
    number, again = slots.take()
    assert number == first
    assert (again == 7).all()  # the same memory
    assert slots.all_taken and other.nbytes


@pytest.mark.parametrize(
    'look',
    [
        lambda array: array[:6].reshape(1, 2, 3),
        lambda array: array[10:20][::2],
        lambda array: memoryview(array),
        lambda array: np.frombuffer(array, np.int32, 3),
        lambda array: [array[:12].reshape(2, 2, 3)[1]],
        lambda array: jax.device_put(array[:64]),
    ],
    ids=['view', 'view of a view', 'memoryview', 'buffer', 'row', 'jax'],
)
def test_a_slot_is_taken_while_anything_looks_at_it(slots, look):
    taken = [slots.take(), slots.take()]
    taken[0][1][:] = 3
    before = np.array(view := look(taken.pop(0)[1]))
    if slots.all_taken:
        np.testing.assert_array_equal(np.array(view), before)
        del view
        gc.collect()
    else:  # JAX has copied it
        assert isinstance(view, jax.Array)
    assert not slots.all_taken


def test_jax_may_share_the_memory_and_then_keeps_the_slot(slots):
    """On a CPU, where it saves a copy. The slot must not be written to meanwhile."""
    number, array = slots.take()
    array[:] = 1
    pixels = jax.device_put(array)
    assert pixels.unsafe_buffer_pointer() == array.ctypes.data
    del array
    other = slots.take()
    assert other[0] != number
    assert slots.all_taken
    other[1][:] = 2
    assert (np.asarray(pixels) == 1).all()
    del pixels
    gc.collect()
    assert slots.take()[0] == number


def test_what_a_reader_keeps_does_not_change():
    """It keeps every batch, or JAX's array of it, of far more steps than slots."""
    batches = train_batches()
    expected = [batches(step) for step in range(30)]
    kept, on_device = [], []
    for batch in prefetch(batches, 0, 30, workers=0):
        on_device.append(jax.device_put(batch['image']))
        kept.append(batch)
    for one, other, pixels in zip(kept, expected, on_device, strict=True):
        assert_same(one, other)
        np.testing.assert_array_equal(pixels, other['image'])


def test_jax_arrays_alone_keep_their_pixels():
    """The NumPy arrays are gone; every third of JAX's arrays is in use to the end."""
    batches = train_batches()
    on_device = {}
    for step, batch in enumerate(prefetch(batches, 0, 30, workers=0)):
        if step % 3 == 0:
            on_device[step] = jax.device_put(batch['image'])
        del batch
    for step, pixels in on_device.items():
        np.testing.assert_array_equal(pixels, batches(step)['image'])


def test_memory_is_used_again():
    batches = train_batches()
    places = set()
    for batch in prefetch(batches, 0, 60, workers=0):
        places.add(batch['image'].ctypes.data)
    assert len(places) <= 7


def test_what_a_reader_of_workers_keeps_does_not_change(tmp_path):
    body = """
    kept = list(prefetch(batches, 0, 25, workers=2))
    for step, batch in enumerate(kept):
        expected = batches(step)
        assert set(batch) == set(expected)
        for name in batch:
            assert np.array_equal(batch[name], expected[name]), (step, name)
"""
    assert run_script(body, tmp_path).stderr == ''


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_shared_memory_has_no_name_and_is_freed():
    code = """
import os
from atss_jax.data.slots import Memory
def files():
    links = (f'/proc/self/fd/{number}' for number in os.listdir('/proc/self/fd'))
    files = [os.readlink(link) for link in links if os.path.islink(link)]
    return [file for file in files if 'memfd:batches' in file]
def mapped():
    return open('/proc/self/maps').read().count('memfd:batches')
memory = Memory(3, 10**6, shared=True)
array = memory.slot(1)
array[:] = 5
assert all(file.endswith('(deleted)') for file in files())
print(len(files()), mapped())
del memory
print(len(files()), mapped(), int(array[7]))
del array
print(len(files()), mapped())
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    # The mapping has a descriptor of its own.
    assert done.stdout == '2 1\n1 1 5\n0 0\n', done.stderr
