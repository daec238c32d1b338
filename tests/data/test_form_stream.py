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
