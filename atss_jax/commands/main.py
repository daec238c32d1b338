"""Every command beside train.py, eval.py: `python -m atss_jax COMMAND --help`."""

import argparse
import sys

from atss_jax.commands import command_line, draw, show_config


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; the exit status says whether it worked."""
    parser = argparse.ArgumentParser(
        prog='python -m atss_jax', description=__doc__, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest='command', required=True)
    draw.add(commands)
    _add_convert(commands)
    _add_import_mmdet(commands)
    show_config.add(commands)
    _add_export(commands)
    _add_prepare_tfds(commands)
    _add_download_coco(commands)
    _add_write_shapes(commands)
    flags, left = parser.parse_known_args(arguments)
    # Config fields are options that argparse does not know.
    if hasattr(flags, 'overrides'):
        flags.overrides = left
    elif left:
        parser.error(f'unrecognized arguments: {" ".join(left)}')
    try:
        flags.run(flags)
    except (ValueError, OSError) as error:
        print(f'atss_jax {flags.command}: {error}', file=sys.stderr)
        return 1
    return 0


def _add_convert(commands):
    parser = commands.add_parser(
        'convert',
        help='weights between .pth, .safetensors and workdirs',
        epilog='What ends in .pth, .pt or .safetensors is a file of weights by '
        "mmdetection's names; anything else is a workdir.",
    )
    parser.add_argument('source', metavar='IN', help='file of weights, or workdir')
    parser.add_argument('target', metavar='OUT', help='file to write, or new workdir')
    parser.add_argument('--config', help='config of the model, if OUT is a workdir')
    parser.add_argument('--step', type=int, help='of a workdir (default: the best)')
    _add_choices(parser)
    parser.set_defaults(run=_convert)


def _add_choices(parser):
    parser.add_argument(
        '--momentum',
        action='store_true',
        help='all that training needs to go on: momentum, step, moving average',
    )
    parser.add_argument(
        '--unaveraged',
        action='store_true',
        help='take the weights under training, not their moving average (EMA)',
    )


def _convert(flags):
    from atss_jax.training.convert import Options, convert

    _quieten_orbax()
    options = Options(flags.step, flags.momentum, flags.unaveraged)
    print(convert(flags.source, flags.target, flags.config, options))


def _quieten_orbax():
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)


def _add_import_mmdet(commands):
    parser = commands.add_parser(
        'import-mmdet',
        help='a workdir of a mmdetection config and checkpoint',
        epilog='The config is parsed, not run. See docs/mmdet.md.',
    )
    parser.add_argument('config', help="mmdetection's config file, 2.x or 3.x (.py)")
    parser.add_argument('checkpoint', help='its weights (.pth)')
    parser.add_argument('--workdir', required=True, help='folder to make')
    parser.add_argument(
        '--mmdet_configs', help="mmdetection's folder configs, for bases of mmdet::"
    )
    _add_choices(parser)
    parser.set_defaults(run=_import_mmdet)


def _import_mmdet(flags):
    from atss_jax.commands.import_mmdet import describe, import_mmdet
    from atss_jax.training.convert import Options

    _quieten_orbax()
    config, translation = import_mmdet(
        flags.config,
        flags.checkpoint,
        flags.workdir,
        flags.mmdet_configs,
        Options(None, flags.momentum, flags.unaveraged),
    )
    print(describe(config, translation))
    print(f'wrote {flags.workdir}: python eval.py --workdir={flags.workdir}')


def _add_export(commands):
    export = commands.add_parser(
        'export',
        help='a detector as one StableHLO file that needs none of its code, or its '
        'head outputs as ONNX',
        epilog='Any config field is set by --config.FIELD=VALUE. See docs/predict.md.',
        allow_abbrev=False,
    )
    export.add_argument(
        '--workdir', required=True, help='folder of a run, or a .pth or .safetensors'
    )
    export.add_argument(
        '--out', required=True, help='.stablehlo or .onnx file to write'
    )
    export.add_argument('--model_config', help='config of a .pth or .safetensors')
    export.add_argument('--step', type=int, help='of a workdir (default: the best)')
    export.add_argument(
        '--platforms',
        help='of a .stablehlo; rocm is another (default: cpu,cuda,tpu)',
    )
    export.add_argument(
        '--canvas',
        type=command_line.canvas,
        metavar='HEIGHTxWIDTH',
        help='of an .onnx (default: the first of data.test)',
    )
    export.add_argument(
        '--batch_size', type=int, help='of an .onnx: images (default: 1)'
    )
    export.set_defaults(run=_export, overrides=[])


def _export(flags):
    from atss_jax import export_onnx
    from atss_jax.config import parse_overrides
    from atss_jax.inference import export, load

    _quieten_orbax()
    is_onnx = flags.out.endswith(export_onnx.SUFFIX)
    for name in ('platforms',) if is_onnx else ('canvas', 'batch_size'):
        if getattr(flags, name) is not None:
            raise ValueError(f'--{name} does not go with --out {flags.out}')
    overrides = parse_overrides(flags.overrides)
    found = load.read(
        flags.workdir, flags.model_config, flags.step, overrides=overrides
    )
    if is_onnx:
        said = export_onnx.write(flags.out, found, flags.canvas, flags.batch_size)
    else:
        platforms = (flags.platforms or ','.join(export.PLATFORMS)).split(',')
        export.write(flags.out, found, platforms)
        said = f'{len(found.classes)} classes'
    print(f'wrote {flags.out} and {flags.out}.json: {said}')


def _add_prepare_tfds(commands):
    command = commands.add_parser(
        'prepare-tfds', help='a COCO file and its images as a TFDS data set'
    )
    command.add_argument('--ann_file', required=True, help='annotations, JSON')
    command.add_argument('--img_prefix', required=True, help='folder of the images')
    command.add_argument('--data_dir', required=True, help='folder of data sets')
    command.add_argument(
        '--name',
        default='coco/2017:1.1.0',
        help='of the data set (default: coco/2017:1.1.0)',
    )
    command.add_argument(
        '--split', default='train', help='train, validation, ... (default: train)'
    )
    command.add_argument(
        '--on_error',
        default='raise',
        choices=('raise', 'skip'),
        help='skip: malformed records are left out and counted (default: raise)',
    )
    command.set_defaults(run=_prepare_tfds)


def _prepare_tfds(flags):
    from atss_jax.data.tfds.prepare import prepare

    folder = prepare(
        flags.ann_file,
        flags.img_prefix,
        flags.data_dir,
        flags.name,
        flags.split,
        flags.on_error,
    )
    print(f'prepared split {flags.split} in {folder}')


def _add_download_coco(commands):
    command = commands.add_parser(
        'download-coco', help='fetch and unpack COCO 2017: 21 GB, 41 GB while at it'
    )
    command.add_argument(
        '--root', default='data/coco', help='folder to fill (default: data/coco)'
    )
    command.add_argument(
        '--base_url', help='of a mirror (default: http://images.cocodataset.org)'
    )
    command.add_argument(
        '--keep_archives', action='store_true', help='do not delete the zip files'
    )
    command.set_defaults(run=_download_coco)


def _download_coco(flags):
    from atss_jax.data.coco.archives import BASE_URL, download_coco

    download_coco(flags.root, flags.base_url or BASE_URL, flags.keep_archives)
    print(f'COCO 2017 is complete in {flags.root}')


def _add_write_shapes(commands):
    command = commands.add_parser(
        'write-shapes',
        help='generated images as files: a small data set in COCO form',
        epilog='Any config field is set by --config.FIELD=VALUE.',
        allow_abbrev=False,
    )
    command.add_argument('--config', required=True, help='configs/atss_shapes.py')
    command.add_argument('--out', required=True, help='folder to write to')
    command.set_defaults(run=_write_shapes, overrides=[])


def _write_shapes(flags):
    from atss_jax.commands.write_shapes import write_shapes
    from atss_jax.config import load_config, parse_overrides

    config = load_config(flags.config, parse_overrides(flags.overrides))
    print('\n'.join(write_shapes(config, flags.out)))


if __name__ == '__main__':
    sys.exit(main())
