"""What messages say about fields of another type of section."""

import pytest

from atss_jax.config import as_dict, load_config
from atss_jax.config.experiment import read_experiment
from atss_jax.config.fields import Reader
from tests.support.configs import BASE, DCN, DEFORMABLE, RESNEXT, changed, error

SWIN_L = as_dict(load_config('atss_swin_l_dyhead_2x_ms'))['model']
SWIN = {f'model.{name}': SWIN_L[name] for name in ('backbone', 'neck')}
SHAPES = as_dict(load_config('atss_shapes'))['data']['train']
ADAMW = {'type': 'AdamW', 'lr': 1e-4, 'weight_decay': 0.05}
POLY = {
    'policy': 'poly',
    'power': 0.9,
    'min_lr': 0.0,
    'by_epoch': False,
    'warmup': None,
    'warmup_iters': 1,
    'warmup_ratio': 1.0,
}


# A field too many --------------------------------------------------------------------


@pytest.mark.parametrize(
    ('values', 'field', 'owner', 'kind'),
    [
        (SWIN, {'style': 'pytorch'}, "type 'ResNet' or 'ResNeXt'", 'SwinTransformer'),
        (SWIN, {'depth': 50}, "type 'ResNet' or 'ResNeXt'", 'SwinTransformer'),
        (SWIN, {'groups': 32}, "type 'ResNeXt'", 'SwinTransformer'),
        ({}, {'groups': 32}, "type 'ResNeXt'", 'ResNet'),
        ({}, {'with_cp': True}, "type 'SwinTransformer'", 'ResNet'),
        (RESNEXT, {'depths': (2, 2, 6, 2)}, "type 'SwinTransformer'", 'ResNeXt'),
    ],
)
def test_a_field_of_another_backbone(values, field, owner, kind):
    (name, value), path = *field.items(), 'model.backbone'
    message = error({**values, f'{path}.{name}': value})
    assert f"field '{path}.{name}' that nothing reads; it belongs to {owner}" in message
    assert f"but config.{path}.type = '{kind}': remove it, or set the whole" in message
    assert 'did you mean' not in message


@pytest.mark.parametrize('name', ['dcn', 'norm_cfg'])
def test_a_section_of_another_backbone(name):
    section = {'dcn': DCN, 'norm_cfg': {'type': 'BN', 'requires_grad': True}}[name]
    message = error({**SWIN, f'model.backbone.{name}': section})
    assert f"'model.backbone.{name}' belongs to type 'ResNet' or 'ResNeXt'" in message


@pytest.mark.parametrize(
    ('path', 'value', 'belongs', 'decides'),
    [
        (
            'optimizer.betas',
            (0.9, 0.99),
            "type 'AdamW' or 'LAMB'",
            "optimizer.type = 'SGD'",
        ),
        ('lr_config.power', 0.9, "policy 'poly'", "lr_config.policy = 'step'"),
        ('lr_config.begin', 1, "policy 'poly'", "lr_config.policy = 'step'"),
        (
            'data.val.num_images',
            5,
            "type 'ShapesDataset'",
            "data.val.type = 'CocoDataset'",
        ),
        (
            'model.backbone.norm_cfg.num_groups',
            32,
            "type 'GN'",
            "model.backbone.norm_cfg.type = 'BN'",
        ),
    ],
)
def test_other_sections_that_have_types(path, value, belongs, decides):
    message = error({path: value})
    assert f'it belongs to {belongs}, but config.{decides}: remove it' in message


def test_a_change_of_type_by_its_field_alone():
    """The section still has the fields of the old type."""
    message = error({'optimizer.type': 'AdamW'})
    assert (
        "'optimizer.momentum' that nothing reads; it belongs to type 'SGD'" in message
    )
    assert '''with --config.optimizer="{'type': 'AdamW', ...}"''' in message


def test_a_field_of_another_section():
    """Training's own fields belong to no other type of data."""
    assert "did you mean 'data.train.min_size'?" in error({'data.val.min_size': 1})


def test_a_companion_without_its_section():
    message = error({'model.backbone.stage_with_dcn': (False, True, True, True)})
    assert "it goes with a section 'model.backbone.dcn'" in message


def test_a_misspelled_field_of_this_type():
    message = error({**SWIN, 'model.backbone.windw_size': 7})
    assert message.endswith("did you mean 'model.backbone.window_size'?")
    assert error({'optimizer.nesterov': True}).endswith('that nothing reads')


# A field too few ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ('path', 'value', 'missing'),
    [
        ('model.backbone.type', 'SwinTransformer', 'model.backbone.'),
        ('lr_config.policy', 'poly', 'lr_config.power'),
        ('data.train.type', 'ShapesDataset', 'data.train.num_images'),
    ],
)
def test_what_another_type_needs(path, value, missing):
    """No field of the old type is taken for a misspelled one: depths is not depth."""
    message = error({path: value})
    section, _, name = path.rpartition('.')
    assert f"no field '{missing}" in message and 'misspelled' not in message
    assert f'depend on config.{path} = {value!r}: to change it, set the' in message
    assert f'''--config.{section}="{{'{name}': {value!r}, ...}}"''' in message


def test_a_misspelled_field_is_not_blamed_on_the_type():
    backbone = dict(SWIN['model.backbone'])
    backbone['windowsize'] = backbone.pop('window_size')
    message = error({**SWIN, 'model.backbone': backbone})
    assert message.endswith("is it misspelled as 'model.backbone.windowsize'?")


# The fields of each type are those that are read --------------------------------------


@pytest.mark.parametrize(
    ('path', 'first', 'second'),
    [
        ('model.backbone.type', DEFORMABLE, SWIN),
        ('model.backbone.type', {**DEFORMABLE, **RESNEXT}, SWIN),
        ('optimizer.type', {}, {'optimizer': ADAMW | {'betas': (0, 0), 'eps': 1}}),
        ('lr_config.policy', {}, {'lr_config': POLY | {'begin': 0, 'end': 2}}),
        ('data.train.type', {}, {'data.train': SHAPES}),
    ],
)
def test_the_lists_of_fields_are_complete(path, first, second):
    section = path.rpartition('.')[0]

    def read_and_listed(values):
        read = Reader(changed(values))
        read_experiment(read)
        names = {
            field.removeprefix(f'{section}.').partition('.')[0]
            for field in read.checks
            if field.startswith(f'{section}.')
        }
        return names, set(read.kinds[path][read.leaves[path]])

    (read, listed), (other_read, other_listed) = map(read_and_listed, (first, second))
    assert read - other_read == listed - other_listed
    assert other_read - read == other_listed - listed


def test_every_field_with_types_is_known():
    read = Reader(BASE)
    read_experiment(read)
    assert set(read.kinds) == {
        'model.backbone.type',
        'model.backbone.norm_cfg.type',
        'model.bbox_head.norm_cfg.type',
        'optimizer.type',
        'lr_config.policy',
        'test_cfg.nms.type',
        *(f'data.{split}.type' for split in ('train', 'val', 'test')),
    }
