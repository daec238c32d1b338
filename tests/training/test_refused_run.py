"""A run that is refused before its first step leaves no workdir behind."""

import pytest

from atss_jax.config import as_dict, load_config, to_json
from atss_jax.training import workdir as workdirs
from tests.support.small_run import small_config, train, tree_of, write_coco

MISSING = {'model.pretrained': 'missing.pth'}


def test_a_new_workdir_and_the_folders_around_it_are_removed(small_data, tmp_path):
    with pytest.raises(OSError, match=r'missing\.pth'):
        train(small_config(small_data, MISSING), str(tmp_path / 'a' / 'b'))
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_stays(small_data, tmp_path):
    with pytest.raises(OSError, match=r'missing\.pth'):
        train(small_config(small_data, MISSING), str(tmp_path))
    assert tmp_path.is_dir() and not list(tmp_path.iterdir())


def test_a_command_and_its_compiled_programs(call, small_data, tmp_path):
    config = tmp_path / 'config.json'
    config.write_text(to_json(small_config(small_data)))
    result = call(
        'train',
        f'--config={config}',
        f'--workdir={tmp_path / "w"}',
        '--profile=500:600',
    )
    assert result.refuses('--profile=500:600')
    assert [path.name for path in tmp_path.iterdir()] == ['config.json']


def test_the_first_batch_is_part_of_it(tmp_path):
    """Config and log are written by then, and the step is compiled."""
    # As many images as other runs have: the same steps, and so the same program.
    for seed, (split, count) in enumerate((('train', 21), ('val', 9))):
        write_coco(tmp_path / 'data', split, count, seed)
    for image in (tmp_path / 'data' / 'train').iterdir():
        image.write_bytes(b'')
    with pytest.raises(ValueError, match='none can be read'):
        train(small_config(tmp_path / 'data'), str(tmp_path / 'w'))
    assert not (tmp_path / 'w').exists()


# Which weights were refused, and what is accepted -------------------------------------

SWIN = {
    **as_dict(load_config('atss_swin_l_dyhead_2x_ms'))['model']['backbone'],
    'embed_dims': 8,
    'depths': (1, 1),
    'num_heads': (1, 1),
    'out_indices': (1,),
}
SWIN_FIELDS = {
    'model.backbone': SWIN,
    'model.neck.in_channels': (16,),
    'model.neck.start_level': 0,
    'model.bbox_head.anchor_generator.strides': (8, 16),
}
CHECKPOINT = {'type': 'Pretrained', 'checkpoint': 'missing.pth'}


@pytest.mark.parametrize(
    ('overrides', 'field'),
    [
        (SWIN_FIELDS | MISSING, 'model.pretrained'),
        (
            SWIN_FIELDS | {'model.backbone.init_cfg': CHECKPOINT},
            'model.backbone.init_cfg.checkpoint',
        ),
    ],
)
def test_weights_of_a_swin_transformer(overrides, field, small_data, tmp_path):
    """Names like torchvision://resnet50 are of ResNets, so none is offered."""
    expected = (
        rf'^config\.{field}: missing\.pth: no such file; expected the path or https:// '
        r'address of a \.pth or \.safetensors file$'
    )
    with pytest.raises(FileNotFoundError, match=expected):
        train(small_config(small_data, overrides), str(tmp_path / 'w'))
    overrides = {**SWIN_FIELDS, 'model.pretrained': 'torchvision://resnet50'}
    with pytest.raises(ValueError, match=r"named 'torchvision://resnet50'; .* file$"):
        train(small_config(small_data, overrides), str(tmp_path / 'w'))


@pytest.mark.parametrize(
    ('fields', 'accepted'),
    [
        ({'model.pretrained': 'missing'}, 'torchvision://resnet50'),
        ({'model.backbone.init_cfg': CHECKPOINT}, 'torchvision://resnet50'),
        ({'load_from': 'missing'}, 'a .pth or .safetensors file'),
        ({'load_from': 'mmdet://missing'}, 'atss_r50_fpn_1x_coco'),
        ({'resume_from': 'missing'}, 'no checkpoints in missing'),
    ],
)
def test_the_field_of_all_other_weights(fields, accepted, small_data, tmp_path):
    (field,) = fields
    with pytest.raises((ValueError, OSError)) as caught:
        train(small_config(small_data, fields), str(tmp_path / 'w'))
    message = str(caught.value)
    assert message.startswith(f'config.{field}') and 'missing' in message
    assert accepted in message and message.count('config.') == 1


# What stays ---------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['notes.txt', 'lock', 'tensorboard/old'])
def test_files_that_were_there_before(name, small_data, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('mine')
    with pytest.raises(OSError, match=r'missing\.pth'):
        train(small_config(small_data, MISSING), str(tmp_path))
    assert (tmp_path / name).read_text() == 'mine'


def test_the_workdir_of_a_run(small_data, tmp_path):
    """One that was stopped before its first checkpoint, say."""
    config = to_json(small_config(small_data))
    workdirs.claim(str(tmp_path), config, {'classes': []})
    before = tree_of(tmp_path)
    for overrides in (MISSING, {'seed': 7}):
        with pytest.raises((ValueError, OSError)):
            train(small_config(small_data, overrides), str(tmp_path))
    assert before.items() <= tree_of(tmp_path).items()


def test_a_file_of_another_program_that_came_meanwhile(tmp_path):
    folder = tmp_path / 'w'
    with pytest.raises(ValueError, match='refused'), workdirs.locked(str(folder)):
        (folder / 'other.log').write_text('x')
        (folder / 'checkpoints').mkdir()
        raise ValueError('refused')
    assert tree_of(tmp_path) == {'w': b'', 'w/other.log': b'x'}


@pytest.mark.parametrize('error', [KeyboardInterrupt, FloatingPointError])
def test_a_run_that_was_stopped(error, tmp_path):
    """It may have compiled for minutes, which stays; another config may follow."""
    workdir = tmp_path / 'w'
    with pytest.raises(error), workdirs.locked(str(workdir)):
        workdirs.claim(str(workdir), '{"seed": 1}', {'classes': []})
        (workdir / 'compile_cache').mkdir()
        (workdir / 'compile_cache' / 'step').write_text('x')
        raise error
    assert {path.name for path in workdir.iterdir()} == {'compile_cache', 'lock'}
    workdirs.check(str(workdir), '{"seed": 2}', {'classes': ['cat']})


def test_a_run_that_has_begun_to_train(tmp_path):
    with pytest.raises(OSError, match='full'), workdirs.locked(str(tmp_path)) as begin:
        begin()
        raise OSError('the disk is full')
    assert (tmp_path / 'lock').exists()
