"""Trains a detector: `python train.py --config=configs/atss_r50_1x.py --workdir=W`."""

import argparse
import sys
import time

_BEGAN = time.perf_counter()

from atss_jax.commands import command_line  # noqa: E402, which is timed

USAGE = f"""
Any config field is set by --config.FIELD=VALUE:
  --config.optimizer.lr=0.005 --config.data.train.pipeline.img_scale="(1000, 600)"
Run again with the same workdir, a stopped run goes on where it was.
{command_line.EXIT_STATUS}
"""


def main() -> int:
    """Reads the flags and trains."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--config', required=True, help='a file in configs/')
    parser.add_argument('--workdir', required=True, help='folder of the run')
    parser.add_argument(
        '--profile',
        type=command_line.step_range,
        metavar='FIRST:LAST',
        help='steps, counted from 1, to trace with the profiler into WORKDIR/profile',
    )
    command_line.add_cache_flag(parser)
    command_line.add_host_flags(parser)
    flags, overrides = parser.parse_known_args()
    command_line.use_cache(flags)

    def action():
        from atss_jax.config import load_config, parse_overrides
        from atss_jax.distributed import devices
        from atss_jax.training.loop import train

        config = load_config(flags.config, parse_overrides(overrides))
        train(config, flags.workdir, flags.profile, began=_BEGAN)
        if devices.is_first():
            print(f'done; to evaluate: python eval.py --workdir={flags.workdir}')

    return command_line.run(flags, action)


if __name__ == '__main__':
    sys.exit(main())
