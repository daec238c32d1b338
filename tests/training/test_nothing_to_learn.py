"""Data and weights that nothing can be learned from: an error or a warning says so."""

import json
import shutil

import numpy as np
import pytest

from atss_jax.config import build_model, to_json
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.weights import mmdet, mmdet_checkpoint
from tests.support.small import random_variables
from tests.support.small_run import CLASSES, first_state, small_config
from tests.training.test_finetune import write_workdir


class Data:
    """A copy of the small data set, whose training annotations tests change."""

    def __init__(self, source, folder, call):
        self.folder, self._call = shutil.copytree(source, folder), call
        self.file = self.folder / 'train.json'
        self.content = json.loads(self.file.read_text())

    def change(self, count=None, **fields):
        """Sets fields of the first `count` annotations, or of all."""
        for annotation in self.content['annotations'][:count]:
            annotation.update(fields)
        self.write()

    def write(self):
        self.file.write_text(json.dumps(self.content))

    def train(self, *flags):
        return self._call(
            'train',
            '--config=atss_r50_1x',
            f'--workdir={self.folder / "workdir"}',
            '--config.model.bbox_head.num_classes=3',
            *(
                f'--config.data.{section}.{field}={self.folder / name}{end}'
                for section, name in (('train', 'train'), ('val', 'val'))
                for field, end in (('ann_file', '.json'), ('img_prefix', ''))
            ),
            *flags,
        )

    def load(self):
        return CocoDataset(str(self.file), str(self.folder / 'train'))


@pytest.fixture
def data(small_data, tmp_path, call):
    return Data(small_data, tmp_path / 'data', call)


@pytest.mark.filterwarnings('ignore:.*not trained on, as in mmdet')
@pytest.mark.parametrize(
    ('fields', 'reason'),
    [
        ({'iscrowd': 1}, 'with iscrowd: 1'),
        ({'area': 0}, 'area not above 0'),
        ({'ignore': 1}, 'with ignore set'),
        ({'bbox': [500, 500, 9, 9]}, 'bbox outside the image'),
        ({'bbox': [0.1, 0.1, 0.2, 0.2]}, 'bbox narrower or lower than 1 pixel'),
    ],
)
def test_no_object_to_learn(data, fields, reason):
    data.change(**fields)
    number = len(data.content['annotations'])
    assert data.train().refuses('has an object to learn', f'{number} {reason}')
    assert not (data.folder / 'workdir' / 'checkpoints').exists()


def test_reasons_are_counted_apart(data):
    data.change(iscrowd=1)
    data.change(5, area=0)
    number = len(data.content['annotations'])
    with pytest.warns(UserWarning, match='5 of .* area not above 0'):
        result = data.train()
    assert result.refuses('5 area not above 0; ', f'{number - 5} with iscrowd: 1')


def test_only_background_on_purpose_is_nothing_to_learn_either(data):
    data.content['annotations'] = []
    data.write()
    result = data.train('--config.data.train.filter_empty_gt=False')
    assert result.refuses('has an object to learn', 'there are none')


def test_images_that_are_all_too_small(data):
    images = len(data.content['images'])
    result = data.train('--config.data.train.min_size=900')
    assert result.refuses(f'none of its {images} images', f'{images} are smaller than')


def test_a_large_share_of_crowds(data):
    total = len(data.content['annotations'])
    data.change(total // 2, iscrowd=1)
    with pytest.warns(
        UserWarning, match=f'{total // 2} of {total} annotations'
    ) as told:
        assert len(data.load().records)
    assert 'with iscrowd: 1' in str(told[0].message)


def test_usual_data_give_no_warning(data, recwarn):
    data.load()
    assert not recwarn.list


def test_boxes_given_as_corners(data):
    for annotation in data.content['annotations']:
        x, y, width, height = annotation['bbox']
        annotation['bbox'] = [x, y, x + width, y + height]
    data.write()
    with pytest.warns(UserWarning, match='Are they x1, y1, x2, y2'):
        data.load()


def test_boxes_relative_to_the_image(data):
    data.change(bbox=[0.25, 0.5, 0.1, 0.3])
    with pytest.warns(UserWarning) as told:
        data.load()
    assert any('relative to the size' in str(line.message) for line in told)


def test_a_warm_up_longer_than_the_run(small_data, tmp_path, capsys):
    config = small_config(small_data, {'lr_config.warmup_iters': 9999})
    first_state(config, tmp_path / 'w')
    warned = capsys.readouterr().err
    assert 'lr_config.warmup_iters = 9999, but the run has only 6 steps' in warned
    first_state(small_config(small_data), tmp_path / 'v')
    assert 'warmup_iters' not in capsys.readouterr().err


# Weights ------------------------------------------------------------------------------

BIAS = 'bbox_head.atss_reg.bias'


@pytest.fixture
def config(small_data, tmp_path):
    config = small_config(small_data)
    (tmp_path / 'config.json').write_text(to_json(config))
    return config


@pytest.fixture
def broken(config):
    """The model, and variables of which one is NaN."""
    model = build_model(config)
    weights = mmdet.to_state_dict(random_variables(model))
    weights[BIAS] = np.array([0, np.nan, 0, 0], np.float32)
    return model, weights


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_file_of_weights_that_holds_nan(
    broken, config, small_data, tmp_path, call, suffix
):
    path = tmp_path / f'x{suffix}'
    mmdet_checkpoint.save(path, mmdet_checkpoint.Checkpoint(broken[1], classes=CLASSES))
    parts = str(path), f'1 of 4 numbers of {BIAS} are NaN'
    file = f'--config={tmp_path / "config.json"}'
    out = f'--out={tmp_path / "out"}'
    assert call(
        'predict',
        small_data / 'val',
        f'--workdir={path}',
        f'--model_config={tmp_path / "config.json"}',
        out,
    ).refuses(*parts)
    result = call(
        'train', file, f'--workdir={tmp_path / "w"}', f'--config.load_from={path}'
    )
    assert result.status == 1 and 'Traceback' not in result.err
    assert all(part in result.err for part in parts)


def test_a_workdir_that_holds_nan(broken, config, small_data, tmp_path, call):
    model, weights = broken
    variables = mmdet.to_variables(weights, model)
    workdir = tmp_path / 'run'
    write_workdir(workdir, variables, model, CLASSES)
    shutil.copy(tmp_path / 'config.json', workdir)
    parts = 'checkpoint', 'bbox_head/atss_reg/bias', '1 of 4', 'NaN'
    assert call('eval', f'--workdir={workdir}').refuses(*parts)
    flags = f'--workdir={workdir}', f'--out={tmp_path / "out"}'
    assert call('predict', small_data / 'val', *flags).refuses(*parts)
