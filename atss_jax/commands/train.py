"""`atss train`: trains a detector from a config."""

import argparse
import pathlib
import shlex
import tempfile
import time

from atss_jax.commands import command_line, foreign_flags

_BEGAN = time.perf_counter()
_USAGE = f"""
{command_line.FIELDS_HELP} For example:
  --config.optimizer.lr=0.005 --config.data.train.pipeline.img_scale="(1000, 600)"
Run again with the same workdir, a stopped run resumes where it was.
{command_line.EXIT_STATUS}
"""


def parser(program: str = 'atss train') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(program, 'Trains a detector.', _USAGE)
    flags.add_argument(
        '--config',
        type=command_line.path,
        help=f'{command_line.CONFIG_HELP}; with --data alone one that fits the '
        'data, as `atss init` writes it',
    )
    flags.add_argument(
        '--data',
        type=command_line.path,
        help=f'your own data in place of those of the config: {command_line.DATA_HELP}',
    )
    flags.add_argument(
        '--workdir', type=command_line.path, required=True, help='folder of the run'
    )
    flags.add_argument(
        '--profile',
        type=command_line.step_range,
        metavar='FIRST:LAST',
        help='steps, counted from 1, to trace with the profiler into WORKDIR/profile',
    )
    command_line.add_cache_flag(flags)
    command_line.add_host_flags(flags)
    return flags


def main(arguments: list[str], program: str = 'atss train') -> int:
    """Trains as the flags say; gives the exit status."""
    parse = parser(program)
    flags, overrides = parse.parse_known_args(arguments)
    foreign_flags.check(parse, 'train', overrides)
    if flags.config is None and flags.data is None:
        parse.error('--config or --data is required')
    command_line.prepare_compiling(flags)

    def action():
        from atss_jax.config import parse_overrides
        from atss_jax.data.forms.finder import Finder
        from atss_jax.distributed import devices
        from atss_jax.drawing.detections import make_drawing_evaluator
        from atss_jax.training.loop import train

        finder = Finder()
        config = _config(flags, parse_overrides(overrides), finder)
        train(
            config,
            flags.workdir,
            make_drawing_evaluator,
            flags.profile,
            _BEGAN,
            finder=finder,
        )
        line = last_line(flags.workdir)
        if devices.is_first():
            print(line)

    return command_line.run(
        flags,
        program,
        action,
        on_error='--config.data.on_error=skip',
        on_stop='all is saved, run again to resume',
    )


def last_line(workdir):
    """Says which checkpoint is the best, and how to use it; a collective."""
    from atss_jax.training.checkpoint import best_checkpoint

    best = best_checkpoint(workdir)
    evaluate, predict = (command_line.other_command(x) for x in ('eval', 'predict'))
    place = shlex.quote(f'--workdir={workdir}')
    return (
        f'done; best {best.metric} {best.score:.3f} at step {best.step}; to evaluate: '
        f'{evaluate} {place}; to predict: {predict} {place} IMAGE'
    )


def _config(flags, overrides, finder):
    """The config that the flags name, or one that fits the data."""
    from atss_jax.config import load_config
    from atss_jax.distributed import devices, hosts
    from atss_jax.training.workdir import CONFIG

    if flags.config is not None:
        return load_config(flags.config, overrides, flags.data, finder)
    saved = pathlib.Path(flags.workdir, CONFIG)
    # A run that is resumed keeps what was chosen at its start. Process 0 says for all
    # whether it is one: file systems of the others may be late.
    if devices.from_first(saved.is_file()):
        return load_config(saved, overrides, flags.data, finder)
    # It chooses for all, too, since the others may have less memory, or more.
    hosts.progress('choosing a config')
    on_error = overrides.get('data.on_error', 'raise')
    text = devices.done_by_first(lambda: _chosen(flags.data, on_error, finder))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'config.py')
        path.write_text(text, encoding='utf-8')
        return load_config(path, overrides)


def _chosen(data, on_error, finder):
    """The text of a config that fits the data and the devices of this process."""
    from atss_jax.tuning.config_file import config_text
    from atss_jax.tuning.from_data import Wishes, prepare, this_device

    prepared = prepare(data, Wishes(on_error=on_error), this_device(), finder)
    return config_text(prepared, ('atss', 'init', data), 'config.py')
