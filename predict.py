"""Finds objects in images: `python predict.py --workdir=W IMAGES... --out=DIR`."""

import argparse
import os
import sys

from atss_jax.commands import command_line

USAGE = """
IMAGES are files, folders (looked into deeply), patterns ('shots/*.jpg') and videos.
In DIR: images/, detections.json (COCO results), pictures.json (its ids: images and
classes), detections.csv. Any config field is set by --config.FIELD=VALUE.
exit status: 0 done, 1 error, 3 done but some files could not be read (they are named)
"""


def main() -> int:
    """Reads the flags, detects, writes; the exit status says whether all was read."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_flags(parser)
    # Apart, since argparse takes an unknown flag with a space in it for an image.
    overrides = [word for word in sys.argv[1:] if word.startswith('--config.')]
    others = [word for word in sys.argv[1:] if not word.startswith('--config.')]
    flags = parser.parse_intermixed_args(others)
    if flags.device == 'cpu':
        # Before JAX is loaded: it would take the memory of a GPU that it only sees.
        os.environ['JAX_PLATFORMS'] = 'cpu'
    command_line.use_cache(flags)
    return command_line.guard(lambda: _predict(flags, overrides))


def _add_flags(parser):
    parser.add_argument('inputs', nargs='+', metavar='IMAGES', help='see below')
    parser.add_argument(
        '--workdir',
        required=True,
        help='folder of a run, or a .pth, .safetensors or exported .stablehlo',
    )
    parser.add_argument('--out', required=True, help='folder to write to')
    parser.add_argument('--model_config', help='config of a .pth or .safetensors')
    parser.add_argument('--step', type=int, help='a checkpoint (default: the best)')
    parser.add_argument(
        '--score_thr',
        type=command_line.score,
        default=0.3,
        help='leave out lower scores (default: 0.3)',
    )
    parser.add_argument(
        '--classes', metavar='NAME,NAME', help='only these (default: all)'
    )
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation: test_cfg.tta'
    )
    parser.add_argument(
        '--batch_size',
        type=int,
        help="images at a time (default: the config's samples_per_gpu a device)",
    )
    parser.add_argument(
        '--ann_file', help='COCO file whose ids of images and classes to write'
    )
    parser.add_argument(
        '--device',
        choices=('cpu', 'gpu', 'tpu'),
        help='what computes (default: the best that there is)',
    )
    parser.add_argument('--no_pictures', action='store_true', help='write numbers only')
    command_line.add_cache_flag(parser)


def _predict(flags, overrides):
    from atss_jax.commands.predict_files import Options, predict_and_report
    from atss_jax.config import parse_overrides

    options = Options(
        score_thr=flags.score_thr,
        classes=flags.classes and tuple(flags.classes.split(',')),
        draw=not flags.no_pictures,
        ann_file=flags.ann_file,
    )
    loading = {
        'config': flags.model_config,
        'step': flags.step,
        'tta': flags.tta,
        'batch_size': flags.batch_size,
        'device': flags.device,
        'overrides': parse_overrides(overrides),
    }
    return predict_and_report(flags.workdir, flags.inputs, flags.out, options, loading)


if __name__ == '__main__':
    sys.exit(main())
