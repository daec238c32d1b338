"""docs/config.md has every field of every config and is as new as the code."""

import re

import pytest

from atss_jax.commands.main import main
from atss_jax.config import as_dict, load_config
from atss_jax.config.experiment import read_experiment
from atss_jax.config.fields import Reader
from atss_jax.config.reference import described, rows
from atss_jax.config.tree import flatten
from tests.conftest import ROOT
from tests.support.configs import BASE, CONFIGS, R50

ROWS = rows(BASE)


def row_of(path, part=''):
    """The row of a field; of several the one whose meaning has `part`."""
    (row,) = [row for row in ROWS if row.path == path and part in row.meaning]
    return row


def test_the_page_is_what_the_command_prints(capsys):
    """If not: python -m atss_jax show-config ... --reference > docs/config.md"""
    assert main(['show-config', R50, '--reference']) == 0
    assert capsys.readouterr().out == (ROOT / 'docs' / 'config.md').read_text()


def test_every_field_of_the_base_config():
    defaults = {row.path: row.default for row in ROWS if row.default}
    assert defaults == {path: repr(value) for path, value in flatten(BASE).items()}


@pytest.mark.parametrize('path', CONFIGS)
def test_every_field_that_a_config_has(path):
    read = Reader(as_dict(load_config(path)))
    read_experiment(read)
    assert set(read.checks) <= {row.path for row in ROWS}


def test_a_row():
    row = row_of('optimizer.lr')
    assert row.default == '0.01' and row.expected == 'a number above 0'
    assert row.meaning == 'learning rate after warm-up'
    assert row_of('data.samples_per_gpu').meaning == 'images per device and step'
    assert 'class-wise NMS' in row_of('test_cfg.nms.iou_threshold').meaning


def test_fields_of_another_type_say_when():
    row = row_of('lr_config.min_lr_ratio')
    assert row.default == ''
    assert row.meaning.startswith('if lr_config.policy is CosineAnnealing: final over')
    smallest = row_of('data.train.min_size', 'if data.train.type is ShapesDataset')
    assert smallest.expected == 'an integer of at least 1'
    assert 'sampled uniformly' in smallest.meaning
    assert 'shorter side' in row_of('data.train.min_size', 'drop').meaning


def test_every_field_has_a_meaning():
    """Except types, and those that accept a single value."""
    silent = [row for row in ROWS if re.fullmatch('(if [^:]*)?', row.meaning)]
    plain = [row for row in silent if not row.path.endswith('.type')]
    assert {re.split('[,;]', row.expected)[0] for row in plain} <= {
        'True',
        'False',
        '2',
        "'bbox'",
        'True or False',  # recompute_bbox, whose check says it
    }


class Described:
    """A thing.

    Attributes:
        one: first,
            over two lines.
        two, three: others.

    Raises:
        four: never.
    """

    def __init__(self, two):
        """Makes one.

        Args:
            two: given.
        """


def test_words_of_docstrings():
    words = {'one': 'first, over two lines', 'two': 'given', 'three': 'others'}
    assert described(Described) == words
