"""`atss check-data`: what is wrong or odd about a data set, without training."""

import argparse
import textwrap

from atss_jax.commands import command_line

_WIDTH = 80
_MAX_CLASSES = 30


def parser(program: str = 'atss check-data') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Reads a data set, decodes every image once, and says what stops training and\n'
        'what to look at.',
        'With --config any config field is set by --config.FIELD=VALUE.\n'
        'exit status: 0 nothing stops training, 1 something does, or an error',
    )
    flags.add_argument(
        'data',
        nargs='?',
        type=command_line.path,
        metavar='DATA',
        help='folder, annotation file or address of the data set',
    )
    flags.add_argument(
        '--config',
        type=command_line.path,
        help='a config: with DATA for its scale, anchors and limits (default: those '
        'of atss_r50_1x); without, also for its data',
    )
    flags.add_argument(
        '--split', action='append', help='only this split; may be repeated'
    )
    flags.add_argument(
        '--report',
        type=command_line.path,
        metavar='PAGE.html',
        help='also write a page with figures and examples',
    )
    return flags


def main(arguments: list[str], program: str = 'atss check-data') -> int:
    """Checks as the flags say, prints the verdict; gives the exit status."""
    parse = parser(program)
    flags, overrides = parse.parse_known_args(arguments)
    if overrides and flags.config is None:
        parse.error(f'unrecognized arguments: {" ".join(overrides)}')
    if flags.data is None and flags.config is None:
        parse.error('DATA or --config is required')
    return command_line.guard(program, lambda: _check(flags, overrides))


def _check(flags, overrides):
    from atss_jax.data.check.verdict import check

    if flags.report:
        _check_report_path(flags.report)
    place, openers, expected, about_all = _what_to_check(flags, overrides)
    print(_wrapped(place), flush=True)
    title = flags.data or flags.config
    verdict = check(title, place, openers, expected, _progress, about_all)
    command_line.show(text(verdict))
    if flags.report:
        from atss_jax.report.data_page import write_data_page

        write_data_page(flags.report, verdict)
        print(f'report: {flags.report}')
    return int(verdict.stops)


def _check_report_path(path):
    from atss_jax.files.atomic import check_file_writable

    check_file_writable(path)


def _what_to_check(flags, overrides):
    """A line about the data, how splits are opened, expectations, findings."""
    from atss_jax.data.check.checked import Expectations
    from atss_jax.data.check.verdict import find_lacking_splits, openers_of
    from atss_jax.data.forms.dataset import FLAG, check_split
    from atss_jax.data.forms.find import describe
    from atss_jax.data.forms.finder import Finder

    expected, config_openers = Expectations(), []
    if flags.config is not None:
        expected, config_openers = _from_config(flags.config, overrides)
    if flags.data is not None:
        finder = Finder()
        form = finder.find(flags.data)
        for split in flags.split or ():
            check_split(form, split, FLAG)
        openers = openers_of(flags.data, flags.split or form.splits, finder)
        # Who names splits knows that they are not all.
        about_all = [] if flags.split else find_lacking_splits(flags.data, form)
        return describe(form), openers, expected, about_all
    names = [opener.name for opener in config_openers]
    for split in flags.split or ():
        if split not in names:
            raise ValueError(f'--split={split}: a config has {", ".join(names)}')
    chosen = [
        each for each in config_openers if not flags.split or each.name in flags.split
    ]
    return f'the data of {flags.config}', chosen, expected, []


def _from_config(path, overrides):
    """What a config expects, and how its three sections of data are opened."""
    from atss_jax.config import build_experiment, load_config, parse_overrides
    from atss_jax.data.check.checked import Expectations
    from atss_jax.data.check.verdict import Opener

    config = load_config(path, parse_overrides(overrides))
    experiment = build_experiment(config)
    train = experiment.data['train']
    expected = Expectations(
        img_scale=train.pipeline.img_scale,
        anchors=_anchor_sides(config.model.bbox_head.anchor_generator),
        max_boxes=train.pipeline.max_boxes,
        max_bad=train.pipeline.max_bad_pictures,
        skips_malformed=config.data.on_error == 'skip',
        min_size=train.arguments.get('min_size', 0),
        from_config=True,
    )

    def opener(name):
        data_set = experiment.data[name].data_set
        return Opener(
            name,
            name == 'train',
            lambda on_error: _with_all_images(data_set, on_error).open(),
        )

    return expected, [opener(name) for name in ('train', 'val', 'test')]


def _anchor_sides(section):
    """Sides of all square anchors, in pixels, ascending."""
    sides = [
        stride * section.octave_base_scale * 2 ** (index / section.scales_per_octave)
        for stride in section.strides
        for index in range(section.scales_per_octave)
    ]
    return tuple(sorted(sides))


def _with_all_images(data_set, on_error):
    """The data set with the images that the config leaves out of training.

    What happens to malformed records is for the check to choose, so `on_error` replaces
    that of the config.
    """
    import dataclasses

    arguments = dict(data_set.arguments)
    if 'members' in arguments:  # several data sets as one
        arguments['members'] = tuple(
            _with_all_images(member, on_error) for member in arguments['members']
        )
    if 'filter_empty_gt' in arguments:
        arguments |= {'filter_empty_gt': False, 'min_size': 0}
    if 'on_error' in arguments:
        arguments['on_error'] = on_error
    return dataclasses.replace(data_set, arguments=arguments, times=1)


def _progress(images, count, name):
    from tqdm import tqdm

    # None: shown on a terminal only.
    return tqdm(images, f'{name} images', count, leave=False, disable=None)


def text(verdict) -> str:
    """The verdict as aligned text, at most 80 columns wide."""
    lines = []
    if verdict.splits:
        lines = ['', *_splits(verdict), '', *_classes(verdict), '', *_boxes(verdict)]
    untrained = [
        f'  {split.name}: {count} {reason}'
        for split in verdict.splits
        for reason, count in split.source.untrained.items()
    ]
    if untrained:
        lines += ['', 'annotations that training does not learn', *untrained]
    problems = [each for each in verdict.findings if each.stops]
    others = [each for each in verdict.findings if not each.stops]
    if problems:
        lines += ['', 'problems that stop training', *map(_finding, problems)]
    if others:
        lines += ['', 'things to look at', *map(_finding, others)]
    return '\n'.join([*lines, '', _conclusion(problems, others)])


def _conclusion(problems, others):
    number = command_line.counted(len(others), 'thing') + ' to look at'
    if problems:
        count = command_line.counted(len(problems), 'problem')
        return f'verdict: training would stop: {count}, {number}'
    return f'verdict: nothing stops training; {number}'


def _finding(finding):
    names = f' ({", ".join(finding.names)})' if finding.names else ''
    text = _wrapped(finding.text + names + ':' * bool(finding.command), '  - ')
    # A command is not wrapped, so that it can be copied.
    return f'{text}\n    {finding.command}' if finding.command else text


def _wrapped(words, start=''):
    return textwrap.fill(
        words,
        _WIDTH,
        initial_indent=start,
        subsequent_indent='    ',
        break_long_words=False,
        break_on_hyphens=False,
    )


def _splits(verdict):
    rows = [('split', 'images', 'empty', 'unusable', 'objects', 'classes')]
    for split in verdict.splits:
        unusable = sum(bool(image.reason) for image in split.images)
        rows.append(
            (
                split.name,
                len(split.images),
                int((split.counts == 0).sum()),
                unusable,
                len(split.objects.rows),
                len(split.source.classes),
            )
        )
    return _table(rows)


def _classes(verdict):
    names = [split.name for split in verdict.splits]
    total = sum(sum(each.objects.values()) for each in verdict.classes)
    rows = [('class', *names, 'share')]
    ordered = sorted(verdict.classes, key=lambda each: -sum(each.objects.values()))
    for each in ordered:
        share = sum(each.objects.values()) / max(total, 1)
        cells = [f'{each.objects[name]} / {each.images[name]}' for name in names]
        rows.append((each.name, *cells, f'{share:.1%}'))
    hidden = len(rows) - 1 - _MAX_CLASSES
    if hidden <= 0:
        return ['objects / images with some', *_table(rows)]
    # The rarest matter as much as the most frequent.
    half = _MAX_CLASSES // 2
    lines = _table(rows)
    shown = [*lines[: half + 1], f'... {hidden} more ...', *lines[-half:]]
    return ['objects / images with some', *shown]


def _boxes(verdict):
    import numpy as np

    from atss_jax.data.check.measures import measure_boxes

    expected = verdict.expected
    anchors = ', '.join(f'{side:g}' for side in expected.anchors)
    width, height = expected.img_scale
    lines = [f'box sides when resized to fit {width}x{height}; anchors {anchors}']
    rows = [('split', 'min', 'median', 'max', '< 1/3', '< 1/2', '> 2x', 'w/h')]
    crowding = [('objects per image', 'median', '99 %', 'max')]
    smallest, largest = min(expected.anchors), max(expected.anchors)
    for split in verdict.splits:
        measures = measure_boxes(split, expected)
        sides, shapes = measures.sides, measures.shapes
        if not sides.size:
            continue
        rows.append(
            (
                split.name,
                f'{sides.min():.0f}',
                f'{np.median(sides):.0f}',
                f'{sides.max():.0f}',
                f'{np.mean(sides < smallest / 3):.1%}',
                f'{np.mean(sides < smallest / 2):.1%}',
                f'{np.mean(sides > largest * 2):.1%}',
                f'{shapes.min():.2g} to {shapes.max():.3g}',
            )
        )
        counts = measures.per_image
        median, high = np.median(counts), np.percentile(counts, 99)
        crowding.append((split.name, f'{median:g}', f'{high:.0f}', int(counts.max())))
    return [*lines, *_table(rows), '', *_table(crowding)]


def _table(rows):
    """Rows of cells as lines; the first column to the left, others to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        '  '.join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
