"""What a user reads who goes on with a run in another way: what differs, what to do."""

import json
import pathlib
import re
import shlex
import shutil

import jax
import pytest

from atss_jax.training import workdir as workdirs
from tests.support.small_run import tree_of


@pytest.fixture
def run(small_run, small_data, tmp_path):
    """A copy of a finished run and of its data."""
    folder = shutil.copytree(small_run.workdir, tmp_path / 'run')
    shutil.copytree(small_data, tmp_path / 'data')
    config = folder / 'config.json'
    text = config.read_text().replace(str(small_data), str(tmp_path / 'data'))
    config.write_text(text)
    return folder


@pytest.fixture
def resume(call, run):
    """`resume('--config.optimizer.lr=1')` trains again in the run's folder."""

    def again(*flags, workdir=run):
        flags = (f'--config={run / "config.json"}', f'--workdir={workdir}', *flags)
        return call('train', *flags)

    return again


@pytest.mark.parametrize(
    'flag', ['--config.total_epochs=3', '--config.optimizer.lr=0.01']
)
def test_other_fields(run, resume, flag):
    before = tree_of(run)
    result = resume(flag)
    field, value = flag.removeprefix('--config.').split('=')
    result.refuses(
        *(f'{field}: ', f'there, {value} now', 'use another --workdir'),
        f'--config.load_from={run} starts from the weights',
        lines=3,
    )
    assert tree_of(run) == before


def test_other_number_of_images_per_step(run, resume):
    result = resume('--config.data.samples_per_gpu=2')
    assert jax.device_count() == 8
    result.refuses(
        'images per step: 8 there, 16 now', 'data.samples_per_gpu=1 gives 8', lines=3
    )
    stream = json.loads((run / 'stream.json').read_text())
    (run / 'stream.json').write_text(json.dumps(stream | {'global_batch_size': 4}))
    result = resume()
    result.refuses('4 images cannot be divided over 8 device(s)', lines=3)


def change_box(content):
    content['annotations'][0]['bbox'][0] += 1


def remove_image(content):
    last = content['images'].pop()
    content['annotations'] = [
        annotation
        for annotation in content['annotations']
        if annotation['image_id'] != last['id']
    ]


@pytest.mark.parametrize(
    ('change', 'part'),
    [
        (change_box, 'have changed since that run began'),
        (remove_image, 'have changed: 21 images there, 20 now since that run began'),
    ],
)
def test_other_annotations(run, resume, tmp_path, change, part):
    file = tmp_path / 'data' / 'train.json'
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    result = resume()
    result.refuses(f'the annotations of data.train ({file}) ', part, lines=3)
    assert 'train with what it began with' in result.err
    result = resume(f'--config.resume_from={run}', workdir=tmp_path / 'other')
    result.refuses(part, f'set load_from={run} instead', lines=3)
    assert '--workdir' not in result.err
    for word in ('digest', 'global_batch_size', 'records'):
        assert word not in result.err


def test_other_classes(tmp_path):
    workdirs.claim(str(tmp_path), '{}', {'classes': ['a', 'b']})
    with pytest.raises(ValueError, match=r"classes of data\.train: \['a', 'b'\] there"):
        workdirs.check(str(tmp_path), '{}', {'classes': ['b', 'a'], 'records': 5})


def test_another_model(run, call):
    flag = '--config.model.bbox_head.stacked_convs=2'
    result = call('eval', f'--workdir={run}', flag)
    result.refuses('set config.model as in its config.json')


# Files in place of folders, flags of other programs ----------------------------------


def test_weights_as_workdir(call, resume, tmp_path):
    file = tmp_path / 'w.pth'
    file.write_bytes(b'')
    resume(workdir=file).refuses(file, f'--config.load_from={file}')
    for name in ('eval', 'predict', 'export'):
        arguments = [tmp_path / 'data' / 'val'] if name == 'predict' else []
        arguments += [f'--workdir={file}', f'--out={tmp_path / "o.stablehlo"}']
        call('atss', name, *arguments).refuses(file, '--model_config=CONFIG')


def test_a_config_as_workdir(call, small_data, tmp_path):
    file = tmp_path / 'mmdet.py'
    file.touch()
    for name in ('eval', 'predict', 'export'):
        arguments = [small_data / 'val'] if name == 'predict' else []
        arguments += [f'--workdir={file}', f'--out={tmp_path / "o.stablehlo"}']
        result = call('atss', name, *arguments)
        result.refuses(f'{file} is not the workdir of a run', 'atss import-mmdet')


def test_a_config_for_a_workdir(call, run, tmp_path):
    image = next((tmp_path / 'data' / 'val').iterdir())
    flags = f'--workdir={run}', f'--model_config={run / "config.json"}'
    result = call('predict', image, *flags, f'--out={tmp_path / "out"}')
    result.refuses('leave out --model_config', '--config.FIELD=VALUE')


@pytest.mark.parametrize(
    ('name', 'flags', 'part'),
    [
        ('train', ['--resume'], 'resumes by itself'),
        ('train', ['--auto-resume'], 'resumes by itself'),
        ('train', ['--resume-from', 'x'], '--config.resume_from=FOLDER'),
        ('train', ['--load_from=x'], '--config.load_from=FILE'),
        ('train', ['--work-dir', 'x'], 'is --workdir'),
        ('train', ['--cfg-options', 'a.b=1'], '--config.FIELD=VALUE'),
        ('train', ['--amp'], '--config.fp16='),
        ('train', ['--gpus=2'], 'CUDA_VISIBLE_DEVICES'),
        ('train', ['--batch-size', '2'], 'data.samples_per_gpu'),
        ('eval', ['--eval', 'bbox'], 'boxes are scored'),
        ('eval', ['--show-dir=x'], 'atss draw detections'),
    ],
)
def test_flags_of_other_programs(call, name, flags, part):
    known = ['--config=x', '--workdir=y'] if name == 'train' else ['--workdir=y']
    result = call(name, *known, *flags)
    assert result.status == 2
    flag = flags[0].partition('=')[0]
    assert f'error: there is no {flag}; here that is ' in result.err
    assert part in result.err


def test_some_of_the_classes(call, run):
    """The advice of the message is followed word by word."""
    result = call(
        'eval', f'--workdir={run}', "--config.data.val.classes=('red','blue')"
    )
    result.refuses("('red', 'blue')", 'AP of each class is printed in any case')
    assert call('eval', f'--workdir={run}').status == 0
    (file,) = (run / 'evaluation').glob('*_detections.json')
    advice = re.search(r'--results=.*', result.err)[0]
    advice = advice.replace('WORKDIR/evaluation/..._detections.json', str(file))
    result = call('eval', *shlex.split(advice.replace('WORKDIR', str(run))))
    assert result.status == 0 and 'not scored, of other classes' in result.out
    numbers = json.loads(
        pathlib.Path(result.out.rpartition('numbers: ')[2].strip()).read_text()
    )
    assert numbers['AP'] >= -1


def test_other_classes_than_those_of_the_weights(call, run, tmp_path):
    file = tmp_path / 'data' / 'val.json'
    content = json.loads(file.read_text())
    content['categories'].append({'id': 99, 'name': 'more'})
    file.write_text(json.dumps(content))
    result = call('eval', f'--workdir={run}')
    result.refuses("'more'", 'set --config.data.val.classes to those')
    assert 'num_classes' not in result.err
