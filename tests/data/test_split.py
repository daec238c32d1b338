"""`split`: groups stay together, classes keep their shares, and training reads it."""

import json

import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from atss_jax.commands.main import main
from atss_jax.data.division.divide import divide, write_division
from atss_jax.data.division.stratify import assign_splits, join_groups
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import find

SHARES = {'train': 0.7, 'val': 0.2, 'test': 0.1}


def test_groups_are_joined_through_others():
    keys = [['a'], ['b'], ['a', 'c'], [], ['c', 'd'], ['d'], ['b']]
    assert join_groups(keys).tolist() == [0, 1, 0, 2, 0, 0, 1]


def test_a_division_by_hand():
    # The rare class first: its two groups to train and val, then the frequent one.
    counts = np.array([[1, 1], [1, 1], [2, 0], [2, 0]])
    split_of = assign_splits(counts, np.ones(4, int), (0.5, 0.5), seed=0)
    for split in (0, 1):
        assert counts[split_of == split].sum(0).tolist() == [3, 1]


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(strategies.integers(0, 10**6), strategies.integers(1, 60))
def test_every_group_has_a_split_and_train_has_every_class(seed, num_groups):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.uniform(0, 2, 4), (num_groups, 4))
    sizes = rng.integers(1, 4, num_groups)
    split_of = assign_splits(counts, sizes, (0.7, 0.2, 0.1), seed)
    assert set(split_of.tolist()) <= {0, 1, 2}
    in_train = counts[split_of == 0]
    assert ((in_train > 0).any(0) == (counts > 0).any(0)).all()
    # A split stays empty only if all groups of train are needed there.
    if len(set(split_of.tolist())) < 3:
        is_only = (in_train > 0) & ((in_train > 0).sum(0) == 1)
        assert is_only.any(1).all() or len(in_train) == 1
    again = assign_splits(counts, sizes, (0.7, 0.2, 0.1), seed)
    assert (split_of == again).all()


@pytest.mark.parametrize('seed', range(5))
def test_shares_of_classes_are_close_to_those_asked_for(seed):
    """Closest for rare classes: to 2 of 20 objects."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson([3, 1, 0.3, 0.05], (400, 4))
    split_of = assign_splits(counts, np.ones(400, int), (0.7, 0.2, 0.1), seed)
    images = np.bincount(split_of) / 400
    assert np.abs(images - (0.7, 0.2, 0.1)).max() < 0.03
    for split, share in enumerate((0.7, 0.2, 0.1)):
        objects = counts[split_of == split].sum(0)
        total = counts.sum(0)
        assert (np.abs(objects - share * total) <= 2 + 0.01 * total).all()


class Folder:
    """A COCO file of 30 images: three of equal content, objects of two classes."""

    def __init__(self, folder):
        self.folder = folder
        (folder / 'images').mkdir(parents=True)
        rng = np.random.default_rng(0)
        images, annotations = [], []
        for number in range(30):
            name = f'video{number // 3}_frame{number % 3}.png'
            pixels = rng.integers(0, 255, (40, 50, 3), np.uint8)
            if number in (0, 10, 20):
                pixels[:] = 9
            cv2.imwrite(str(folder / 'images' / name), pixels)
            images.append({'id': number + 5, 'file_name': name})
            images[-1] |= {'height': 40, 'width': 50}
            for k in range(number % 4):
                annotations.append(
                    {'id': len(annotations) + 1, 'image_id': number + 5}
                    | {'category_id': 7 if k else 3, 'bbox': [k, 1.5, 20, 10 + k]}
                    | {'iscrowd': int(number == 1), 'ignore': int(number == 2)}
                )
        categories = [{'id': 7, 'name': 'cat'}, {'id': 3, 'name': 'dog'}]
        self.content = {'images': images, 'annotations': annotations}
        self.content['categories'] = categories
        self.write()

    def write(self):
        (self.folder / 'labels.json').write_text(json.dumps(self.content))

    def names(self, **options):
        """File names of each split."""
        division = divide(find(str(self.folder)), SHARES, **{'seed': 0} | options)
        paths = division.pool.annotations.file_names
        names = np.array([path.removeprefix('images/') for path in paths])
        return {
            split: set(names[division.split_of == i].tolist())
            for i, split in enumerate(division.names)
        }


@pytest.fixture
def data(tmp_path):
    return Folder(tmp_path / 'data')


def test_it_depends_on_the_seed_and_not_on_the_order(data):
    before = data.names()
    assert sum(map(len, before.values())) == 30
    assert data.names(seed=1) != before
    data.content['images'].reverse()
    data.content['annotations'].reverse()
    data.write()
    assert data.names() == before


def test_equal_images_and_frames_stay_together(data):
    copies = {'video0_frame0.png', 'video3_frame1.png', 'video6_frame2.png'}
    assert any(copies <= names for names in data.names().values())
    by_split = data.names(group_by=r'(video\d+)_')
    videos = [{name.split('_')[0] for name in names} for names in by_split.values()]
    assert sum(map(len, videos)) == 10
    assert any({'video0', 'video3', 'video6'} <= each for each in videos)


def boxes_by_name(source):
    """Boxes, labels by name and crowds of each record, by the end of its file name."""
    return {
        record.file_name.rpartition('/')[2]: (
            record.boxes.tolist(),
            [source.classes[label] for label in record.labels],
            record.ignored.tolist(),
        )
        for record in map(source.records.__getitem__, range(len(source.records)))
    }


@pytest.mark.parametrize('copy', [False, True])
def test_what_it_writes_is_the_same_data_and_can_be_read(data, tmp_path, copy):
    out = tmp_path / 'deep' / 'out'
    form = find(str(data.folder))
    division = divide(form, SHARES, 0)
    write_division(division, form, str(out), copy)
    assert (out / 'images').exists() == copy
    whole = AutoDataset(str(data.folder), 'all', test_mode=True)
    total = 0
    for split in SHARES:
        source = AutoDataset(str(out), split, test_mode=True)
        assert source.classes == ('cat', 'dog') and source.category_ids == (7, 3)
        total += len(source.records)
        ids = whole.records.image_ids.tolist()
        for row in range(len(source.records)):
            record = source.records[row]
            other = whole.records[ids.index(record.image_id)]
            assert record.boxes.tolist() == other.boxes.tolist()
            assert record.ignored.tolist() == other.ignored.tolist()
            assert (source.read_image(record) == whole.read_image(other)).all()
    assert total == 30


def test_the_folder_may_be_reached_by_a_link(data, tmp_path):
    (tmp_path / 'far' / 'away').mkdir(parents=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'far' / 'away')
    out = tmp_path / 'link' / 'out'
    assert main(['split', str(data.folder), f'--out={out}']) == 0
    source = AutoDataset(str(out), 'train')
    source.read_image(source.records[0])


class BytesForm:
    """A form whose images are no files, as rows of a table would be."""

    name, path, folder = 'rows', 'rows', 'rows'

    def __init__(self, form):
        self.splits, self._form = form.splits, form

    def read(self, *arguments, **options):
        return self._form.read(*arguments, **options)

    def image_content(self, path):
        name = path.removeprefix('rows/')
        return self._form.image_content(f'{self._form.folder}/{name}')


def test_images_that_are_no_files_are_written(data, tmp_path):
    form = BytesForm(find(str(data.folder)))
    write_division(divide(form, SHARES, 0), form, str(tmp_path / 'out'), False)
    assert len(list((tmp_path / 'out' / 'images').iterdir())) == 30
    source = AutoDataset(str(tmp_path / 'out'), 'train')
    source.read_image(source.records[0])


class Interrupted(BytesForm):
    """Stops at the 21st image, as Ctrl-C would."""

    count = 0

    def image_content(self, path):
        self.count += 1
        if self.count > 30 + 20:  # all are read once to compare them
            raise KeyboardInterrupt
        return super().image_content(path)


@pytest.mark.parametrize('existed', [False, True])
def test_an_interruption_leaves_nothing(data, tmp_path, existed):
    out = tmp_path / 'deep' / 'out'
    if existed:
        out.mkdir(parents=True)
    form = Interrupted(find(str(data.folder)))
    division = divide(form, SHARES, 0)
    with pytest.raises(KeyboardInterrupt):
        write_division(division, form, str(out), True)
    assert out.exists() == existed and not (existed and list(out.iterdir()))
    form.count = -100
    write_division(division, form, str(out), True)
    assert sorted(file.name for file in out.iterdir()) == ['annotations', 'images']


def test_a_killed_process_does_not_block_the_next(data, tmp_path):
    leftover = tmp_path / 'out' / '.unfinished' / 'images' / 'x.png'
    leftover.parent.mkdir(parents=True)
    leftover.write_text('half')
    assert main(['split', str(data.folder), f'--out={tmp_path / "out"}', '--copy']) == 0
    assert sorted(file.name for file in (tmp_path / 'out').iterdir()) == [
        'annotations',
        'images',
    ]
    assert not (tmp_path / 'out' / 'images' / 'x.png').exists()


def test_images_that_training_could_not_read_are_named_and_left_out(
    data, tmp_path, capsys
):
    images = data.folder / 'images'
    (images / 'video3_frame2.png').unlink()
    cut = images / 'video4_frame0.png'
    cut.write_bytes(cut.read_bytes()[:-200])
    cv2.imwrite(str(images / 'video5_frame0.png'), np.zeros((41, 50, 3), np.uint8))
    out = tmp_path / 'out'
    assert main(['split', str(data.folder), f'--out={out}', '--copy']) == 0
    printed = capsys.readouterr().out
    assert '3 images cannot be used and left out: images/video3_frame2.png' in printed
    assert 'video4_frame0.png (cut off)' in printed
    assert 'video5_frame0.png (not of the annotated size)' in printed
    whole = boxes_by_name(AutoDataset(str(data.folder), 'all', test_mode=True))
    boxes = []
    for split in ('train', 'val'):
        source = AutoDataset(str(out), split, test_mode=True)
        for row in range(len(source.records)):
            source.read_image(source.records[row])
            boxes += source.records[row].boxes.tolist()
    del whole['video3_frame2.png'], whole['video4_frame0.png']
    del whole['video5_frame0.png']
    assert sorted(boxes) == sorted(box for each in whole.values() for box in each[0])


def test_a_set_without_usable_images_objects_or_classes(data, tmp_path, capsys):
    arguments = ['split', str(data.folder), f'--out={tmp_path / "out"}']
    content = dict(data.content)
    data.content['annotations'] = []
    data.write()
    assert main(arguments) == 1
    assert 'none of the 30 images has an object' in capsys.readouterr().err
    data.content['categories'] = []
    data.write()
    assert main(arguments) == 1
    assert 'has no classes, so there is nothing to detect' in capsys.readouterr().err
    data.content = content
    data.write()
    for file in (data.folder / 'images').iterdir():
        file.write_text('no image')
    assert main(arguments) == 1
    assert 'none of its 30 images can be used' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_splits_are_pooled_only_on_request(data, tmp_path, capsys):
    first, second = tmp_path / 'first', tmp_path / 'second'
    assert main(['split', str(data.folder), f'--out={first}']) == 0
    assert 'atss train --data' in capsys.readouterr().out
    assert main(['split', str(first), f'--out={second}']) == 1
    assert 'is divided already: train, val' in capsys.readouterr().err
    assert main(['split', str(first), f'--out={second}', '--join', '--val=0.5']) == 0
    before = AutoDataset(str(data.folder), 'all', test_mode=True)
    after = {}
    for split in ('train', 'val'):
        after |= boxes_by_name(AutoDataset(str(second), split, test_mode=True))
    assert after == boxes_by_name(before)


def test_a_split_is_divided_and_the_others_are_kept(data, tmp_path, capsys):
    first, second = tmp_path / 'first', tmp_path / 'second'
    words = ['split', str(data.folder), f'--out={first}', '--val=0', '--test=0.4']
    assert main(words) == 0
    assert main(['split', str(first), f'--out={second}']) == 1
    assert 'keep the others: --split=train' in capsys.readouterr().err
    words = ['split', str(first), f'--out={second}', '--split=train']
    assert main([*words, '--test=0.1']) == 1
    assert '--split=train: the data set has test already' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, '--join'])
    assert not second.exists()
    assert main([*words, '--val=0.5', '--copy']) == 0
    assert len(list((second / 'images').iterdir())) == 30
    kept = AutoDataset(str(first), 'test', test_mode=True)
    copied = AutoDataset(str(second), 'test', test_mode=True)
    assert copied.records.image_ids.tolist() == kept.records.image_ids.tolist()
    for row in range(len(kept.records)):
        record, copy = kept.records[row], copied.records[row]
        assert copy.boxes.tolist() == record.boxes.tolist()
        assert (copied.read_image(copy) == kept.read_image(record)).all()
    boxes = [record.boxes.tolist() for record in records_of(first, 'train')]
    divided = [*records_of(second, 'train'), *records_of(second, 'val')]
    assert sorted(record.boxes.tolist() for record in divided) == sorted(boxes)


def records_of(folder, split):
    records = AutoDataset(str(folder), split, test_mode=True).records
    return [records[row] for row in range(len(records))]


def test_nothing_is_overwritten(data, tmp_path, capsys):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'note').write_text('mine')
    assert main(['split', str(data.folder), f'--out={tmp_path / "out"}']) == 1
    assert 'the folder is not empty' in capsys.readouterr().err
    assert [file.name for file in (tmp_path / 'out').iterdir()] == ['note']


def test_warnings_name_classes_and_splits_that_go_without(data, tmp_path, capsys):
    data.content['categories'].append({'id': 9, 'name': 'owl'})
    data.content['images'] = data.content['images'][:2]
    data.content['annotations'] = [
        {'id': 1, 'image_id': 5, 'category_id': 9, 'bbox': [1, 1, 9, 9]}
    ]
    data.write()
    out = tmp_path / 'out'
    assert main(['split', str(data.folder), f'--out={out}', '--test=0.2']) == 0
    text = capsys.readouterr().out
    assert 'has no images: there are only 2 groups' in text
    assert 'class owl: none in val and test; 1 image has it in all' in text


def test_bad_input(data, tmp_path, capsys):
    out = f'--out={tmp_path / "out"}'
    assert main(['split', str(data.folder), out, '--group_by=(']) == 1
    assert '--group_by=(:' in capsys.readouterr().err
    assert main(['split', str(data.folder), out, '--group_by=clip']) == 1
    assert 'fits none of the 30 file names' in capsys.readouterr().err
    for flags in (['--val=0'], ['--val=0.6', '--test=0.4'], ['--seed=-1']):
        with pytest.raises(SystemExit):
            main(['split', str(data.folder), out, *flags])
    assert not (tmp_path / 'out').exists()
