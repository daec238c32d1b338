"""`atss eval`: scores a checkpoint of a run, or the results of any detector."""

import argparse

from atss_jax.commands import command_line, foreign_flags

_SPLITS = ('train', 'val', 'test')
_DATA_FLAGS = ('config', 'data', 'ann_file', 'img_prefix')


def parser(program: str = 'atss eval') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Scores the best checkpoint of a run (--workdir), a trained detector by its '
        'name (--model), or a file of detections of any detector (--results).',
        command_line.FIELDS_HELP,
    )
    command_line.add_weights_flags(
        flags, 'folder of the run, or a .pth or .safetensors', required=False
    )
    flags.add_argument(
        '--split',
        help='section of data: train, val or test (default: val; with --model: test); '
        'with --data: any split of it',
    )
    flags.add_argument('--step', type=int, help='a checkpoint (default: the best)')
    flags.add_argument(
        '--tta', action='store_true', help='test-time augmentation: test_cfg.tta'
    )
    command_line.add_tile_flags(flags)
    flags.add_argument(
        '--report',
        action='store_true',
        help='also write an HTML report of everything that is wrong',
    )
    flags.add_argument(
        '--min_score',
        type=command_line.score,
        help='lowest score of the detections in the images and the confusion matrix '
        'of the report (default: 0.3)',
    )
    flags.add_argument(
        '--out',
        type=command_line.path,
        help='folder for detections, numbers and report (default: WORKDIR/evaluation, '
        'or the folder of --results; with --model: evaluation)',
    )
    _add_results_flags(flags)
    command_line.add_cache_flag(flags)
    command_line.add_host_flags(flags)
    return flags


def _add_results_flags(flags):
    group = flags.add_argument_group(
        'results of any detector',
        'The ground truth is the data of --workdir or --config, --data, or --ann_file. '
        'No checkpoint is read.',
    )
    group.add_argument(
        '--results',
        type=command_line.path,
        help='detections in COCO results form, JSON',
    )
    group.add_argument(
        '--config', type=command_line.path, help='a config, for its data'
    )
    group.add_argument('--data', type=command_line.path, help=command_line.DATA_HELP)
    group.add_argument('--ann_file', type=command_line.path, help='annotations, JSON')
    group.add_argument(
        '--img_prefix', type=command_line.path, help='folder of their images'
    )


def main(arguments: list[str], program: str = 'atss eval') -> int:
    """Evaluates as the flags say, prints and writes the numbers; gives the status."""
    parse = parser(program)
    flags, overrides = parse.parse_known_args(arguments)
    foreign_flags.check(parse, 'eval', overrides)
    _check_flags(parse, flags)
    if flags.results is not None:
        return command_line.run(
            flags, program, lambda: _score_results(flags, overrides)
        )
    command_line.prepare_compiling(flags)
    return command_line.run(flags, program, lambda: _evaluate(flags, overrides))


def _check_flags(parse, flags):
    command_line.check_tile_flags(parse, flags)
    if flags.min_score is None:
        flags.min_score = 0.3
    elif not flags.report:
        parse.error('--min_score goes with --report')
    if flags.data is None or flags.results is None:
        if flags.split is None:
            flags.split = 'val' if flags.model is None else 'test'
        if flags.split not in _SPLITS:
            parse.error(f'--split {flags.split}: expected one of {", ".join(_SPLITS)}')
    if flags.results is None:
        if command_line.weights_of(flags) is None:
            parse.error('--workdir, --model or --results is required')
        for name in _DATA_FLAGS:
            if getattr(flags, name) is not None:
                parse.error(f'--{name} goes with --results')
        return
    if flags.data is not None:
        for name in ('workdir', 'config', 'ann_file', 'img_prefix'):
            if getattr(flags, name) is not None:
                parse.error(f'--{name} does not go with --data')
    for name in ('model', 'model_config', 'step', 'tta', 'tiles', 'compile_cache'):
        if getattr(flags, name):
            parse.error(f'--{name} goes with checkpoints, not with --results')
    if flags.report and flags.ann_file and flags.img_prefix is None:
        parse.error('--report shows images: set --img_prefix to their folder')


def _evaluate(flags, overrides):
    from atss_jax.config import parse_overrides
    from atss_jax.data.tiles import Tiling
    from atss_jax.evaluation.evaluate import score_checkpoint

    options = parse_overrides(overrides)
    tiling = None if flags.tiles is None else Tiling(flags.tiles, flags.overlap)
    evaluation = score_checkpoint(
        command_line.weights_of(flags),
        flags.split,
        flags.step,
        options,
        flags.tta,
        flags.out,
        flags.model_config,
        tiling,
    )
    _show(evaluation, flags)


def _score_results(flags, overrides):
    from atss_jax.distributed import devices
    from atss_jax.evaluation.results_file import score_results

    source = _open_ground_truth(flags, overrides)
    if devices.is_first():
        _show(score_results(flags.results, source, flags.out), flags)


def _open_ground_truth(flags, overrides):
    from atss_jax.config import parse_overrides
    from atss_jax.data.forms.dataset import open_all
    from atss_jax.evaluation.results_file import open_ground_truth

    fields = parse_overrides(overrides)
    if flags.data is None:
        files = flags.workdir, flags.config, flags.ann_file, flags.img_prefix
        return open_ground_truth(flags.split, *files, fields)
    if fields:
        raise ValueError(
            f'--data has no config to set {", ".join(fields)} in; use --config'
        )
    return open_all(flags.data, flags.split, 'val')


def _show(evaluation, flags):
    """Prints an evaluation, on the first process, and writes its files.

    The numbers come first: whatever happens to the files, they are not lost.
    """
    from atss_jax.distributed import devices
    from atss_jax.report.page import write_report

    if not devices.is_first():
        return
    print(evaluation.text(with_files=False), flush=True)
    evaluation.write()
    for name, path in evaluation.files.items():
        print(f'{name}: {path}')
    if flags.report:
        write_report(
            evaluation.report_path,
            evaluation.source,
            evaluation.results,
            evaluation.title,
            flags.min_score,
        )
        print(f'report: {evaluation.report_path}')
