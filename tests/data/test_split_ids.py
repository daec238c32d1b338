"""A split has the same records whatever the other splits of its data set hold.

A run is resumed only with the records that it began with, and it must not matter to it
that somebody adds an evaluation image.
"""

import pytest

from atss_jax.data.coco import annotation_file
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import find
from atss_jax.data.forms.to_coco import write_coco
from tests.support import small_run, voc_set
from tests.support.every_form import SPLITS, WRITERS
from tests.support.forms import IMAGE, read, write_files
from tests.support.yolo_set import IN_SPLITS, LINE, NAMES

FORMS = [
    pytest.param(name, marks=pytest.mark.hf if name == 'Parquet' else ())
    for name in WRITERS
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'cache'))


def records_of(folder, split):
    return AutoDataset(str(folder), split, filter_empty_gt=False, min_size=1).records


@pytest.mark.parametrize('changed', SPLITS)
@pytest.mark.parametrize('name', FORMS)
def test_another_split_changes_nothing(small_data, tmp_path, name, changed):
    """Other images, more of them, under other names."""
    (kept,) = set(SPLITS) - {changed}
    counts = {'train': 21, 'val': 9}
    for split, count in counts.items():
        is_other = split == changed
        small_run.write_coco(
            tmp_path / 'other', split, count + 4 * is_other, len(split) + is_other
        )
        small_run.write_coco(tmp_path / 'usual', split, count, len(split))
    for folder in ('usual', 'other'):
        WRITERS[name](tmp_path / folder, tmp_path / 'as form' / folder)
    usual, other = (tmp_path / 'as form' / folder for folder in ('usual', 'other'))
    digests = [records_of(folder, kept).digest() for folder in (usual, other)]
    assert digests[0] == digests[1]
    assert records_of(usual, changed).digest() != records_of(other, changed).digest()
    for split in SPLITS:
        ids = records_of(other, split).image_ids.tolist()
        assert len(set(ids)) == len(ids) == counts[split] + 4 * (split == changed)


def test_new_images_that_sort_first(tmp_path):
    """By hand: `test/` sorts before `train/`, and `0.xml` before `a.xml`."""
    yolo, voc = tmp_path / 'yolo', tmp_path / 'voc'
    write_files(yolo, IN_SPLITS | {'data.yaml': NAMES})
    write_files(voc, voc_set.USUAL)
    ids = {'yolo': {'train': [1], 'val': [1]}, 'voc': {'train': [1, 2], 'val': [1]}}
    for _ in range(2):
        for folder in (yolo, voc):
            for split, expected in ids[folder.name].items():
                assert read(folder, split).image_ids.tolist() == expected
        new = {'test/images/0.png': IMAGE, 'test/labels/0.txt': LINE}
        write_files(yolo, new | {'valid/images/0.png': IMAGE})
        new = {'Annotations/0.xml': voc_set.C, 'JPEGImages/0.png': IMAGE}
        write_files(voc, new | {f'{voc_set.LISTS}/val.txt': 'c\n0\n'})
        ids['yolo'] |= {'val': [1, 2], 'test': [1]}
        ids['voc']['val'] = [1, 2]
    assert read(voc, 'val').file_names == ['JPEGImages/0.png', 'JPEGImages/c.png']
    assert read(yolo, 'val').annotation_images.tolist() == [2]


def test_an_image_of_two_lists(tmp_path):
    """It is counted in each; an image that is listed twice is counted once."""
    lists = {f'{voc_set.LISTS}/trainval.txt': 'c\na\nb\nb\n'}
    write_files(tmp_path, voc_set.USUAL | lists)
    with pytest.warns(UserWarning, match='1 of 4 images left out'):
        table = read(tmp_path, 'trainval', on_error='skip')
    assert table.image_ids.tolist() == [1, 2, 3]
    assert read(tmp_path, 'val').image_ids.tolist() == [1]


# What has images of several splits ----------------------------------------------------


@pytest.fixture
def alike(tmp_path):
    """Two splits that each have two images named `x.png`, all of them different."""
    files = {'data.yaml': NAMES}
    for split in ('train', 'val'):
        for place in 'ab':
            files[f'{split}/images/{place}/x.png'] = IMAGE + f'{split}{place}'.encode()
            files[f'{split}/labels/{place}/x.txt'] = LINE
    write_files(tmp_path / 'set', files)
    return tmp_path / 'set'


def test_splits_are_converted_to_one_folder(alike, tmp_path):
    """Ids are the same in both, so names have that of the split too."""
    images, names = tmp_path / 'images', {}
    for split in SPLITS:
        out = tmp_path / f'{split}.json'
        write_coco(str(alike), str(out), split, str(images), overwrite=True)
        names[split] = annotation_file.read(str(out)).file_names
    assert names == {
        split: [f'{split}_1_x.png', f'{split}_2_x.png'] for split in SPLITS
    }
    for split in SPLITS:
        originals = find(str(alike)).read(split).file_names
        for name, original in zip(names[split], originals, strict=True):
            assert (images / name).read_bytes() == (alike / original).read_bytes()
