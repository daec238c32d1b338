"""`atss doctor`: from a workdir to a page, and from what it saves to a COCO file."""

import html
import json
import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest

from atss_jax.commands import doctor
from atss_jax.config.data import SetConfig
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.to_coco import image_paths
from atss_jax.evaluation.evaluated_image import evaluated_images
from atss_jax.review.corrections import Edit, apply, carry_out, corrections_of, digest
from atss_jax.review.examine import Examination
from tests.support.doctor_data import no_detections, some_suggestions
from tests.support.every_form import WRITERS


def element(page, id_):
    """The text of an element that the page's script reads."""
    pattern = f'<script type="[a-z/]+" id="{id_}">(.*?)</'
    return re.search(pattern, page.read_text(), re.DOTALL)[1]


def save(page, path, numbers=None):
    """Writes what the page saves if these suggestions are accepted; None: all."""
    edits = [Edit(**each) for each in json.loads(element(page, 'edits'))['edits']]
    accepted = edits if numbers is None else [edits[number] for number in numbers]
    head, *lines = element(page, 'lines').split('\n')
    path.write_text(f'{head}\n{",".join(carry_out(lines, accepted))}\n]}}\n')
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
    out = tmp_path / 'corrected.json'
    save(page, out)
    assert (small_data / 'train.json').read_bytes() == before
    source = CocoDataset(str(out), str(small_data / 'train'))
    count = len(json.loads(before)['annotations'])
    kinds = re.findall(r'class="suspect" data-kind="([a-z]+)"', page.read_text())
    expected = count + kinds.count('missing') - kinds.count('twice')
    assert len(source.ground_truth()['annotations']) == expected


def examined(folder, **arguments):
    """The split train of a data set, with some suggestions."""
    data = SetConfig(
        'data.train',
        AutoDataset,
        {
            'path': str(folder),
            'split': 'train',
            'on_error': 'raise',
            'test_mode': True,
            **arguments,
        },
    )
    source = data.open()
    truth = source.ground_truth()
    detections = no_detections(source.records)
    images = evaluated_images(truth, detections, source.category_ids)
    return Examination(data, source, images, 3, []), some_suggestions(truth)


def test_a_large_file_of_annotations(small_data, tmp_path, call):
    """It is not in the page, which saves what the command on it applies."""
    folder, page = tmp_path / 'data', tmp_path / 'my page.html'
    shutil.copytree(small_data, folder)
    content = json.loads((folder / 'train.json').read_text())
    content['info'] = {'note': 'x' * doctor.LARGEST_EMBEDDED}
    (folder / 'train.json').write_text(json.dumps(content))
    examination, suggestions = examined(folder)
    doctor.write_page(page, examination, suggestions)
    assert page.stat().st_size < doctor.LARGEST_EMBEDDED
    command = re.search('annotations: <code>(.*?)</code>', page.read_text())[1]
    words = shlex.split(html.unescape(command))[-2:]
    assert words == ['--apply=my page_corrections.json', '--out=corrected.json']
    corrections, out = tmp_path / 'my page_corrections.json', tmp_path / 'out.json'
    saved = save(page, corrections, numbers=[0, 2])
    assert saved['ann_file'] == str(folder / 'train.json')
    assert saved['sha256'] == digest(saved['ann_file'])
    flags = f'--apply={corrections}', f'--out={out}'
    result = call('atss', 'doctor', *flags)
    assert result.status == 0, result.err
    assert f'wrote {out}: 2 corrections of' in result.out
    rows = corrections_of(
        suggestions, examination.source.category_ids, content['annotations']
    )
    assert json.loads(out.read_text()) == apply(content, [rows[0], rows[2]])
    result = call('atss', 'doctor', *flags)
    assert result.status == 1 and 'exists already' in result.err


@pytest.mark.parametrize('id_', [1, None])
def test_annotations_without_ids_of_their_own(small_data, tmp_path, id_):
    folder = tmp_path / 'data'
    shutil.copytree(small_data, folder)
    content = json.loads((folder / 'train.json').read_text())
    content['annotations'][7]['id'] = id_
    (folder / 'train.json').write_text(json.dumps(content))
    with pytest.warns(UserWarning, match='left out'):
        examination, _ = examined(folder, on_error='skip')
    with pytest.raises(ValueError, match=r'train.json: annotations\[7\] has .* id'):
        doctor.write_page(tmp_path / 'page.html', examination, [])
    assert not (tmp_path / 'page.html').exists()


@pytest.mark.parametrize('form', WRITERS)
def test_annotations_of_every_form(small_data, tmp_path, form, capsys):
    """The corrected file has the images of the data, whatever their form."""
    pytest.importorskip('pyarrow') if form == 'Parquet' else None
    folder = tmp_path / 'data'
    WRITERS[form](small_data, folder)
    examination, suggestions = examined(folder)
    source = examination.source
    page, out = tmp_path / 'pages' / 'train.html', tmp_path / 'corrected.json'
    doctor.write_page(page, examination, suggestions)
    content = save(page, out, numbers=[0, 1, 2])
    is_coco = form in ('COCO', 'Roboflow')
    ann_file = re.search('annotations: (.*)', capsys.readouterr().out)[1]
    assert str(folder if is_coco else page.parent) in ann_file
    before = json.loads(pathlib.Path(ann_file).read_text())
    rows = corrections_of(suggestions, source.category_ids, before['annotations'])
    assert content == apply(before, rows[:3])
    assert len(content['annotations']) == len(before['annotations']) + 1
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
        (('--workdir=x', '--data=y'), 'here that is --config.data.train.path=FOLDER'),
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
