"""A finder finds a data set once and parses each of its annotation files once."""

import collections
import json
import pickle
import shutil

import pytest

from atss_jax.config import build_experiment, load_config
from atss_jax.config.experiment import open_sources
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import find
from atss_jax.data.forms.finder import Finder
from tests.data.test_to_coco import assert_same_table
from tests.support.every_form import SPLITS, WRITERS
from tests.support.opened import opened

FORMS = [
    pytest.param(name, marks=pytest.mark.hf if name == 'Parquet' else ())
    for name in WRITERS
]
ANNOTATIONS = ('.json', '.jsonl', '.txt', '.xml', '.yaml')


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'cache'))


@pytest.fixture(params=FORMS)
def name(request):
    return request.param


@pytest.fixture
def folder(name, small_data, tmp_path):
    """A data set in the form `name`, in the folder `set`."""
    WRITERS[name](small_data, tmp_path / 'set')
    if name == 'image folder':
        name_the_categories(tmp_path / 'set')
    return tmp_path / 'set'


def name_the_categories(folder):
    """Makes the classes those that occur in any of the splits."""
    names = (folder / 'classes.txt').read_text().splitlines()
    (folder / 'classes.txt').unlink()
    for split in SPLITS:
        file = folder / split / 'metadata.jsonl'
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row['objects']['category'] = [names[i] for i in row['objects']['category']]
        file.write_text('\n'.join(map(json.dumps, rows)))


def open_run(folder, finder):
    """What a run with `--config` and `--data` opens before its first step."""
    config = load_config('atss_r50_1x', data=str(folder), finder=finder)
    return open_sources(build_experiment(config), ('train', 'val'), finder=finder)


# Opened files -------------------------------------------------------------------------

# How often annotation files are opened, and how many are opened so often. Whether a
# JSON file is one of COCO, and where its images lie, is looked up before it is parsed.
# Which form XML files have, the first of them says. VOC lists are read for each split.
# Images without objects have no label files: there are 17 and 8.
EXPECTED = {
    'COCO': {3: 2},
    'Roboflow': {3: 2},
    'YOLO': {1: 17 + 8, 2: 1},
    'Pascal VOC': {1: 30 - 1, 2: 1 + 2},
    'image folder': {1: 2},
}


@pytest.mark.parametrize('name', EXPECTED)
def test_each_annotation_file_is_parsed_once(folder, name):
    with opened(folder) as counts:
        sources = open_run(folder, Finder())
    assert [len(sources[split].records) > 0 for split in SPLITS] == [True, True]
    assert how_often(counts) == EXPECTED[name]
    with opened(folder) as counts:
        load_config('atss_r50_1x', data=str(folder))
        for split in SPLITS:
            AutoDataset(str(folder), split)
    assert sum(counts.values()) > 1.4 * sum(k * n for k, n in EXPECTED[name].items())


def how_often(counts):
    """Number of annotation files by how often they were opened."""
    return collections.Counter(
        count for path, count in counts.items() if path.endswith(ANNOTATIONS)
    )


# What is read -------------------------------------------------------------------------


def test_what_is_read_is_the_same(folder):
    """In any order, and for each use of a split."""
    finder = Finder()
    assert finder.find(str(folder)) == find(str(folder))
    uses = [('val', False), ('train', True), ('val', True), ('train', False)]
    for split, training in uses:
        expected = find(str(folder)).read(split, 'raise', training)
        table = finder.read(str(folder), split, 'raise', training)
        assert table.path == expected.path
        assert_same_table(table, expected, expected.file_names)
        assert finder.read(str(folder), split, 'raise', training) is table


def test_a_run_has_the_same_records(folder):
    sources = open_run(folder, Finder())
    for split, test_mode in zip(SPLITS, (False, True), strict=True):
        alone = AutoDataset(str(folder), split, test_mode=test_mode)
        assert sources[split].classes == alone.classes
        assert sources[split].records.digest() == alone.records.digest()
        assert sources[split].ground_truth() == alone.ground_truth()


@pytest.mark.parametrize('name', ['COCO'])
def test_wanted_classes(folder):
    """They may be a list in Python; a single text is refused as it was."""
    finder = read_all(folder)
    for classes in (['red', 'blue'], ('red', 'blue')):
        source = AutoDataset(str(folder), 'val', classes, finder=finder)
        assert source.classes == ('red', 'blue')
    with pytest.raises(ValueError, match="must be a tuple of names, found 'red'"):
        AutoDataset(str(folder), 'val', 'red', finder=finder)


def test_parsed_files_do_not_travel(folder):
    """Worker processes need records and images, not what records were made of."""
    source = AutoDataset(str(folder), 'train')
    with_all = AutoDataset(str(folder), 'train', finder=read_all(folder))
    assert len(pickle.dumps(with_all)) == len(pickle.dumps(source))


def read_all(folder):
    finder = Finder()
    for split in SPLITS:
        finder.read(str(folder), split)
    return finder


@pytest.mark.parametrize('name', ['YOLO'])
def test_changes_are_seen_after_it_forgets(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finder = Finder()
    form = finder.find('set')
    assert finder.find('./set/') is form is finder.find('x/../set')
    table = finder.read('set/', 'train')
    shutil.rmtree(folder / 'labels' / 'train')
    assert finder.read('./set', 'train') is table
    open_run('set', finder)  # so this run has not noticed it
    finder.forget()
    with pytest.raises(ValueError, match='none of the 21 images has a label file'):
        finder.read('set', 'train')
    shutil.rmtree(folder)
    assert finder.find('set').splits == form.splits
    finder.forget()
    with pytest.raises(FileNotFoundError, match="path = 'set'"):
        finder.find('set')
