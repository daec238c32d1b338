"""Writes a chosen config as a Python file of a few lines, each with its reason."""

import dataclasses
import shlex
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from atss_jax.data.plan import Canvas
from atss_jax.tuning.choose import Chosen, class_mean
from atss_jax.tuning.fit import Fit, anchor_sides
from atss_jax.tuning.recipe import Schedule

_WIDTH = 80  # of a comment, without its indentation
_NAMED = 20  # classes that are named in a comment
_LONGEST_NAME = 40  # characters of a class that are shown


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything that a written config says.

    Attributes:
        path: of the data.
        description: one line about what lies there.
        splits: split of the data for 'train', 'val' and 'test'.
        on_error: 'raise' or 'skip' malformed records.
        classes: names of the labels.
        images: number of training images.
        chosen: image scale and anchors.
        costs: multiply-adds of one image in billions with each of `chosen.tried`.
        max_boxes: capacity for boxes per image.
        most_boxes: largest number of boxes that an image has.
        canvases: of all images; None: the usual two.
        samples_per_gpu: images per device and step.
        devices: number and kind of the devices, '1 cpu'.
        batch: images per step, over all devices.
        schedule: epochs and learning rate.
        start: one of `recipe.STARTS`.
        depth: of the ResNet.
        model: name of the trained detector that 'zoo' starts from.
    """

    path: str
    description: str
    splits: Mapping[str, str]
    on_error: str
    classes: Sequence[str]
    images: int
    chosen: Chosen
    costs: tuple[float, ...]
    max_boxes: int
    most_boxes: int
    canvases: tuple[Canvas, ...] | None
    samples_per_gpu: int
    devices: str
    batch: int
    schedule: Schedule
    start: str
    depth: int
    model: str

    def cost_of(self, fit: Fit) -> float:
        """Multiply-adds of one image in billions with one of `chosen.tried`."""
        tried = self.chosen.tried
        return next(
            cost for each, cost in zip(tried, self.costs, strict=True) if each is fit
        )


def config_text(setup: Setup, command: Sequence[str], name: str) -> str:
    """The text of the file.

    Args:
        setup: what it says.
        command: the words of the command that writes it.
        name: path of the file.
    """
    sections = (_data, _start, _scale_and_anchors, _batch, _schedule)
    body = [line for section in sections for line in ('', *section(setup))]
    return '\n'.join(
        [
            _docstring(setup, command, name),
            '',
            'from atss_jax.config.own_data import use_data',
            'from atss_jax.configs import atss_r50_1x',
            '',
            '',
            'def get_config():',
            '    """Returns the main recipe, fitted to the data."""',
            '    config = atss_r50_1x.get_config()',
            *(f'    {line}' if line else '' for line in body),
            '    return config',
            '',
        ]
    )


def _docstring(setup, command, name):
    train = 'atss', 'train', f'--config={name}', '--workdir=WORKDIR'
    lines = [
        _printable(f'ATSS for {setup.path}: {_counts(setup)}.'),
        '',
        'Written by',
        '',
        *_command_lines(command),
        '',
        'It is an ordinary config: change what you know better. To train with it:',
        '',
        *_command_lines(train),
    ]
    text = '\n'.join(lines).replace('"""', "'''")  # it would end the docstring
    prefix = 'r' if '\\' in text else ''
    return f'{prefix}"""{text}\n"""'


def _counts(setup):
    classes = f'{len(setup.classes)} class' + 'es' * (len(setup.classes) != 1)
    return f'{classes}, {setup.images} training image' + 's' * (setup.images != 1)


def _command_lines(words):
    """A command, in lines that a shell takes as one."""
    lines = ['   ']
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) > _WIDTH and lines[-1].strip():
            lines[-1] += ' \\'
            lines.append('       ')
        lines[-1] += f' {word}'
    return [_printable(line) for line in lines]


def _printable(text):
    """Text that stays on its line: what is not printable, escaped as in Python."""
    return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _comment(text):
    return [f'# {line}' for line in textwrap.wrap(_printable(text), _WIDTH)]


def short_name(name: str, length: int = _LONGEST_NAME) -> str:
    """The name of a class as it is shown: on one line, cut off after `length`."""
    name = _printable(name)
    return name if len(name) <= length else f'{name[: length - 3]}...'


def _call(function: str, *arguments: str) -> list[str]:
    """The lines of a call: one, or a line for each argument if it is too long."""
    line = f'{function}({", ".join(arguments)})'
    if len(line) <= _WIDTH + 2:
        return [line]
    return [f'{function}(', *(f'    {argument},' for argument in arguments), ')']


def _data(setup):
    names = ', '.join(map(short_name, setup.classes[:_NAMED]))
    if len(setup.classes) > _NAMED:
        names += f' and {len(setup.classes) - _NAMED} more'
    splits = [f'{name}={split!r}' for name, split in setup.splits.items()]
    return [
        *_comment(f'Found {setup.description}.'),
        *_call('use_data', 'config', repr(setup.path), *splits),
        *_comment(f'The classes are {names}.'),
        f'config.model.bbox_head.num_classes = {len(setup.classes)}',
        *_comment(f'No image has more than {setup.most_boxes} objects.'),
        f'config.data.max_boxes = {setup.max_boxes}',
        *_on_error(setup),
    ]


def _on_error(setup):
    if setup.on_error == 'raise':
        return []
    return [
        *_comment('Malformed records are left out, with a warning.'),
        f'config.data.on_error = {setup.on_error!r}',
    ]


def _start(setup):
    backbone = f'config.model.backbone.depth = {setup.depth}'
    channels = f'config.model.neck.in_channels = {stage_channels(setup.depth)}'
    other_backbone = []
    if setup.depth != 50:
        name = f'torchvision://resnet{setup.depth}'
        other_backbone = [f'config.model.pretrained = {name!r}', backbone, channels]
    if setup.start == 'zoo':
        return [
            *_comment(
                'Training starts from a detector trained on COCO, which is downloaded '
                'once; only its class layer is new.'
            ),
            f"config.load_from = 'mmdet://{setup.model}'",
            *other_backbone,
        ]
    if setup.start == 'imagenet':
        return [
            *_comment('Training starts from a backbone trained on ImageNet.'),
            *other_backbone,
        ]
    return [
        *_comment(
            'Training starts from random weights, so that all layers learn, and batch '
            'normalization learns its statistics.'
        ),
        'config.model.pretrained = None',
        *_call(
            'config.model.backbone.update',
            f'depth={setup.depth}',
            'frozen_stages=-1',
            'norm_eval=False',
        ),
        channels,
    ]


def stage_channels(depth: int) -> tuple[int, ...]:
    """Channels of the stages of a ResNet."""
    return tuple((64 if depth < 50 else 256) * 2**stage for stage in range(4))


def _scale_and_anchors(setup):
    chosen, choice = setup.chosen, setup.chosen.fit.choice
    sides = chosen.smallest_sides
    smallest = int(np.nanargmin(sides))
    name = short_name(setup.classes[smallest])
    lines = [
        *_comment(
            f'At this size nine of ten objects of {name}, the smallest, have sides of '
            f'at least {sides[smallest]:.0f} pixels.'
        ),
        "for split in ('train', 'val', 'test'):",
        f'    config.data[split].pipeline.img_scale = {choice.img_scale}',
    ]
    if setup.canvases is not None:
        lines += [
            *_comment('All images have one orientation.'),
            f'config.data.canvases = {setup.canvases}',
        ]
    return lines + _anchors(setup)


def cost_text(cost: float, usual_cost: float) -> str:
    """What an image costs with the chosen anchors and with mmdetection's.

    Args:
        cost: billions of multiply-adds with the chosen anchors.
        usual_cost: the same with mmdetection's.
    """
    number, usual_number = f'{cost:.1f}', f'{usual_cost:.1f}'
    if number == usual_number:
        return f'An image costs the same with both: {number} billion multiply-adds.'
    return (
        f'An image costs {number} billion multiply-adds with them, and {usual_number} '
        'with those.'
    )


def _anchors(setup):
    chosen, anchors = setup.chosen, setup.chosen.fit.choice.anchors
    usual = chosen.usual.choice.anchors
    count = len(setup.classes)
    overlap = f'{class_mean(chosen.fit, count):.2f}'
    if anchors == usual:
        return _comment(
            f'The anchors, those of mmdetection, overlap by {overlap} with the objects '
            'that they are assigned to, as the mean over the classes.'
        )
    sides = ', '.join(f'{side:.0f}' for side in anchor_sides(anchors))
    costs = cost_text(setup.cost_of(chosen.fit), setup.cost_of(chosen.usual))
    lines = _comment(
        f'Anchors of {sides} pixels on the finest level overlap by {overlap} with the '
        'objects that they are assigned to, as the mean over the classes; '
        f"mmdetection's, of {anchor_sides(usual)[0]:.0f}, by "
        f'{class_mean(chosen.usual, count):.2f}. {costs}'
    )
    if anchors.strides != usual.strides:
        lines += _comment('The small objects need a level finer than P3.')
        lines.append('config.model.neck.start_level = 0')
    fields = {
        name: getattr(anchors, name)
        for name in ('strides', 'octave_base_scale', 'scales_per_octave')
        if getattr(anchors, name) != getattr(usual, name)
    }
    arguments = [f'{name}={_literal(value)}' for name, value in fields.items()]
    generator = 'config.model.bbox_head.anchor_generator'
    return lines + _call(f'{generator}.update', *arguments)


def _literal(value):
    """A value as Python writes it; whole numbers without a point."""
    return f'{value:g}' if isinstance(value, float) else repr(value)


def _batch(setup):
    return [
        *_comment(
            f'{_counted(setup.samples_per_gpu, "image")} per device and step, on '
            f'{setup.devices}; an estimate of what fits into its memory.'
        ),
        f'config.data.samples_per_gpu = {setup.samples_per_gpu}',
        f'config.auto_scale_lr.base_batch_size = {setup.batch}',
    ]


def _rates(plan):
    """The warm-up, and the epochs after which the rate drops; in one epoch none."""
    if plan.milestones:
        changes = f'warmup_iters={plan.warmup_steps}, step={plan.milestones}'
        return [f'config.lr_config.update({changes})']
    return _call(
        'config.lr_config = dict',
        "policy='fixed'",
        "warmup='linear'",
        f'warmup_iters={plan.warmup_steps}',
        'warmup_ratio=0.001',
    )


def _counted(count, noun):
    return f'{count} {noun}' if count == 1 else f'{count} {noun}s'


def _schedule(setup):
    plan = setup.schedule
    steps = _counted(plan.epochs * plan.steps_per_epoch, 'step')
    epochs = _counted(plan.epochs, 'epoch')
    verb, show = ('is', 'shows') if plan.epochs == 1 else ('are', 'show')
    shown = _counted(plan.epochs * setup.images, 'image')
    lines = [
        *_comment(f'{epochs} {verb} {steps}, and {show} {shown}.'),
        f'config.total_epochs = {plan.epochs}',
        f'config.evaluation.interval = {max(1, plan.epochs // 12)}',
        f'config.log_config.interval = {min(50, plan.steps_per_epoch)}',
        *_rates(plan),
    ]
    if setup.start != 'scratch':
        return [
            *lines,
            *_comment(
                f"mmdetection's rate, 0.01 for 16 images per step, for {setup.batch}."
            ),
            f'config.optimizer.lr = {plan.rate:g}',
            'config.optimizer_config.grad_clip = dict(max_norm=35, norm_type=2)',
        ]
    return [
        *lines,
        *_comment('From random weights AdamW learns in far fewer steps than SGD.'),
        *_call(
            'config.optimizer = dict',
            "type='AdamW'",
            f'lr={plan.rate:g}',
            'betas=(0.9, 0.999)',
            'eps=1e-8',
            'weight_decay=0.05',
            'paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0)',
        ),
        'config.optimizer_config.grad_clip = dict(max_norm=10, norm_type=2)',
    ]
