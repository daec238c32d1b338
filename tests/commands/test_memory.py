"""Memory that compiling leaves behind goes back to the system."""

import platform
import subprocess
import sys

import jax
import pytest
from jax import monitoring

from atss_jax.commands import memory

FREES_MUCH = """
import pathlib, re
import numpy as np
from jax import monitoring
from atss_jax.commands import memory

def resident():
    status = pathlib.Path('/proc/self/status').read_text()
    return int(re.search(r'VmRSS:\\s+(\\d+)', status)[1]) / 1024

memory.return_after_compiling()
memory.return_after_compiling()
blocks = [np.ones(10_000) for _ in range(4000)]  # 80 kB each: too small for mmap
last = blocks[-1]
del blocks
before = resident()
monitoring.record_event_duration_secs(memory.COMPILED, 0.5)
monitoring.record_event_duration_secs('/another/event', 60.0)
unchanged = resident()
monitoring.record_event_duration_secs(memory.COMPILED, 60.0)
print(before, unchanged, resident(), last[0])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason="is about glibc's malloc")
def test_what_the_compiler_freed_is_returned():
    done = subprocess.run(
        [sys.executable, '-c', FREES_MUCH], capture_output=True, text=True, check=True
    )
    before, unchanged, after, _ = map(float, done.stdout.split())
    assert abs(before - unchanged) < 20
    assert before - after > 200  # MiB, of 305 that were freed


def test_jax_reports_what_it_compiles_by_this_name():
    events = []
    monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: events.append(event)
    )
    jax.jit(lambda x: x * 3 + 41)(2.0)
    assert memory.COMPILED in events


@pytest.mark.parametrize('system', ['darwin', 'win32'])
def test_other_systems_have_nothing_to_do(monkeypatch, system):
    listeners = []
    monkeypatch.setattr(sys, 'platform', system)
    monkeypatch.setattr(
        monitoring, 'register_event_duration_secs_listener', listeners.append
    )
    memory.return_after_compiling()
    assert not listeners
