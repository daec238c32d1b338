"""`atss export`: a detector as one file that needs none of its code."""

import argparse

from atss_jax.commands import command_line

_PLATFORMS = 'cpu,cuda,tpu'


def parser(program: str = 'atss export') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Writes a detector as one file that needs none of its code: ONNX (.onnx) for '
        'onnxruntime, OpenVINO and others, or StableHLO (.stablehlo) for JAX.',
        f'{command_line.FIELDS_HELP} See docs/onnx.md and docs/predict.md.',
    )
    command_line.add_weights_flags(flags, 'folder of a run, or a .pth or .safetensors')
    flags.add_argument(
        '--out',
        type=command_line.path,
        required=True,
        help='file to write; its name ends in .onnx or .stablehlo',
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
    group = flags.add_argument_group('.onnx files')
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
    is_onnx = flags.out.endswith('.onnx')
    _check_flags(parse, flags, is_onnx)
    write = _write_onnx if is_onnx else _write_stablehlo
    return command_line.guard(program, lambda: write(flags, _load(flags, overrides)))


def _check_flags(parse, flags, is_onnx):
    if is_onnx and flags.platforms is not None:
        parse.error('--platforms goes with .stablehlo files; an .onnx file has none')
    for name in ('heads', 'images', 'half', 'int8', 'calibrate', 'force'):
        if not is_onnx and getattr(flags, name):
            parse.error(f'--{name} goes with .onnx files')
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
    from atss_jax.inference.onnx_file.write import Options, write

    options = Options(
        heads=flags.heads,
        images=flags.images,
        half=flags.half,
        int8=flags.int8,
        calibrate=flags.calibrate or 100,
        force=flags.force,
    )
    write(flags.out, trained, options, print)
    print(f'wrote {flags.out}: {len(trained.classes)} classes')
