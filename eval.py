"""Scores the best checkpoint of a run, or a file of results of any detector.

`python eval.py --workdir=W`, `python eval.py --results=detections.json --ann_file=A`.
"""

import argparse
import sys

from atss_jax.commands import command_line


def main() -> int:
    """Reads the flags, evaluates, prints and writes the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Any config field is set by --config.FIELD=VALUE.',
        allow_abbrev=False,
    )
    parser.add_argument('--workdir', help='folder of the run')
    parser.add_argument(
        '--split',
        default='val',
        choices=('train', 'val', 'test'),
        help='section of data (default: val)',
    )
    parser.add_argument('--step', type=int, help='a checkpoint (default: the best)')
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation: test_cfg.tta'
    )
    parser.add_argument(
        '--report',
        action='store_true',
        help='write an HTML report of all that is wrong',
    )
    parser.add_argument(
        '--min_score',
        type=command_line.score,
        help='of detections in its images and confusion matrix (default: 0.3)',
    )
    _add_results_flags(parser)
    command_line.add_cache_flag(parser)
    command_line.add_host_flags(parser)
    flags, overrides = parser.parse_known_args()
    _check_flags(parser, flags)
    if flags.results is not None:
        return command_line.run(flags, lambda: _score_results(flags, overrides))
    command_line.use_cache(flags)

    def action():
        from atss_jax.config import parse_overrides
        from atss_jax.evaluation.evaluate import evaluate_workdir

        options = parse_overrides(overrides)
        min_score = flags.min_score if flags.report else None
        evaluate_workdir(
            flags.workdir, flags.split, flags.step, options, flags.tta, min_score
        )

    return command_line.run(flags, action)


_DATA_FLAGS = ('config', 'ann_file', 'img_prefix')


def _add_results_flags(parser):
    group = parser.add_argument_group(
        'results of any detector',
        'The truth is the data of --workdir or --config, or --ann_file. No checkpoint '
        'is read. What is written lies beside the file.',
    )
    group.add_argument('--results', help='detections as COCO results, JSON')
    group.add_argument('--config', help='a config file, for its data')
    group.add_argument('--ann_file', help='annotations, JSON')
    group.add_argument('--img_prefix', help='folder of their images')


def _check_flags(parser, flags):
    if flags.min_score is None:
        flags.min_score = 0.3
    elif not flags.report:
        parser.error('--min_score goes with --report')
    if flags.results is None:
        if flags.workdir is None:
            parser.error('these arguments are required: --workdir, or --results')
        for name in _DATA_FLAGS:
            if getattr(flags, name) is not None:
                parser.error(f'--{name} goes with --results')
        return
    if flags.step is not None:
        parser.error('--step goes with checkpoints, not with --results')
    if flags.report and flags.ann_file and flags.img_prefix is None:
        parser.error('--report shows images: set --img_prefix to their folder')


def _score_results(flags, overrides):
    from atss_jax.config import parse_overrides
    from atss_jax.distributed import devices
    from atss_jax.evaluation.results_file import data_of, score_results

    source = data_of(
        flags.split,
        flags.workdir,
        flags.config,
        flags.ann_file,
        flags.img_prefix,
        parse_overrides(overrides),
    )
    if devices.is_first():
        score_results(flags.results, source, flags.report, flags.min_score)


if __name__ == '__main__':
    sys.exit(main())
