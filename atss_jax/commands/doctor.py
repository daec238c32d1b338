"""`atss doctor`: says what is probably wrong in annotations, and corrects them."""

import argparse
import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atss_jax.commands import command_line, foreign_flags

if TYPE_CHECKING:  # they load JAX, which the flags do not need
    from atss_jax.review.examine import Examination
    from atss_jax.review.ranking import Suggestion

_SPLITS = ('train', 'val', 'test')
LARGEST_EMBEDDED = 20_000_000  # bytes of annotations that a page has in it


def parser(program: str = 'atss doctor') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Ranks what is probably wrong in the annotations that a detector was trained '
        'or evaluated with, on a page where one accepts or rejects each suggestion '
        '(--workdir or --model), and which saves the corrected annotations; those of '
        'large files are written by --apply.',
        command_line.FIELDS_HELP,
    )
    command_line.add_weights_flags(
        flags, 'folder of the run, or a .pth or .safetensors', required=False
    )
    flags.add_argument(
        '--apply',
        type=command_line.path,
        metavar='CORRECTIONS',
        help='write the annotations with the corrections that the page of a large '
        'annotation file saved to --out',
    )
    flags.add_argument(
        '--split', choices=_SPLITS, help='section of data (default: train)'
    )
    flags.add_argument('--step', type=int, help='a checkpoint (default: the best)')
    flags.add_argument(
        '--count',
        type=command_line.positive,
        help='number of suggestions on the page (default: 100)',
    )
    flags.add_argument(
        '--out',
        type=command_line.path,
        help='the page (default: WORKDIR/doctor/SPLIT_STEP.html; with --model: '
        'doctor/SPLIT_NAME.html); with --apply, the corrected COCO file',
    )
    command_line.add_cache_flag(flags)
    command_line.add_host_flags(flags)
    return flags


def main(arguments: list[str], program: str = 'atss doctor') -> int:
    """Writes the page or the corrected file; gives the exit status."""
    parse = parser(program)
    flags, overrides = parse.parse_known_args(arguments)
    foreign_flags.check(parse, 'doctor', overrides)
    if flags.apply is not None:
        _check_apply_flags(parse, flags, overrides)
        return command_line.guard(program, lambda: _apply(flags))
    if command_line.weights_of(flags) is None:
        parse.error('--workdir, --model or --apply is required')
    command_line.prepare_compiling(flags)
    return command_line.run(flags, program, lambda: _diagnose(flags, overrides))


def _check_apply_flags(parse, flags, overrides):
    for name in ('workdir', 'model', 'model_config', 'split', 'step', 'count'):
        if getattr(flags, name) is not None:
            parse.error(f'--{name} does not go with --apply')
    if overrides:
        parse.error(f'unrecognized arguments: {" ".join(overrides)}')
    if flags.out is None:
        parse.error('--apply needs --out, the corrected COCO file to write')


# Corrections ----------------------------------------------------------------------


def _apply(flags):
    from atss_jax.files.atomic import write_json
    from atss_jax.review.corrections import corrected_file, read_corrections

    if os.path.exists(flags.out):
        raise ValueError(f'--out: {flags.out} exists already; choose another name')
    corrections = read_corrections(flags.apply)
    content = corrected_file(corrections)
    write_json(flags.out, content)
    counts = _counts([row['kind'] for row in corrections.rows])
    number = command_line.counted(len(corrections.rows), 'correction')
    print(
        f'wrote {flags.out}: {number} of '
        f'{corrections.ann_file}{f" ({counts})" if counts else ""}, '
        f'{command_line.counted(len(content["annotations"]), "annotation")}'
    )


def _counts(kinds):
    """How many there are of each kind; '' if there are none."""
    return ', '.join(f'{kinds.count(kind)} {kind}' for kind in sorted(set(kinds)))


# Suggestions ----------------------------------------------------------------------


def _diagnose(flags, overrides):
    from atss_jax.config import parse_overrides
    from atss_jax.distributed import devices
    from atss_jax.evaluation.evaluate import check_output
    from atss_jax.review.examine import examine
    from atss_jax.review.ranking import rank

    weights, split = command_line.weights_of(flags), flags.split or 'train'
    check_output(_page_path(weights, split, flags, '').parent)
    options = parse_overrides(overrides)
    examined = examine(weights, split, flags.step, options, flags.model_config)
    if not devices.is_first():
        return
    suggestions = rank(examined.images, len(examined.source.classes))
    page = _page_path(weights, split, flags, examined.step)
    write_page(page, examined, suggestions[: flags.count or 100])


def _page_path(weights, split, flags, step):
    """The page that --out names, or the default for these weights and this split."""
    if flags.out is not None:
        return pathlib.Path(flags.out)
    if flags.model is None and os.path.isdir(weights):
        return pathlib.Path(weights, 'doctor', f'{split}_{step}.html')
    name = pathlib.Path(weights.rpartition('://')[2]).stem
    return pathlib.Path('doctor', f'{split}_{name}.html')


def write_page(
    page: pathlib.Path, examined: 'Examination', suggestions: 'Sequence[Suggestion]'
) -> None:
    """Writes the page, and the annotations next to it if they are not a COCO file.

    Args:
        page: the .html file.
        examined: annotations and detections.
        suggestions: those to show, the most probable first.
    """
    from atss_jax.report.doctor_page import Diagnosed, write_doctor_page
    from atss_jax.review.corrections import read_annotations

    for note in examined.notes:
        print(note)
    annotations = read_annotations(_annotation_file(examined, page))
    file_name, apply_command = f'{page.stem}_corrected.json', None
    if annotations.size > LARGEST_EMBEDDED:
        file_name = f'{page.stem}_corrections.json'
        apply_command = _apply_command(file_name)
    diagnosed = Diagnosed(
        title=f'{page.stem}, {examined.data.section}',
        source=examined.source,
        images=examined.images,
        suggestions=suggestions,
        annotations=annotations,
        apply_command=apply_command,
        file_name=file_name,
    )
    unreadable = write_doctor_page(page, diagnosed)
    if unreadable:
        print(f'not shown, since they cannot be read: {", ".join(unreadable)}')
    counts = _counts([each.kind for each in suggestions])
    print(f'{command_line.counted(len(suggestions), "suggestion")}: {counts or "none"}')
    print(f'annotations: {annotations.path}')
    print(f'page: {page}')


def _apply_command(file_name):
    """What a user types to apply the corrections that a page saves."""
    command = command_line.other_command('doctor')
    return f'{command} --apply={shlex.quote(file_name)} --out=corrected.json'


def _annotation_file(examined, page):
    """Absolute path of the COCO file that is corrected.

    It is that of the data, so that all its fields are kept. Annotations of other forms
    are written as one next to the page.
    """
    from atss_jax.data.coco.dataset import CocoDataset
    from atss_jax.data.forms.dataset import AutoDataset
    from atss_jax.data.forms.to_coco import as_coco
    from atss_jax.files.atomic import write_json

    source, arguments = examined.source, examined.data.arguments
    if isinstance(source, CocoDataset):
        return os.path.abspath(arguments['ann_file'])
    if isinstance(source, AutoDataset):
        form, split = source.form, arguments['split']
        if form.name == 'COCO':
            return os.path.abspath(os.path.join(form.folder, form.splits[split]))
        content = as_coco(form.read(split, arguments['on_error'], training=False))
    else:
        content = source.ground_truth()
    path = page.with_name(f'{page.stem}_annotations.json').absolute()
    write_json(path, content)
    return str(path)
