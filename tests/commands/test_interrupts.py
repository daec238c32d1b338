"""Ctrl-C at moments when Python would lose it."""

import subprocess
import sys

import pytest

# What presses Ctrl-C, so that the KeyboardInterrupt is raised where it is ignored.
IN_COLLECTION = """
def press(phase, info):
    gc.callbacks.remove(press)
    signal.raise_signal(signal.SIGINT)

gc.callbacks.append(press)
gc.collect()
"""
IN_DESTRUCTOR = """
class Last:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

Last()
"""
PROGRAM = """
import gc, signal, time
from atss_jax.commands import interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
with interrupts.heeded() as pressed:
    {press}
    print(pressed())
    time.sleep(30)
    print('went on')
"""


def run(program):
    return subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, timeout=60
    )


def indented(lines):
    return lines.strip().replace('\n', '\n    ')


@pytest.mark.parametrize('press', [IN_COLLECTION, IN_DESTRUCTOR])
def test_it_is_not_lost(press):
    done = run(PROGRAM.format(press=indented(press)))
    assert done.stdout == 'True\n' and done.returncode
    assert 'KeyboardInterrupt' in done.stderr


def test_other_errors_are_shown_as_before():
    press = IN_DESTRUCTOR.replace('signal.raise_signal(signal.SIGINT)', '1 / 0')
    done = run(PROGRAM.format(press=indented(press)).replace('30', '0'))
    assert done.stdout == 'False\nwent on\n' and not done.returncode
    assert 'Exception ignored' in done.stderr and 'ZeroDivision' in done.stderr


MAIN = """
import signal, sys
from atss_jax.commands import main
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupted(name):
    try:
        {press}
    except KeyboardInterrupt:
        raise ImportError('initializing the extension failed') from None

main.importlib.import_module = interrupted
sys.exit(main.main(['flops']))
"""


def test_a_library_makes_an_import_error_of_it():
    done = run(MAIN.format(press='signal.raise_signal(signal.SIGINT)'))
    assert (done.returncode, done.stderr) == (130, 'atss flops: interrupted\n')


def test_an_import_error_of_its_own_is_shown():
    done = run(MAIN.format(press='raise KeyboardInterrupt'))
    assert done.returncode == 1 and 'initializing the extension' in done.stderr


COMMAND = """
import gc, signal, sys, time, types
from atss_jax.commands import command_line, main
signal.signal(signal.SIGINT, signal.default_int_handler)

def action():
    {press}
    time.sleep(30)

def command(flags, program):
    return command_line.guard(program, action)

main.importlib.import_module = lambda name: types.SimpleNamespace(main=command)
sys.exit(main.main(['flops']))
"""


def test_it_ends_a_command_that_has_quietened_its_libraries():
    done = run(COMMAND.format(press=indented(IN_COLLECTION)))
    assert (done.returncode, done.stderr) == (130, 'atss flops: interrupted\n')


HANDLERS = """
import signal
from atss_jax.commands import interrupts
for handler in (signal.SIG_IGN, print, signal.default_int_handler):
    signal.signal(signal.SIGINT, handler)
    with interrupts.heeded():
        kept = signal.getsignal(signal.SIGINT) is handler
    print(kept, signal.getsignal(signal.SIGINT) is handler)
"""


def test_handlers_of_a_caller_stay():
    assert run(HANDLERS).stdout.split('\n')[:3] == [
        'True True',
        'True True',
        'False True',
    ]
