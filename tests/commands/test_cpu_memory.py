"""How commands on a CPU keep the memory of compiled programs, and who prevents it."""

import os
import subprocess
import sys

import pytest

from atss_jax.commands import cpu_memory
from atss_jax.commands.main import COMMANDS, main
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    not cpu_memory._has_glibc(), reason='malloc is set where the C library is glibc'
)
BLOCK = 64 * 2**20
PAGES = BLOCK // os.sysconf('SC_PAGE_SIZE')
SETTINGS = ('GLIBC_TUNABLES', 'LD_PRELOAD', 'XLA_FLAGS')

# Blocks of which each page is written to, taken and freed by another thread than the
# main one, as by XLA.
COUNT_FAULTS = f"""
import os, resource, threading

def work():
    byte, counts = b'x', []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        byte * {BLOCK}
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(min(counts), os.environ.get('XLA_FLAGS', ''))

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def output_of(script, **variables):
    """What a script prints in a process without settings of malloc, on a CPU."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in SETTINGS and not name.startswith('MALLOC_')
    }
    environment |= {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, '-c', script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


KEEP = 'from atss_jax.commands import cpu_memory\nprint(cpu_memory.keep())\n'


def test_a_block_is_used_again_without_new_pages():
    kept, faults, *flags = output_of(KEEP + COUNT_FAULTS)
    assert kept == 'True' and flags == [cpu_memory._SCHEDULER]
    assert int(faults) < PAGES / 100


def test_imports_alone_change_nothing():
    faults, *flags = output_of(
        'import atss_jax, atss_jax.commands.main\n' + COUNT_FAULTS
    )
    assert not flags
    assert int(faults) >= PAGES


def test_xla_takes_its_flag_and_keeps_those_of_the_user():
    own = '--xla_cpu_multi_thread_eigen=true'
    script = (
        'import os, jax\nprint(jax.jit(lambda x: x + 1)(1.0), os.environ["XLA_FLAGS"])'
    )
    kept, result, *flags = output_of(KEEP + script, XLA_FLAGS=own)
    assert kept == 'True' and float(result) == 2
    assert flags == [own, cpu_memory._SCHEDULER]


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('MALLOC_ARENA_MAX', '2'),
        ('MALLOC_TRIM_THRESHOLD_', '131072'),
        ('GLIBC_TUNABLES', ''),
        ('LD_PRELOAD', 'libjemalloc.so.2'),
        ('XLA_FLAGS', '--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_DEFAULT'),
        ('JAX_PLATFORMS', 'cuda'),
        ('JAX_PLATFORMS', 'tpu,cpu'),
    ],
)
def test_the_environment_decides(monkeypatch, name, value):
    for variable in SETTINGS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert cpu_memory.keep() is False
    assert dict(os.environ) == before


def test_a_jaxlib_that_may_not_know_the_flag(monkeypatch):
    for variable in SETTINGS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(cpu_memory, '_KNOWS_SCHEDULER', ('0.9.0',))
    assert cpu_memory.keep() is False
    assert 'XLA_FLAGS' not in os.environ


def test_only_commands_that_compute_do_it(monkeypatch, capsys):
    kept = []
    monkeypatch.setattr(cpu_memory, 'keep', lambda: kept.append(name))
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            main([name, '--help'])
    assert set(kept) == set(cpu_memory.COMMANDS)
