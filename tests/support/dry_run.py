"""Whether a command of the documentation could run: parsed for real, and not run."""

import argparse
import contextlib
import importlib
import io
import pathlib
import re
import runpy
import sys
from unittest import mock

from atss_jax.commands import command_line
from atss_jax.config import load_config, parse_overrides
from tests.conftest import ROOT
from tests.support.documents import Command

FOLDERS = ('atss_jax', 'benchmarks', 'configs', 'docs', 'launch', 'tests')
# Programs that are not ours, whose flags nothing here knows.
OTHERS = ('.', 'pip', 'gcloud', 'gsutil', 'mpirun', 'sbatch', 'kubectl')
BASE = str(ROOT / 'configs' / 'atss_r50_1x.py')
# Names in place of the reader's own: a letter, a word in capitals, a run's config.
_PLACEHOLDER = re.compile(r'(\.\.\.|[A-Z]+|([A-Z]+|work_dirs/\w+)/config\.json)')


def check_command(command: Command, files: dict[str, pathlib.Path]) -> None:
    """Parses a command as its program does, and reads its config; runs nothing.

    Args:
        command: of any program in the documentation.
        files: configs that the reader writes, by the path that the page gives them.

    Raises:
        ValueError: it could not run; says where it stands and why not.
    """
    words = [word for word in command.words if word != '...']
    for word in words:
        path = word.rpartition('=')[2]
        if path.split('/')[0] in FOLDERS and not (ROOT / path).exists():
            raise ValueError(f'{command}: no {path} in the repository')
    program = words[0]
    try:
        if program == 'python':
            _check_python(words[1:], files)
        elif program == 'make':
            _check_make(words[1:])
        elif program.startswith('launch/'):
            flags = [word for word in words if word.startswith('--config.')]
            load_config(BASE, parse_overrides(flags))
        elif program not in OTHERS:
            raise ValueError('not a program of ours; output is set in ```text')
    except ValueError as error:
        raise ValueError(f'{command}: {error}') from error


def _check_make(words):
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
    unknown = {word for word in words if '=' not in word} - targets
    if unknown:
        raise ValueError(f'no target {unknown} in the Makefile')


def _check_python(words, files):
    name, arguments = words[0], words[1:]
    if name == '-m':
        name, arguments = words[1], words[2:]
        if name != 'atss_jax':
            raise ValueError(f'-m {name} is not ours')
    elif not (ROOT / name).is_file():
        raise ValueError(f'no {name} in the repository')
    flags, left = parse(name, arguments)
    fields = [word for word in arguments if word.startswith('--config.')]
    given = getattr(flags, 'config', None) or getattr(flags, 'model_config', None)
    command = getattr(flags, 'command', None)
    if command in ('show-config', 'flops') and given is None:
        # Its CONFIG is among what argparse leaves over.
        given = next((word for word in left if not word.startswith('-')), None)
        left = [word for word in left if word != given]
    overrides = parse_overrides([word for word in left if word not in fields])
    overrides |= parse_overrides(fields)
    if command == 'import-mmdet':
        return  # its config is mmdetection's
    load_config(_config_file(given, files), overrides)


def _config_file(given, files):
    if given in files:
        return str(files[given])
    if given is None or _PLACEHOLDER.fullmatch(given):
        return BASE
    return str(ROOT / given)


class _Parsed(Exception):
    """The command line was read; what would be done now is left out."""


def parse(name: str, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """What a program's own parser makes of its flags: namespace, and what is left.

    Args:
        name: 'atss_jax', or a script of the repository.
        arguments: of its command line.

    Raises:
        ValueError: what the program says of flags that it does not accept.
    """
    parsed, stderr = [], io.StringIO()
    ours = name in ('atss_jax', 'train.py', 'eval.py', 'predict.py')
    try:
        with (
            _nothing_runs(parsed, stop_at_once=not ours),
            mock.patch.object(sys, 'argv', [name, *arguments]),
            contextlib.redirect_stderr(stderr),
        ):
            _start(name)
    except _Parsed:
        return parsed[0]
    except SystemExit:
        pass
    raise ValueError(stderr.getvalue().strip().rpartition('\n')[2])


def _start(name):
    if name == 'atss_jax':
        importlib.import_module('atss_jax.commands.main').main()
    elif '/' in name:
        script = ROOT / name
        # As Python does: a script finds what lies beside it.
        with mock.patch.object(sys, 'path', [str(script.parent), *sys.path]):
            runpy.run_path(str(script), run_name='__main__')
    else:
        importlib.import_module(name.removesuffix('.py')).main()


@contextlib.contextmanager
def _nothing_runs(parsed, stop_at_once):
    """Programs check their flags as ever, and then stop before they do anything."""
    depth = 0

    def stop(*args, **kwargs):
        raise _Parsed

    def watch(real):
        def parse(self, *args, **kwargs):
            nonlocal depth
            depth += 1
            try:
                result = real(self, *args, **kwargs)
            finally:
                depth -= 1
            if depth == 0:
                flags, left = result if isinstance(result, tuple) else (result, [])
                parsed.append((argparse.Namespace(**vars(flags)), left))
                flags.run = stop
                if stop_at_once:
                    stop()
            return result

        return parse

    with contextlib.ExitStack() as patches:
        for name in ('parse_args', 'parse_known_args', 'parse_intermixed_args'):
            real = getattr(argparse.ArgumentParser, name)
            patches.enter_context(
                mock.patch.object(argparse.ArgumentParser, name, watch(real))
            )
        for name in ('run', 'guard'):
            patches.enter_context(mock.patch.object(command_line, name, stop))
        yield
