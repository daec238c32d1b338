"""Batches of data sets of other forms, from worker processes too."""

import pytest

from tests.support import forms
from tests.support.batches import run_script
from tests.support.forms import IMAGE

BOXES = ([1, 2, 30, 25], [20, 10, 40, 30], [5, 5, 60, 40])


def write_yolo(folder):
    lines = [forms.yolo_line(k, box, (50, 80)) for k, box in enumerate(BOXES)]
    for number in range(9):
        name = f'{number}.png'
        text = '\n'.join(lines[: number % 4])
        forms.write_files(folder / 'images', {name: IMAGE})
        forms.write_files(folder / 'labels', {f'{number}.txt': text})
    forms.write_files(folder, {'data.yaml': 'train: images\nnames: [a, b, c]\n'})


def write_voc(folder):
    objects = [forms.voc_object(n, b) for n, b in zip('abc', BOXES, strict=True)]
    for number in range(9):
        text = forms.voc_file('', (50, 80), objects[: number % 4])
        forms.write_files(
            folder / 'train', {f'{number}.png': IMAGE, f'{number}.xml': text}
        )


@pytest.mark.long
@pytest.mark.parametrize('write', [write_yolo, write_voc])
def test_workers_change_nothing(tmp_path, write):
    write(tmp_path / 'set')
    body = f"""
    from atss_jax.data.forms.dataset import AutoDataset
    from tests.support.batches import assert_same, train_batches
    source = AutoDataset({str(tmp_path / 'set')!r}, 'train')
    batches = train_batches(source)
    for workers in (0, 2):
        for step, batch in enumerate(prefetch(batches, 0, 5, workers)):
            assert_same(batch, batches(step))
        assert step == 4
    print(len(source.records), sum(batch['gt_valid'].any(1)))
"""
    assert run_script(body, tmp_path).stdout == '6 4\n'


@pytest.mark.long
def test_workers_change_nothing_in_joined_sets_of_unlike_forms(tmp_path):
    write_yolo(tmp_path / 'yolo')
    write_voc(tmp_path / 'voc')
    body = f"""
    from atss_jax.data.forms.dataset import AutoDataset
    from atss_jax.data.joined import JoinedDataset, Member
    from tests.support.batches import assert_same, train_batches
    folder = {str(tmp_path)!r}
    members = [
        Member(form, AutoDataset(f'{{folder}}/{{form}}', 'train'), times)
        for form, times in (('yolo', 1), ('voc', 2))
    ]
    source = JoinedDataset(members)
    batches = train_batches(source)
    for workers in (0, 2):
        for step, batch in enumerate(prefetch(batches, 0, 6, workers)):
            assert_same(batch, batches(step))
        assert step == 5
    forms = ' '.join(source.records.file_names)
    print(len(source.records), forms.count('yolo/'), forms.count('voc/'))
"""
    assert run_script(body, tmp_path).stdout == '12 6 6\n'
