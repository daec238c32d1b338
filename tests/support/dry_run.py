"""Whether a command of the documentation could run: parsed as its program does."""

import argparse
import contextlib
import io
import pathlib
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from unittest import mock

from atss_jax.commands import command_line
from atss_jax.commands.main import main
from atss_jax.config import load_config, parse_overrides
from tests.conftest import ROOT
from tests.support.documents import Command, arguments_of_atss

FOLDERS = (
    'atss_jax',
    'benchmarks',
    'configs',
    'docs',
    'launch',
    'notebooks',
    'tests',
)
# Programs of others, whose flags are not checked.
OTHERS = ('.', 'pip', 'gcloud', 'gsutil', 'mpirun', 'sbatch', 'kubectl')
BASE = str(ROOT / 'configs' / 'atss_r50_1x.py')
# Names that stand for the reader's own: a letter, a word in capitals, what `atss init`
# writes, a run's config.
_PLACEHOLDER = re.compile(
    r'(\.\.\.|[A-Z]+|config\.py|([A-Z]+|work_dirs/\w+)/config\.json)'
)


def check_command(command: Command, files: dict[str, pathlib.Path]) -> None:
    """Parse a command as its program does, and load its config; run nothing.

    Args:
        command: a command of any program in the documentation.
        files: configs that the reader writes, by their path on the page.

    Raises:
        ValueError: the command could not run; says where it is and why.
    """
    words = [word for word in command.words if word != '...']
    for word in words:
        path = word.rpartition('=')[2]
        if path.split('/')[0] in FOLDERS and not (ROOT / path).exists():
            raise ValueError(f'{command}: no {path} in the repository')
    program = words[0]
    arguments = arguments_of_atss(words)
    try:
        if arguments is not None:
            _check_atss(arguments, files)
        elif program == 'python':
            _check_script(words[1:])
        elif program == 'make':
            _check_make(words[1:])
        elif program.startswith('launch/'):
            flags = [word for word in words if word.startswith('--config.')]
            load_config(BASE, parse_overrides(flags))
        elif program not in OTHERS:
            raise ValueError('not a program of ours; mark output as ```text')
    except ValueError as error:
        raise ValueError(f'{command}: {error}') from error


def _check_make(words):
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
    unknown = {word for word in words if '=' not in word} - targets
    if unknown:
        raise ValueError(f'no target {unknown} in the Makefile')


def _check_script(words):
    name, *arguments = words
    if name == '-m':
        raise ValueError(f'-m {words[1]} is not ours')
    script = ROOT / name
    if not script.is_file():
        raise ValueError(f'no {name} in the repository')
    # As Python does: a script finds the modules next to it.
    with mock.patch.object(sys, 'path', [str(script.parent), *sys.path]):
        flags, others = _parsed(
            lambda: runpy.run_path(str(script), run_name='__main__'),
            [name, *arguments],
            stop_at_once=True,
        )
    load_config(
        _config_file(getattr(flags, 'config', None), {}), parse_overrides(others)
    )


def _check_atss(arguments, files):
    if arguments in ([], ['--help'], ['--version']):
        return
    name = arguments[0]
    flags, others = _parsed(lambda: main(arguments), ['atss', *arguments])
    if name == 'import-mmdet':
        return  # its config is mmdetection's
    config = getattr(flags, 'config', None) or getattr(flags, 'model_config', None)
    if name in ('show-config', 'flops', 'compile') and config is None:
        # These take CONFIG from what argparse leaves over.
        config = next((word for word in others if not word.startswith('-')), None)
        others = [word for word in others if word != config]
    # `predict` takes the overrides out before it parses.
    overrides = [word for word in arguments if word.startswith('--config.')]
    unknown = [word for word in others if word not in overrides]
    load_config(_config_file(config, files), parse_overrides(overrides + unknown))


def _config_file(config, files):
    if config in files:
        return str(files[config])
    if config is None or _PLACEHOLDER.fullmatch(config):
        return BASE
    shipped = ROOT / 'configs' / f'{config}.py'
    return str(shipped if shipped.is_file() else ROOT / config)


class _Stop(Exception):
    """The command line was accepted; the command itself is not run."""


def _parsed(
    start: Callable[[], object], words: list[str], stop_at_once: bool = False
) -> tuple[argparse.Namespace, list[str]]:
    """Start a program, which stops after its checks of the command line.

    Args:
        start: starts the program.
        words: its command line, for programs that read `sys.argv`.
        stop_at_once: stop after parsing; otherwise where `atss` begins to act.

    Returns:
        The flags, and the words that the parser left over.

    Raises:
        ValueError: the last line that the program prints about a wrong command line.
    """
    parsed, stderr = [], io.StringIO()
    try:
        with (
            _recorded(parsed, stop_at_once),
            mock.patch.object(sys, 'argv', words),
            contextlib.redirect_stderr(stderr),
        ):
            start()
    except _Stop:
        return parsed[0]
    except SystemExit:
        pass
    raise ValueError(stderr.getvalue().strip().rpartition('\n')[2])


@contextlib.contextmanager
def _recorded(parsed: list, stop_at_once: bool) -> Iterator[None]:
    """Record what argparse returns to the program, and let the program do nothing."""
    depth = 0

    def stop(*args, **kwargs):
        raise _Stop

    def recording(original):
        def parse(self, *args, **kwargs):
            nonlocal depth
            depth += 1  # the methods of argparse call each other
            try:
                result = original(self, *args, **kwargs)
            finally:
                depth -= 1
            if depth == 0:
                flags, others = result if isinstance(result, tuple) else (result, [])
                parsed.append((argparse.Namespace(**vars(flags)), others))
                if stop_at_once:
                    stop()
            return result

        return parse

    with contextlib.ExitStack() as patches:
        for name in ('parse_args', 'parse_known_args', 'parse_intermixed_args'):
            original = getattr(argparse.ArgumentParser, name)
            patches.enter_context(
                mock.patch.object(argparse.ArgumentParser, name, recording(original))
            )
        for name in ('run', 'guard'):
            patches.enter_context(mock.patch.object(command_line, name, stop))
        patches.enter_context(mock.patch.object(command_line, 'prepare_compiling'))
        yield
