"""What the commands share: parsing, flags for several hosts, errors, exit status."""

import argparse
import logging
import math
import os
import pathlib
import sys
import traceback
import warnings
from collections.abc import Callable

from atss_jax.files.download import cache_folder

EXIT_STATUS = (
    'exit status: 0 success, 1 error, 75 stopped and saved (run again to resume)'
)
CONFIG_HELP = 'a shipped name (atss_r50_1x) or a .py or .json file'
DATA_HELP = (
    'a folder in the form of COCO, YOLO, Pascal VOC or Hugging Face, its annotation '
    'file, or hf://OWNER/NAME'
)
FIELDS_HELP = 'Any config field is set by --config.FIELD=VALUE.'


def new_parser(program: str, description: str, epilog: str = '', **options):
    """An argument parser as all commands use it: line breaks kept, no abbreviations."""
    return argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )


def other_command(name: str) -> str:
    """How a user who called this program calls another command.

    In a checkout `python train.py` is answered by `python eval.py`.
    """
    script = pathlib.Path(sys.argv[0])
    if script.suffix == '.py' and name in ('train', 'eval', 'predict'):
        is_checkout = script.with_name(f'{name}.py').is_file()
        if is_checkout and script.name != '__main__.py':
            return f'python {name}.py'
    if script.name == '__main__.py':
        return f'python -m atss_jax {name}'
    return f'atss {name}'


def add_tile_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--tiles` and `--overlap`."""
    parser.add_argument(
        '--tiles',
        type=positive,
        metavar='PIXELS',
        help='also show larger images in square tiles of this side, for objects that '
        'are small in them',
    )
    parser.add_argument(
        '--overlap',
        type=_overlap,
        metavar='SHARE',
        help='of neighboring tiles, as a share of their side (default: 0.2)',
    )


def check_tile_flags(
    parser: argparse.ArgumentParser, flags: argparse.Namespace
) -> None:
    """Gives `--overlap` its default; without `--tiles` it is an error."""
    if flags.overlap is None:
        flags.overlap = 0.2
    elif flags.tiles is None:
        parser.error('--overlap is of --tiles, which is missing')


def add_host_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `run` hands to `devices.start`."""
    group = parser.add_argument_group(
        'several hosts',
        'One process per host. Cloud TPU, SLURM, Open MPI and Kubernetes are detected; '
        'elsewhere these flags say who is who. See docs/pods.md.',
    )
    group.add_argument('--coordinator', help='HOST:PORT of process 0')
    group.add_argument(
        '--num_processes', type=int, help='number of processes; 1: no others'
    )
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


def names(text: str) -> tuple[str, ...]:
    """Class names from `cat,dog`, for `type=` of a flag."""
    return tuple(name.strip() for name in text.split(','))


def add_weights_flags(
    parser: argparse.ArgumentParser, workdir_help: str, required: bool = True
) -> None:
    """Adds --workdir, --model, of which one is given, and --model_config."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument('--workdir', type=path, help=workdir_help)
    group.add_argument(
        '--model',
        metavar='NAME',
        help='a trained detector by its name (`atss models` lists them), or the '
        'https:// or hf:// address of a .pth or .safetensors; downloaded once',
    )
    parser.add_argument(
        '--model_config',
        type=path,
        help='config of a .pth or .safetensors (default for a NAME: its own)',
    )


def weights_of(flags: argparse.Namespace) -> str | None:
    """What --workdir or --model names, for `load_weights`; None: neither is given."""
    if flags.model is None:
        return flags.workdir
    return flags.model if '://' in flags.model else f'mmdet://{flags.model}'


def add_class_names_flag(parser: argparse.ArgumentParser) -> None:
    """Adds the flag with the names of the labels, for `load_trained`."""
    parser.add_argument(
        '--class_names',
        type=names,
        metavar='NAME,NAME',
        help='all classes in the order of the labels, for weights that do not name '
        'them (default: data.test.classes of the config)',
    )


ON_ERROR = '--on_error=skip'
"""What `add_on_error_flag` adds, as it is used, for messages."""


def add_on_error_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --on_error, the same as `data.on_error` of a config."""
    parser.add_argument(
        '--on_error',
        default='raise',
        choices=('raise', 'skip'),
        help='skip: malformed records are left out and counted (default: raise)',
    )


def add_cache_flag(parser: argparse.ArgumentParser) -> None:
    """Adds the flag of `prepare_compiling`."""
    parser.add_argument(
        '--compile_cache',
        type=path,
        metavar='FOLDER',
        help="where compiled programs are kept for the next time, or 'off' "
        '(default: JAX_COMPILATION_CACHE_DIR, else WORKDIR/compile_cache; for a model '
        'by name or address ~/.cache/atss_jax/compile_cache)',
    )


def prepare_compiling(flags: argparse.Namespace) -> None:
    """Keeps compiled programs where `--compile_cache` says; call before JAX is loaded.

    Also sees to it that the compiler's memory is returned.

    Args:
        flags: with `workdir`, perhaps `model`, and the flag of `add_cache_flag`.
    """
    name = 'JAX_COMPILATION_CACHE_DIR'
    if name in os.environ:
        os.environ[name] = path(os.environ[name])
    if flags.compile_cache == 'off':
        os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
    elif flags.compile_cache:
        os.environ[name] = str(pathlib.Path(flags.compile_cache).absolute())
    elif (folder := _default_cache(flags)) and _may_write(folder):
        # Where it may not write, JAX would complain about every program.
        os.environ.setdefault(name, str(folder / 'compile_cache'))
    # Small programs too: there are many, and each takes tenths of a second.
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')

    from atss_jax.commands import memory  # loads JAX, which reads these variables

    memory.return_after_compiling()


def _default_cache(flags):
    """The folder in which compiled programs are kept; None: they are not."""
    workdir = None if flags.workdir is None else pathlib.Path(flags.workdir).absolute()
    # Where weights are read, a workdir that is not there is the name of a model, of
    # which no folder may be made.
    if workdir is None or (hasattr(flags, 'model') and not workdir.exists()):
        return cache_folder()
    return None if workdir.is_file() else workdir


def _may_write(folder):
    """Whether a folder, or where it would be made, can be written to."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK)


def _seconds(text):
    seconds = int(text)
    if seconds < 1:
        raise argparse.ArgumentTypeError(f'{text}: expected at least 1 second')
    return seconds


def positive(text: str) -> int:
    """A whole number of at least 1, for `type=` of a flag."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text}: expected 1 or more')
    return int(text)


def path(text: str) -> str:
    """A path with `~` expanded, which bash does not do in `--out=~/x`; for `type=`."""
    return os.path.expanduser(text)


def canvas(text: str) -> tuple[int, int]:
    """Height and width from `800x1280`, for `type=` of a flag."""
    sides = text.split('x')
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(
            f'{text}: expected HEIGHTxWIDTH such as 800x1280'
        )
    return int(sides[0]), int(sides[1])


def scale(text: str) -> tuple[int, int]:
    """Long and short side from `1333x800`, for `type=` of a flag."""
    sides = text.split('x')
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(
            f'{text}: expected LONGxSHORT such as 1333x800'
        )
    return max(map(int, sides)), min(map(int, sides))


def step_range(text: str) -> tuple[int, int]:
    """First and last step from `100:105`, for `type=` of a flag."""
    first, colon, last = text.partition(':')
    if not (colon and first.isdecimal() and last.isdecimal()):
        raise argparse.ArgumentTypeError(f'{text}: expected FIRST:LAST such as 100:105')
    if not 1 <= int(first) <= int(last):
        raise argparse.ArgumentTypeError(
            f'{text}: FIRST is at least 1 and not larger than LAST'
        )
    return int(first), int(last)


def score(text: str) -> float:
    """A score from 0 to 1, for `type=` of a flag."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f'{text}: expected a number from 0 to 1')
    return float(text)


def _overlap(text):
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(
            f'{text}: expected a number from 0 to less than 1'
        )
    return float(text)


def seconds(text: str) -> float:
    """A finite number of seconds, 0 or more, for `type=` of a flag."""
    if not 0 <= float(text) < math.inf:
        raise argparse.ArgumentTypeError(f'{text}: expected seconds, 0 or more')
    return float(text)


def run(
    flags: argparse.Namespace,
    program: str,
    action: Callable[[], None],
    on_error: str = '',
    on_stop: str = 'nothing is saved; run again',
) -> int:
    """Joins the other hosts and acts; turns errors into a message and an exit status.

    Args:
        flags: with those of `add_host_flags`.
        program: name of the command in messages.
        action: what the command does.
        on_error: the flag that leaves malformed records out, for messages; '': none.
        on_stop: what is true if `Stopped` was raised.
    """
    import jax

    from atss_jax.distributed import hosts

    _quieten_libraries()
    # Until training listens itself; with several processes JAX does, once it started.
    hosts.handle('SIGTERM', _leave_before_training)
    try:
        _join_hosts(flags)
        action()
        return 0
    except hosts.Stopped as stop:
        print(f'{program}: stopped {stop}; {on_stop}')
        return hosts.STOPPED
    except KeyboardInterrupt:
        problem, status = 'interrupted; what was not saved yet is lost', 130
    except (ValueError, OSError, FloatingPointError) as error:
        problem, status = _with_flag(str(error), on_error), 1
    except jax.errors.JaxRuntimeError as error:
        if not jax.distributed.is_initialized() or jax.process_count() == 1:
            raise
        problem, status = f'a collective failed; is a host gone? {error}', 1
    except Exception as error:
        problem, status = _missing_platforms(error), 1
        if problem is None:
            if not jax.distributed.is_initialized():
                raise
            # Python would otherwise wait, at its end, for hosts that wait for this one.
            traceback.print_exc()
            problem = f'{type(error).__name__}: {error}'
    if jax.distributed.is_initialized():
        hosts.leave(problem, status)
    print(f'{program}: {problem}', file=sys.stderr)
    return status


def _join_hosts(flags):
    from atss_jax.distributed import devices

    devices.start(
        flags.coordinator,
        flags.num_processes,
        flags.process_id,
        flags.start_timeout,
        flags.collective_timeout,
    )


def guard(program: str, action: Callable[[], int | None], on_error: str = '') -> int:
    """Acts on this host alone; turns errors into a message and an exit status.

    Args:
        program: name of the command in messages.
        action: what the command does; gives its exit status, None for 0.
        on_error: the flag that leaves malformed records out, for messages; '': none.
    """
    _quieten_libraries()
    try:
        return action() or 0
    except KeyboardInterrupt:
        problem, status = 'interrupted', 130
    except (ValueError, OSError) as error:
        problem, status = _with_flag(str(error), on_error), 1
    except (RuntimeError, AssertionError) as error:
        problem, status = _missing_platforms(error), 1
        if problem is None:
            raise
    print(f'{program}: {problem}', file=sys.stderr)
    return status


def _with_flag(message, on_error):
    """The message with a flag in the place of the field of a config."""
    from atss_jax.data.coco.table import SKIP

    if not on_error:
        return message
    return message.replace(SKIP, f' ({on_error} leaves such records out)')


def _missing_platforms(error):
    """A message if JAX has no devices because of JAX_PLATFORMS, else None."""
    if not isinstance(error, RuntimeError | AssertionError):
        return None
    from atss_jax.distributed import devices

    return devices.missing_platforms()


def _quieten_libraries():
    """Silences absl, through which Orbax logs, and shortens warnings."""
    import absl.logging

    # Not even errors: threads log those that reach the program as exceptions too, with
    # tracebacks that may come after the message of the command.
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    warnings.formatwarning = _as_one_line


def _as_one_line(message, category, file, number, line=None):
    """Formats a warning for a user, to whom a line of our source says nothing."""
    return f'warning: {message}\n'


def _leave_before_training(number, frame):
    from atss_jax.distributed import hosts

    problem = (
        'stopped outside of training: nothing new is saved; run again to resume, or to '
        'begin if nothing was saved before'
    )
    hosts.leave(problem, hosts.STOPPED)


def show(text: str) -> None:
    """Prints to the end, or until the reader (`head`, say) closes the pipe."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f'{count} {noun}' if count == 1 else f'{count} {noun}s'
