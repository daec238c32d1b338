"""What the programs share: flags for several hosts, errors, exit status."""

import argparse
import os
import pathlib
import signal
import sys
import traceback
import warnings
from collections.abc import Callable

EXIT_STATUS = 'exit status: 0 done, 1 error, 75 stopped and saved (run again to go on)'


def add_host_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `parallel.start`."""
    group = parser.add_argument_group(
        'several hosts',
        'One process a host; found out by itself on Cloud TPU, SLURM, Open MPI and '
        'Kubernetes, by these flags elsewhere. See docs/pods.md.',
    )
    group.add_argument('--coordinator', help='HOST:PORT of process 0')
    group.add_argument('--num_processes', type=int, help='1: no others')
    group.add_argument('--process_id', type=int, help='0 to num_processes - 1')
    group.add_argument(
        '--start_timeout',
        type=_seconds,
        default=300,
        help='seconds to wait for the other processes (default: 300)',
    )
    group.add_argument(
        '--collective_timeout',
        type=_seconds,
        default=600,
        help='seconds without progress after which a process gives up (default: 600)',
    )


def add_cache_flag(parser: argparse.ArgumentParser) -> None:
    """The flag of `use_cache`."""
    parser.add_argument(
        '--compile_cache',
        metavar='FOLDER',
        help="where compiled programs are kept for the next time, or 'off' "
        '(default: JAX_COMPILATION_CACHE_DIR, else WORKDIR/compile_cache)',
    )


def use_cache(flags: argparse.Namespace) -> None:
    """Keeps compiled programs as `--compile_cache` says; before JAX is loaded.

    Args:
        flags: with `workdir`, and that of `add_cache_flag`.
    """
    name = 'JAX_COMPILATION_CACHE_DIR'
    if flags.compile_cache == 'off':
        os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
    elif flags.compile_cache:
        os.environ[name] = str(pathlib.Path(flags.compile_cache).absolute())
    elif not pathlib.Path(flags.workdir).is_file():
        workdir = pathlib.Path(flags.workdir).absolute()
        os.environ.setdefault(name, str(workdir / 'compile_cache'))
    # Small programs too: there are many, and each takes tenths of a second.
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')


def _seconds(text):
    seconds = int(text)
    if seconds < 1:
        raise argparse.ArgumentTypeError(f'{text}: expected a second or more')
    return seconds


def canvas(text: str) -> tuple[int, int]:
    """Height and width from `800x1280`, for `type=` of a flag."""
    sides = text.split('x')
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f'{text}: expected one like 800x1280')
    return int(sides[0]), int(sides[1])


def step_range(text: str) -> tuple[int, int]:
    """First and last step from `100:105`, for `type=` of a flag."""
    first, colon, last = text.partition(':')
    if not (colon and first.isdecimal() and last.isdecimal()):
        raise argparse.ArgumentTypeError(f'{text}: expected one like 100:105')
    if not 1 <= int(first) <= int(last):
        raise argparse.ArgumentTypeError(f'{text}: the first step is 1, the last after')
    return int(first), int(last)


def score(text: str) -> float:
    """Type of flags that take a score, from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f'{text}: expected a number from 0 to 1')
    return float(text)


def run(flags: argparse.Namespace, action: Callable[[], None]) -> int:
    """Joins the other hosts, acts, and turns errors into messages and an exit status.

    Args:
        flags: with those of `add_host_flags`.
        action: what the program does.
    """
    import absl.logging
    import jax

    from atss_jax.distributed import devices, hosts

    # Orbax and grain speak through absl; what matters we say ourselves.
    absl.logging.set_verbosity(absl.logging.ERROR)
    warnings.formatwarning = _as_one_line
    program = pathlib.Path(sys.argv[0]).name
    # Until training listens itself; with several processes JAX does, once it started.
    signal.signal(signal.SIGTERM, _leave_before_training)
    try:
        devices.start(
            flags.coordinator,
            flags.num_processes,
            flags.process_id,
            flags.start_timeout,
            flags.collective_timeout,
        )
        action()
        return 0
    except hosts.Stopped as stop:
        print(f'{program}: stopped {stop}; all is saved, run again to go on')
        return hosts.STOPPED
    except KeyboardInterrupt:
        problem, status = 'interrupted; what was not saved yet is lost', 130
    except (ValueError, OSError, FloatingPointError) as error:
        problem, status = str(error), 1
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        problem, status = f'a collective failed, is a host gone? {error}', 1
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        # The farewell at the end of Python would wait for hosts that wait for us.
        traceback.print_exc()
        problem, status = f'{type(error).__name__}: {error}', 1
    if jax.distributed.is_initialized():
        hosts.leave(problem, status)
    print(f'{program}: {problem}', file=sys.stderr)
    return status


def _as_one_line(message, category, file, number, line=None):
    """A warning is for the user, who has no use for a line of our source."""
    return f'warning: {message}\n'


def _leave_before_training(number, frame):
    from atss_jax.distributed import hosts

    problem = 'stopped outside of training; all is saved, run again to go on'
    hosts.leave(problem, hosts.STOPPED)


def guard(action: Callable[[], int]) -> int:
    """Acts, alone; gives its exit status, or turns an error into a message and 1."""
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        return action()
    except KeyboardInterrupt:
        problem, status = 'interrupted', 130
    except (ValueError, OSError) as error:
        problem, status = str(error), 1
    print(f'{pathlib.Path(sys.argv[0]).name}: {problem}', file=sys.stderr)
    return status
