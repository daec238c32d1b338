"""`atss export`: a detector as one file that needs none of its code."""

import argparse
import pathlib

from atss_jax.commands import command_line

_PLATFORMS = 'cpu,cuda,tpu'


def parser(program: str = 'atss export') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Writes a detector as one file that needs none of its code: ONNX (.onnx) for '
        'onnxruntime, OpenVINO and others, StableHLO (.stablehlo) for JAX, or a web '
        'page (.html) that detects in the browser.',
        f'{command_line.FIELDS_HELP} See docs/onnx.md, docs/web-page.md and '
        'docs/predict.md.',
    )
    command_line.add_weights_flags(flags, 'folder of a run, or a .pth or .safetensors')
    flags.add_argument(
        '--out',
        type=command_line.path,
        required=True,
        help='file to write; its name ends in .onnx, .stablehlo or .html',
    )
    flags.add_argument(
        '--step', type=int, help='a checkpoint of a workdir (default: the best)'
    )
    command_line.add_class_names_flag(flags)
    flags.add_argument(
        '--platforms',
        help='platforms that a .stablehlo file runs on; rocm is another (default: '
        f'{_PLATFORMS})',
    )
    _add_onnx_flags(flags)
    return flags


def _add_onnx_flags(flags):
    group = flags.add_argument_group('.onnx and .html files')
    group.add_argument(
        '--heads',
        action='store_true',
        help='the file gives head outputs in place of detections',
    )
    group.add_argument(
        '--images',
        type=command_line.path,
        help='folder of images on which the file is compared with JAX (default: '
        'generated images)',
    )
    form = group.add_mutually_exclusive_group()
    form.add_argument(
        '--half', action='store_true', help='weights in 16 bits: half the size'
    )
    form.add_argument(
        '--int8',
        action='store_true',
        help='weights and activations in 8 bits: a quarter of the size',
    )
    group.add_argument(
        '--calibrate',
        type=command_line.positive,
        metavar='N',
        help='training images that set the ranges of activations for --int8 (default: '
        '100)',
    )
    group.add_argument(
        '--force',
        action='store_true',
        help='write the file of --half or --int8 even if its AP on data.test is lower '
        'by more than 0.01, or cannot be measured',
    )


def main(arguments: list[str], program: str = 'atss export') -> int:
    """Exports as the flags say; gives the exit status."""
    parse = parser(program)
    flags, overrides = parse.parse_known_args(arguments)
    write = _WRITERS.get(pathlib.Path(flags.out).suffix)
    if write is None:
        parse.error(
            f'--out {flags.out}: expected a name that ends in {", ".join(_WRITERS)}'
        )
    _check_flags(parse, flags, is_onnx=write is not _write_stablehlo)
    return command_line.guard(program, lambda: write(flags, _load(flags, overrides)))


def _check_flags(parse, flags, is_onnx):
    if is_onnx and flags.platforms is not None:
        parse.error('--platforms goes with .stablehlo files; the others have none')
    if flags.heads and flags.out.endswith('.html'):
        parse.error('--heads goes with .onnx files: a page shows detections')
    for name in ('heads', 'images', 'half', 'int8', 'calibrate', 'force'):
        if not is_onnx and getattr(flags, name):
            parse.error(f'--{name} goes with .onnx and .html files')
    if flags.calibrate and not flags.int8:
        parse.error('--calibrate goes with --int8')
    is_smaller = flags.half or flags.int8
    if flags.force and not is_smaller:
        parse.error('--force goes with --half and --int8')
    if flags.heads and is_smaller:
        parse.error('--heads does not go with --half and --int8: it has no AP')


def _load(flags, overrides):
    from atss_jax.config import parse_overrides
    from atss_jax.training.trained_model import load_trained

    return load_trained(
        command_line.weights_of(flags),
        flags.model_config,
        flags.step,
        flags.class_names,
        overrides=parse_overrides(overrides),
    )


def _write_stablehlo(flags, trained):
    from atss_jax.inference import export

    export.write(flags.out, trained, (flags.platforms or _PLATFORMS).split(','))
    count = len(trained.classes)
    print(f'wrote {flags.out} and {flags.out}.json: {count} classes')


def _write_onnx(flags, trained):
    from atss_jax.inference.onnx_file.write import write

    write(flags.out, trained, _onnx_options(flags), _tell)
    print(f'wrote {flags.out}: {len(trained.classes)} classes')


def _write_page(flags, trained):
    from atss_jax.files.atomic import check_file_writable
    from atss_jax.inference.onnx_file.write import checked_content
    from atss_jax.report import web_runtime
    from atss_jax.report.detector_page import WebDetector, write_detector_page

    path = pathlib.Path(flags.out)
    # What may fail comes before what takes long.
    check_file_writable(path)
    web_runtime.load()
    content, _ = checked_content(trained, _onnx_options(flags), _tell)
    pipeline = trained.experiment.data['test'].pipeline
    detector = WebDetector(
        name=path.stem,
        model=content,
        classes=trained.classes,
        img_scale=pipeline.img_scale,
        keep_ratio=pipeline.keep_ratio,
        backend=pipeline.backend,
        size_divisor=trained.experiment.model.size_divisor,
        description=_description(trained.classes, pipeline),
    )
    size = write_detector_page(path, detector) / 2**20
    count = len(trained.classes)
    print(f'wrote {flags.out}: {count} classes, {size:.0f} MiB; open it in a browser')


def _tell(line):
    print(line, flush=True)


def _description(classes, pipeline):
    width, height = pipeline.img_scale
    return f'{len(classes):,} classes; images are shown to it at {width} by {height}.'


def _onnx_options(flags):
    from atss_jax.inference.onnx_file.write import Options

    return Options(
        heads=flags.heads,
        images=flags.images,
        half=flags.half,
        int8=flags.int8,
        calibrate=flags.calibrate or 100,
        force=flags.force,
    )


_WRITERS = {
    '.onnx': _write_onnx,
    '.stablehlo': _write_stablehlo,
    '.html': _write_page,
}
