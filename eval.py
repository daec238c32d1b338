"""Scores the best checkpoint of a run: `python eval.py --workdir=W`."""

import argparse
import os
import pathlib
import sys

from atss_jax import command_line


def main() -> int:
    """Reads the flags, evaluates, prints and writes the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Any config field is set by --config.FIELD=VALUE.',
        allow_abbrev=False,
    )
    parser.add_argument('--workdir', required=True, help='folder of the run')
    parser.add_argument('--split', default='val', choices=('train', 'val', 'test'))
    parser.add_argument('--step', type=int, help='a checkpoint; default: the best')
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation: test_cfg.tta'
    )
    command_line.add_host_flags(parser)
    flags, overrides = parser.parse_known_args()
    cache = pathlib.Path(flags.workdir).absolute() / 'compile_cache'
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache))

    def action():
        from atss_jax.config import parse_overrides
        from atss_jax.evaluation.workdir import evaluate_workdir

        options = parse_overrides(overrides)
        evaluate_workdir(flags.workdir, flags.split, flags.step, options, flags.tta)

    return command_line.run(flags, action)


if __name__ == '__main__':
    sys.exit(main())
