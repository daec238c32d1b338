"""Bad images counted, and the stream a function of (seed, step) all the same."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from atss_jax.data.bad_images import BadImages
from atss_jax.data.image_file import BadImage
from atss_jax.data.loader import TrainBatches, prefetch
from atss_jax.data.plan import TrainPlan
from tests.conftest import ROOT
from tests.support import image_files as files
from tests.support.bad_folder import BATCH, PIPELINE, Folder, epoch, train_batches


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_each_bad_image_is_warned_of_once_and_counted(folder):
    folder.spoil(b'', 13)
    (folder.images / '15.png').unlink()
    source = folder.load()
    batches = train_batches(source)
    bad = BadImages(source, PIPELINE.max_bad_pictures)
    stop = 4 * batches.plan.steps_per_epoch
    with pytest.warns(UserWarning) as told:
        watched = list(bad.watch(prefetch(batches, 0, stop, workers=0)))
    assert len(watched) == stop
    assert sorted(bad.image_ids) == [13, 15]
    lines = [str(warning.message) for warning in told]
    assert lines[0].startswith('bad image 1 of at most 3, skipped: ')
    assert lines[1].startswith('bad image 2 of at most 3, skipped: ')
    assert len(lines) == 2
    texts = ''.join(lines)
    assert '13.png: not an image' in texts and '15.png: No such file' in texts
    (report,) = bad.report()
    assert 'bad images skipped: 2 (at most 3 allowed)' in report
    assert '13' in report and '15' in report


def test_no_bad_image_is_nothing_to_say(folder, recwarn):
    source = folder.load()
    bad = BadImages(source, 0.001)
    list(bad.watch(prefetch(train_batches(source), 0, 3, workers=0)))
    assert bad.report() == [] and bad.image_ids == []
    assert not recwarn.list


@pytest.mark.parametrize(
    ('share', 'limit'), [(0.001, 1), (0.1, 1), (0.25, 2), (0.3, 3), (1.0, 10)]
)
@pytest.mark.filterwarnings('ignore:bad image')
def test_too_many_bad_images_are_an_error(folder, share, limit):
    """One may always be bad; beyond that the share counts, rounded down."""
    for number in range(10, 10 + min(limit + 1, 9)):
        folder.spoil(b'', number)
    source = folder.load()
    pipeline = dataclasses.replace(PIPELINE, max_bad_pictures=share)
    bad = BadImages(source, share)
    watched = bad.watch(prefetch(train_batches(source, pipeline), 0, 50, workers=0))
    if share == 1:
        assert len(list(watched)) == 50
        return
    with pytest.raises(ValueError) as caught:
        list(watched)
    assert f'{limit + 1} of 10 images cannot be read' in str(caught.value)
    for part in (f'data.max_bad_pictures = {share}', f'allows {limit}', '.png'):
        assert part in str(caught.value)


def test_an_image_that_only_a_worker_could_not_read(folder):
    source = folder.load()
    bad = BadImages(source, 0.5)
    with pytest.warns(UserWarning, match=r'image id 12 .*can be read now'):
        batches = list(bad.watch(b for b in [{'skipped': np.array([-1, 2])}]))
    assert len(batches) == 1  # the run continues


def test_a_canvas_whose_images_are_all_bad(folder):
    for number in range(10, 20):
        folder.spoil(b'', number)
    with pytest.raises(BadImage) as caught:
        train_batches(folder.load())(0)
    for part in ('.png: not an image', 'Of 9 other images', 'none can be read'):
        assert part in str(caught.value)


# The stream stays a function of (seed, step) and the files.

STREAM = """
import sys
import numpy as np
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.loader import prefetch
from tests.support.bad_folder import BATCH, train_batches

def main():
    source = CocoDataset(sys.argv[1], sys.argv[2])
    whole = [train_batches(source)(step) for step in range(9)]
    assert sum((batch['skipped'] >= 0).sum() for batch in whole) > 2

    def check(rows, start, workers):
        build = train_batches(source, rows=rows)
        stream = list(prefetch(build, start, 9, workers))
        assert len(stream) == 9 - start
        for one, other in zip(whole[start:], stream):
            assert set(one) == set(other)
            for name in one:
                assert one[name].dtype == other[name].dtype
                assert np.array_equal(one[name][slice(*rows)], other[name]), name

    half = BATCH // 2
    for rows in [(0, BATCH), (0, half), (half, BATCH)]:
        for start in (0, 5):
            check(rows, start, workers=0)
    # Each process imports for a second or more: not every combination.
    check((0, BATCH), 5, workers=1)
    check((half, BATCH), 0, workers=3)
    print('same')

if __name__ == '__main__':
    main()
"""


def test_stream_with_bad_images_is_the_same_however_it_is_loaded(folder, tmp_path):
    """0, 1 and 3 workers, one host and two, fresh and resumed."""
    for number in (11, 14, 17):
        folder.spoil(b'', number)
    folder.load()
    (tmp_path / 'script.py').write_text(STREAM)
    done = subprocess.run(
        [
            sys.executable,
            str(tmp_path / 'script.py'),
            str(folder.file),
            str(folder.images),
        ],
        cwd=ROOT,
        env={'PYTHONPATH': str(ROOT), 'PATH': '/usr/bin:/bin'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'same\n'


def test_replacements_depend_on_seed_step_and_row(folder):
    folder.spoil(b'', 13)
    source = folder.load()

    def chosen(seed):
        batches = epoch(train_batches(source, seed=seed))
        found = [b['image_id'][b['skipped'] == 3].tolist() for b in batches]
        return [image_id for one in found for image_id in one]

    assert chosen(0) == chosen(0)
    assert len({chosen(seed)[0] for seed in range(20)}) > 4
    plan = train_batches(source).plan
    orders = [
        tuple(plan.substitutes(step, row)[:3]) for step in range(9) for row in range(4)
    ]
    assert len(set(orders)) > 30


def test_replacements_are_of_the_same_canvas(folder):
    """With a portrait image among them: it never stands in for a landscape one."""
    pipeline = dataclasses.replace(PIPELINE, canvases=((64, 64), (96, 64)))
    folder.content['images'][9].update(height=60, width=40)
    folder.spoil(files.png((60, 40), 8, files.GREY, b'\x4d'), 19)
    folder.spoil(b'', 13)
    source = folder.load()
    plan = TrainPlan(np.array([0] * 9 + [1]), pipeline.all_canvases(), BATCH, 0)
    for step in range(2 * plan.steps_per_epoch):
        for row in range(BATCH):
            own = plan.records(step)[row]
            others = plan.substitutes(step, row)
            assert sorted([own, *others]) == ([9] if own == 9 else list(range(9)))
    batches = TrainBatches(source, plan, pipeline, (0, BATCH))
    for batch in epoch(batches):
        assert len(set((batch['image_id'] == 19).tolist())) == 1
