"""Data sets that mmdet repeats, joins or balances, in terms of our fields."""

import copy
import json

import pytest

from atss_jax.commands.import_mmdet import label_order, read_config
from atss_jax.config import build_experiment
from atss_jax.data.joined import JoinedDataset
from atss_jax.mmdet_config import source
from atss_jax.mmdet_config.translate import translate
from tests.mmdet_config.test_translate import OWN, changed

V3 = 'train_dataloader.dataset'


def v3_set(**fields):
    """The training data of the 3.x config, with other fields."""
    return source.read(OWN / 'v3_r50.py')['train_dataloader']['dataset'] | fields


def v2_set(**fields):
    return source.read(OWN / 'v2_r50.py')['data']['train'] | fields


def repeated(dataset, times):
    return {'type': 'RepeatDataset', 'times': times, 'dataset': dataset}


def balanced(dataset, threshold=0.01, **fields):
    kind = 'ClassBalancedDataset'
    return {'type': kind, 'oversample_thr': threshold, 'dataset': dataset, **fields}


def joined(*datasets, **fields):
    return {'type': 'ConcatDataset', 'datasets': list(datasets), **fields}


def fields_of(dataset, style='v3'):
    path = V3 if style == 'v3' else 'data.train'
    return translate(changed(f'{style}_r50', path, dataset)).fields


def refusal(dataset, style='v3'):
    with pytest.raises(ValueError) as caught:
        fields_of(dataset, style)
    return str(caught.value)


PLAIN = fields_of(v3_set())


@pytest.mark.parametrize('style', ['v2', 'v3'])
def test_balanced(style):
    dataset = v3_set() if style == 'v3' else v2_set()
    fields = fields_of(balanced(dataset), style)
    assert fields.pop('data.train.oversample_thr') == 0.01
    assert fields == fields_of(dataset, style)


def test_wrappers_in_wrappers():
    for dataset in (
        repeated(balanced(repeated(v3_set(), 2)), 3),
        balanced(repeated(repeated(v3_set(), 3), 2)),
    ):
        fields = fields_of(dataset)
        assert fields.pop('data.train.oversample_thr') == 0.01
        assert fields.pop('data.train.times') == 6
        assert fields == PLAIN
    assert fields_of(repeated(v3_set(), 1)) == PLAIN


def test_joined_sets_of_3x():
    other = v3_set(ann_file='more.json', filter_cfg={'filter_empty_gt': False})
    dataset = balanced(repeated(joined(v3_set(), repeated(other, 5)), 2))
    fields = fields_of(dataset)
    assert fields['data.train.type'] == 'ConcatDataset'
    assert fields['data.train.times'] == 2
    assert fields['data.train.oversample_thr'] == 0.01
    assert fields['data.train.classes'] is None
    first, second = fields['data.train.datasets']
    assert first['type'] == 'CocoDataset' and 'times' not in first
    assert first['ann_file'] == PLAIN['data.train.ann_file']
    assert first['filter_empty_gt'] is True and first['min_size'] == 32
    assert second['ann_file'].endswith('more.json') and second['times'] == 5
    assert second['filter_empty_gt'] is False and second['min_size'] == 0
    steps = {path: x for path, x in PLAIN.items() if 'train.pipeline' in path}
    assert steps and steps.items() <= fields.items()


def write(folder, values):
    """A config file with these values."""
    lines = [f'{name} = {value!r}' for name, value in values.items()]
    (folder / 'config.py').write_text('\n'.join(lines) + '\n')
    return folder / 'config.py'


def test_a_whole_config_of_joined_sets(tmp_path):
    names = {'metainfo': {'classes': ['a', 'b']}}
    datasets = [v3_set(ann_file=f'{k}.json', **names) for k in range(3)]
    values = changed('v3_r50', V3, balanced(joined(*datasets)))
    values['model']['bbox_head']['num_classes'] = 2
    config, _ = read_config(write(tmp_path, values))
    experiment = build_experiment(config)
    assert experiment.oversample_thr == 0.01
    train = experiment.data['train']
    assert train.source is JoinedDataset and len(train.arguments['members']) == 3
    assert train.arguments['classes'] == ('a', 'b')
    assert config.data.val.type == 'CocoDataset'
    assert label_order(config, None) == ('a', 'b')


def test_labels_follow_the_first_file(tmp_path):
    categories = [{'id': k, 'name': name} for k, name in enumerate('bca')]
    content = {'images': [], 'annotations': [], 'categories': categories}
    (tmp_path / 'first.json').write_text(json.dumps(content))
    dataset = {'ann_file': [str(tmp_path / 'first.json'), 'x'], 'img_prefix': 'y'}
    for values in (
        changed('v2_r50', 'data.train', v2_set(**dataset, classes=['a', 'b'])),
        changed(
            'v2_r50',
            'data.train',
            [
                v2_set(ann_file=file, img_prefix='y', classes=['a', 'b'])
                for file in dataset['ann_file']
            ],
        ),
    ):
        values['model']['bbox_head']['num_classes'] = 2
        config, _ = read_config(write(tmp_path, values))
        assert label_order(config, None) == ('b', 'a')


def test_lists_of_files_of_2x():
    dataset = v2_set(ann_file=['a.json', 'b.json'], img_prefix=['a/', 'b/'])
    dataset['data_root'] = 'root'
    fields = fields_of(dataset, 'v2')
    assert fields['data.train.ann_file'] == ('root/a.json', 'root/b.json')
    assert fields['data.train.img_prefix'] == ('root/a/', 'root/b/')
    dataset['img_prefix'] = 'all/'
    assert fields_of(dataset, 'v2')['data.train.img_prefix'] == 'root/all/'


def test_a_list_of_sets_of_2x():
    sets = [v2_set(), repeated(v2_set(ann_file='b.json'), 2)]
    fields = fields_of(sets, 'v2')
    assert fields == fields_of(joined(*sets, separate_eval=True), 'v2')
    assert fields['data.train.type'] == 'ConcatDataset'
    first, second = fields['data.train.datasets']
    assert second == first | {'ann_file': second['ann_file'], 'times': 2}


def test_joined_sets_of_an_evaluation():
    values = source.read(OWN / 'v3_r50.py')
    val = values['val_dataloader']['dataset']
    values['val_dataloader']['dataset'] = joined(val, copy.deepcopy(val))
    with pytest.raises(ValueError, match=r'val_evaluator.*ann_file'):
        translate(values)
    del values['val_evaluator']['ann_file']
    fields = translate(values).fields
    assert len(fields['data.val.datasets']) == 2
    assert 'filter_empty_gt' not in fields['data.val.datasets'][0]


def test_what_has_no_equivalent():
    message = refusal(joined(v3_set(), balanced(v3_set())))
    assert 'ClassBalancedDataset' in message and 'around the ConcatDataset' in message
    message = refusal(joined(v3_set(), joined(v3_set())))
    assert "'ConcatDataset'" in message and 'CocoDataset' in message
    assert 'once' in refusal(balanced(balanced(v3_set())))
    other = v3_set()
    other['pipeline'] = [*other['pipeline'][:3], other['pipeline'][-1]]  # no flip
    message = refusal(joined(v3_set(), other))
    assert f'{V3}.datasets[1].pipeline differs' in message and 'one pipeline' in message
    other = v3_set(metainfo={'classes': ['a']})
    assert 'other classes' in refusal(joined(v3_set(), other))
    assert 'filter_empty_gt' in refusal(balanced(v2_set(), filter_empty_gt=False), 'v2')
    assert 'oversample_thr' in refusal(balanced(v3_set(), 'x'))
    assert 'one file' in refusal([v2_set(ann_file=['a', 'b']), v2_set()], 'v2')
    assert 'ann_file' in refusal(v2_set(ann_file=[]), 'v2')
    assert 'ignore_keys' in refusal(joined(v3_set(), ignore_keys=['classes']))
    assert 'no data set in data.train' in refusal(joined())
    assert 'no data set in data.train' in refusal([], 'v2')
