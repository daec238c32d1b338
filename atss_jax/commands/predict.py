"""`atss predict`: detects objects in images and videos."""

import argparse
import os

from atss_jax.commands import command_line

_USAGE = f"""
IMAGES are files, folders (searched with all their subfolders), patterns
('shots/*.jpg') and videos.
OUT gets pictures/, detections.json (COCO results), pictures.json (the images and
classes that its ids refer to) and detections.csv; with --track also tracks/, in the
form of the MOT challenge. {command_line.FIELDS_HELP}
exit status: 0 success, 1 error, 3 some files could not be read (they are named)
"""


def parser(program: str = 'atss predict') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program, 'Detects objects in images and videos.', _USAGE
    )
    flags.add_argument(
        'inputs', type=command_line.path, nargs='+', metavar='IMAGES', help='see below'
    )
    command_line.add_weights_flags(
        flags, 'folder of a run, or a .pth, .safetensors or exported .stablehlo'
    )
    flags.add_argument(
        '--out',
        type=command_line.path,
        default='detections',
        help='folder to write to (default: detections)',
    )
    flags.add_argument('--step', type=int, help='a checkpoint (default: the best)')
    flags.add_argument(
        '--score_thr',
        type=command_line.score,
        default=0.3,
        help='leave out detections with lower scores (default: 0.3)',
    )
    flags.add_argument(
        '--classes',
        type=command_line.names,
        metavar='NAME,NAME',
        help='detect only these classes (default: all)',
    )
    command_line.add_class_names_flag(flags)
    flags.add_argument(
        '--tta', action='store_true', help='test-time augmentation: test_cfg.tta'
    )
    command_line.add_tile_flags(flags)
    _add_track_flags(flags)
    flags.add_argument(
        '--batch_size',
        type=int,
        help="images per batch (default: the config's samples_per_gpu per device)",
    )
    flags.add_argument(
        '--ann_file',
        type=command_line.path,
        help='COCO file whose image ids and category ids are written',
    )
    _add_device_flag(flags)
    flags.add_argument('--no_pictures', action='store_true', help='write numbers only')
    command_line.add_cache_flag(flags)
    return flags


def _add_track_flags(flags):
    flags.add_argument(
        '--track',
        action='store_true',
        help='give the objects of videos identities, by ByteTrack: '
        "pip install 'atss-jax[video]'",
    )
    flags.add_argument(
        '--track_buffer',
        type=command_line.seconds,
        metavar='SECONDS',
        help='for which an object that was lost is remembered (default: 1)',
    )


def _add_device_flag(flags):
    flags.add_argument(
        '--device',
        choices=('cpu', 'gpu', 'tpu'),
        help='what computes (default: the fastest kind that there is)',
    )


def main(arguments: list[str], program: str = 'atss predict') -> int:
    """Detects as the flags say; the exit status says whether all files were read."""
    # Taken out first: argparse takes an unknown flag with a space in it for an image.
    overrides = [word for word in arguments if word.startswith('--config.')]
    others = [word for word in arguments if not word.startswith('--config.')]
    words = parser(program)
    flags = words.parse_intermixed_args(others)
    if flags.track_buffer is not None and not flags.track:
        words.error('--track_buffer is of --track, which is missing')
    if flags.track and flags.score_thr >= 0.9:
        words.error(
            f'--track with --score_thr={flags.score_thr:g}: no track can begin, which '
            'takes a score that is 0.1 higher; expected less than 0.9'
        )
    command_line.check_tile_flags(words, flags)
    if flags.device == 'cpu':
        # Before JAX is loaded, which would reserve the memory of any GPU that it sees.
        os.environ['JAX_PLATFORMS'] = 'cpu'
    command_line.prepare_compiling(flags)
    return command_line.guard(program, lambda: _predict(flags, overrides))


def _predict(flags, overrides):
    from atss_jax.commands.predict_files import Options, predict_and_report
    from atss_jax.config import parse_overrides

    options = Options(
        score_thr=flags.score_thr,
        classes=flags.classes,
        draw=not flags.no_pictures,
        ann_file=flags.ann_file,
        tiles=flags.tiles,
        overlap=flags.overlap,
        track=flags.track,
        track_buffer=1.0 if flags.track_buffer is None else flags.track_buffer,
    )
    loading = {
        'config': flags.model_config,
        'classes': flags.class_names,
        'step': flags.step,
        'tta': flags.tta,
        'batch_size': flags.batch_size,
        'device': flags.device,
        'overrides': parse_overrides(overrides),
    }
    source = command_line.weights_of(flags)
    return predict_and_report(source, flags.inputs, flags.out, options, loading)
