"""`atss doctor`: from a workdir to a page, and from accepted rows to a COCO file."""

import json
import re
import shutil

import numpy as np
import pytest

from atss_jax.commands import doctor
from atss_jax.config.data import SetConfig
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.to_coco import image_paths
from atss_jax.review.corrections import correction_of, digest
from atss_jax.review.examine import Examination
from atss_jax.review.reviewed import review_images
from tests.support.doctor_data import no_detections, some_suggestions
from tests.support.every_form import WRITERS


def data_of(page):
    """What the page would save, as the page has it."""
    text = page.read_text()
    found = re.search(r'<script type="application/json" id="corrections">(.*?)</', text)
    return json.loads(found[1])


def save(page, path, rows=None):
    """Writes what the page saves if these rows are accepted; None: all of them."""
    data = data_of(page)
    accepted = data['rows'] if rows is None else [data['rows'][row] for row in rows]
    path.write_text(f'{data["head"]}[\n{",".join(accepted)}\n]}}\n')
    return json.loads(path.read_text())


@pytest.fixture(scope='module')
def run(small_run, tmp_path_factory):
    """A copy of the workdir of a finished run."""
    workdir = tmp_path_factory.mktemp('doctor') / 'W'
    shutil.copytree(small_run.workdir, workdir)
    return workdir


@pytest.mark.long
def test_from_a_workdir_to_corrected_annotations(call, run, small_data, tmp_path):
    before = (small_data / 'train.json').read_bytes()
    result = call('atss', 'doctor', f'--workdir={run}', '--count=9')
    assert result.status == 0, result.err
    (page,) = (run / 'doctor').iterdir()
    assert page.name.startswith('train_') and f'page: {page}' in result.out
    assert f'annotations: {small_data / "train.json"}' in result.out
    assert page.read_text().count('<figure') == 9
    corrections, out = tmp_path / 'c.json', tmp_path / 'corrected.json'
    rows = save(page, corrections)['corrections']
    result = call('atss', 'doctor', f'--apply={corrections}', f'--out={out}')
    assert result.status == 0, result.err
    assert f'wrote {out}: 9 corrections of' in result.out
    assert (small_data / 'train.json').read_bytes() == before
    source = CocoDataset(str(out), str(small_data / 'train'))
    count = len(json.loads(before)['annotations'])
    kinds = [row['kind'] for row in rows]
    expected = count + kinds.count('missing') - kinds.count('twice')
    assert len(source.ground_truth()['annotations']) == expected
    result = call('atss', 'doctor', f'--apply={corrections}', f'--out={out}')
    assert result.status == 1 and 'exists already' in result.err


@pytest.mark.parametrize('form', WRITERS)
def test_annotations_of_every_form(small_data, tmp_path, call, form, capsys):
    """The corrected file has the images of the data, whatever their form."""
    pytest.importorskip('pyarrow') if form == 'Parquet' else None
    folder = tmp_path / 'data'
    WRITERS[form](small_data, folder)
    arguments = {'path': str(folder), 'split': 'train', 'on_error': 'raise'}
    data = SetConfig('data.train', AutoDataset, arguments | {'test_mode': True})
    source = data.open()
    truth = source.ground_truth()
    detections = no_detections(source.records)
    images = review_images(truth, detections, source.category_ids)
    page = tmp_path / 'pages' / 'train.html'
    suggestions = some_suggestions(truth)
    doctor.write_page(page, Examination(data, source, images, 3, []), suggestions)
    corrections, out = tmp_path / 'c.json', tmp_path / 'corrected.json'
    saved = save(page, corrections, rows=[0, 1, 2])
    is_coco = form in ('COCO', 'Roboflow')
    assert str(folder) in saved['ann_file'] if is_coco else 'pages' in saved['ann_file']
    assert saved['sha256'] == digest(saved['ann_file'])
    assert saved['corrections'] == [
        json.loads(json.dumps(correction_of(each, source.category_ids)))
        for each in suggestions[:3]
    ]
    result = call('atss', 'doctor', f'--apply={corrections}', f'--out={out}')
    assert result.status == 0, result.err
    content = json.loads(out.read_text())
    assert len(content['annotations']) == len(truth['annotations']) + 1
    assert content['annotations'][0]['category_id'] == source.category_ids[1]
    names = [image['file_name'] for image in content['images']]
    if not is_coco:
        table = source.form.read('train', training=False)
        assert names == table.file_names
        assert len(image_paths(source.form, table)) == len(names)
    reread = CocoDataset(str(out), str(folder), test_mode=True)
    np.testing.assert_array_equal(reread.records.image_ids, source.records.image_ids)


@pytest.mark.parametrize(
    ('flags', 'part'),
    [
        ((), '--workdir, --model or --apply is required'),
        (('--apply=x',), '--apply needs --out'),
        (('--apply=x', '--out=y', '--split=val'), '--split does not go with --apply'),
        (('--apply=x', '--out=y', '--config.a=1'), 'unrecognized arguments'),
        (('--workdir=x', '--count=0'), 'expected 1 or more'),
        (('--workdir=x', '--split=all'), 'invalid choice'),
    ],
)
def test_wrong_flags(call, flags, part):
    result = call('atss', 'doctor', *flags)
    assert result.status == 2 and part in result.err


def test_no_run_and_no_corrections(call, tmp_path):
    result = call('atss', 'doctor', f'--workdir={tmp_path / "none"}')
    assert result.status == 1 and 'is not the workdir of a run' in result.err
    flags = f'--apply={tmp_path / "none.json"}', f'--out={tmp_path / "out.json"}'
    result = call('atss', 'doctor', *flags)
    assert result.status == 1 and 'no such file of corrections' in result.err
