"""Config files, shipped configs, overrides and configs as text."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from atss_jax.config import (
    as_dict,
    build_experiment,
    build_model,
    check_section,
    load_config,
    parse_overrides,
    to_json,
)
from atss_jax.config.experiment import read_experiment
from atss_jax.config.fields import ADDED, Reader
from atss_jax.config.tree import closest, flatten
from tests.conftest import ROOT
from tests.support.configs import BASE, CONFIGS, DCN, R50, changed

# Overrides and text -------------------------------------------------------------------


def test_overrides_change_one_field():
    config = load_config(R50, {'model.bbox_head.num_classes': 3})
    assert config.model.bbox_head.num_classes == 3
    expected = changed({'model.bbox_head.num_classes': 3})
    assert as_dict(config) == expected
    assert build_model(config).bbox_head.num_classes == 3


def test_override_of_a_section_replaces_it():
    clip = {'max_norm': 10, 'norm_type': 2}
    config = load_config(R50, {'optimizer_config.grad_clip': clip})
    assert build_experiment(config).optimizer.max_norm == 10
    norm_cfg = {'type': 'BN', 'requires_grad': True}
    config = load_config(R50, {'model.bbox_head.norm_cfg': norm_cfg})
    assert as_dict(config)['model']['bbox_head']['norm_cfg'] == norm_cfg


OPTIONAL = {
    'early_stopping': {'metric': 'AP', 'min_delta': 0.01, 'patience': 2},
    'fp16': {'loss_scale': 'dynamic'},
    'ema': {'momentum': 0.001},
    'optimizer_config.grad_clip': {'max_norm': 10.0, 'norm_type': 2},
    'test_cfg.tta': {'img_scales': None, 'flip': True},
    'data.train.pipeline.random_resize': {'ratio_range': (0.5, 2.0)},
    'data.train.pipeline.random_crop': {
        'crop_size': (64, 64),
        'recompute_bbox': False,
        'allow_negative_crop': True,
    },
    'data.train.pipeline.filter_annotations': {
        'min_gt_bbox_wh': (1.0, 1.0),
        'keep_empty': False,
    },
    'model.backbone.dcn': DCN,
}


def test_these_are_all_sections_that_may_be_none():
    read = Reader(BASE)
    read_experiment(read)
    expected = {path: check.expected for path, check in read.checks.items()}
    assert {path for path, text in expected.items() if 'or a section' in text} == {
        *OPTIONAL
    }


@pytest.mark.parametrize('path', OPTIONAL)
def test_an_optional_section_can_be_switched_off_and_on(path, tmp_path):
    others = {'model.backbone.stage_with_dcn': (False, True, True, True)}
    others = others if path == 'model.backbone.dcn' else {}
    config = load_config(R50, {path: OPTIONAL[path], **others})
    (tmp_path / 'on.json').write_text(to_json(config))
    arguments = [f'--config.{path}=None']
    off = load_config(tmp_path / 'on.json', parse_overrides(arguments))
    assert to_json(off) == to_json(load_config(R50))
    fields = {f'{path}.{name}': value for name, value in OPTIONAL[path].items()}
    arguments += [f'--config.{name}={x!r}' for name, x in (fields | others).items()]
    again = load_config(tmp_path / 'on.json', parse_overrides(arguments))
    assert to_json(again) == to_json(config)


SHIPPED = [
    ('atss_r50_lsj_200e', 'fp16'),
    ('atss_r50_lsj_200e', 'data.train.pipeline.random_resize'),
    ('atss_r50_dcn_1x', 'model.backbone.dcn'),
    ('atss_x101_32x8d_dcn_2x_ms', 'test_cfg.tta'),
]


@pytest.mark.parametrize('config, path', SHIPPED)
def test_an_optional_section_of_a_shipped_config_on_a_command_line(call, config, path):
    result = call('atss', 'show-config', config, f'--config.{path}=None')
    assert result.status == 0, result.err
    shown = json.loads(result.out.rpartition('parameters')[0])
    assert flatten(shown)[path] is None
    assert flatten(as_dict(load_config(config))).get(path, 'a section')


@pytest.mark.parametrize(
    'overrides, expected',
    [
        ({'optimizer': None}, "config.optimizer = None is not .* 'optimizer.type'"),
        ({'model.neck': None}, "config.model.neck = None .* 'model.neck.type'"),
        ({'data.val.pipeline': None}, 'config.data.val.pipeline = None'),
        ({'load_from.x': 1}, 'config.load_from is a section with x; expected a path'),
        ({'fp16.scale': 1}, "config has no field 'fp16.loss_scale'"),
        ({'optimizer_config.grad_clip.max_norm': 1}, 'grad_clip.norm_type'),
    ],
)
def test_a_section_in_place_of_a_value_or_the_reverse(overrides, expected):
    with pytest.raises(ValueError, match=expected):
        load_config(R50, overrides)


def test_override_touches_no_other_split():
    """The file builds three splits from one function; none may share a dict."""
    config = load_config(R50, {'data.val.pipeline.img_scale': (512, 512)})
    assert config.data.test.pipeline.img_scale == (1333, 800)
    assert config.data.train.pipeline.img_scale == (1333, 800)


@pytest.mark.parametrize(
    'overrides, expected',
    [
        ({'optimiser.lr': 1}, "did you mean 'optimizer.lr'?"),
        ({'optimizer.learning_rate': 1}, "'optimizer.learning_rate'"),
        ({'optimizer': 1}, "'optimizer' is a section"),
        ({'optimizer.lr.x': 1}, "'optimizer.lr.x'"),
        ({'model.neck.num_out': 5}, "did you mean 'model.neck.num_outs'?"),
        ({'optimizer.lr': 'fast'}, "config.optimizer.lr = 'fast'"),
    ],
)
def test_wrong_overrides_are_refused(overrides, expected):
    with pytest.raises(ValueError) as caught:
        load_config(R50, overrides)
    assert expected in str(caught.value)


def test_json_round_trip(tmp_path):
    config = load_config(R50, {'optimizer.lr': 0.005, 'data.canvases': ((64, 96),)})
    file = tmp_path / 'config.json'
    file.write_text(to_json(config))
    again = load_config(str(file))
    assert build_experiment(again) == build_experiment(config)
    assert to_json(again) == to_json(config)


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_json_with_a_byte_order_mark(tmp_path, encoding):
    file = tmp_path / 'config.json'
    file.write_text(to_json(BASE), encoding=encoding)
    assert to_json(load_config(file)) == to_json(BASE)


def test_python_with_a_byte_order_mark(tmp_path):
    file = tmp_path / 'own.py'
    file.write_text('from atss_jax.configs.atss_r50_1x import *\n', 'utf-8-sig')
    assert load_config(file) == load_config(R50)


@pytest.mark.parametrize(
    'content, expected',
    [('{', 'c.json: not a JSON file'), ('[1]', 'c.json is no config: .* found a list')],
)
def test_json_that_is_no_config(tmp_path, content, expected):
    (tmp_path / 'c.json').write_text(content)
    with pytest.raises(ValueError, match=expected) as caught:
        load_config(tmp_path / 'c.json')
    assert 'damaged' not in str(caught.value)


def test_a_config_that_was_damaged_in_its_workdir(tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'config.json').write_text('{"seed": ')
    with pytest.raises(ValueError, match='damaged after it was written'):
        load_config(tmp_path / 'config.json')


@pytest.mark.parametrize('path', ADDED)
def test_a_field_that_earlier_versions_lack_has_the_value_they_imply(path):
    old = changed({}, remove=[path])
    assert load_config(R50, {path: ADDED[path]}) == load_config(R50)
    assert build_experiment(old) == build_experiment(BASE)


def test_a_config_of_an_earlier_version(tmp_path):
    file = tmp_path / 'config.json'
    old = changed({'seed': 3}, remove=list(ADDED))
    file.write_text(to_json(old))
    assert to_json(load_config(file)) == to_json(load_config(R50, {'seed': 3}))
    assert {*LATER} == {*ADDED}
    again = load_config(file, LATER)
    assert to_json(again) == to_json(load_config(R50, {'seed': 3, **LATER}))
    replaced = {'data.val.pipeline': {'img_scale': (9, 9), 'keep_ratio': True}}
    with pytest.raises(ValueError, match=r"no field 'data\.val\.pipeline\.pad"):
        load_config(file, replaced)


# Another value of each field that earlier versions lack.
_TRANSFORMS = ({'type': 'PhotoMetricDistortion'},)
LATER = dict.fromkeys(ADDED, 'pillow') | {
    'data.reduced_decoding': True,
    'data.train.oversample_thr': 0.5,
    'data.train.pipeline.flip_direction': 'vertical',
    'data.train.pipeline.before_resize': _TRANSFORMS,
    'data.train.pipeline.after_flip': _TRANSFORMS,
    'early_stopping': {'metric': 'AP', 'min_delta': 0.01, 'patience': 2},
    'evaluation.num_eval_images': 0,
    'evaluation.save_best': 'AP50',
    'log_config.hooks': ({'type': 'TextLoggerHook'},),
    'test_cfg.dtype': 'bfloat16',
    'test_cfg.with_nms': False,
}


def test_equal_configs_give_equal_text():
    backwards = {name: BASE[name] for name in reversed(BASE)}
    assert to_json(backwards) == to_json(BASE) == to_json(ConfigDict(BASE))


def test_no_such_file(tmp_path):
    with pytest.raises(ValueError, match=r'no config file at .*/missing\.py'):
        load_config(tmp_path / 'missing.py')


def test_file_without_get_config(tmp_path):
    file = tmp_path / 'empty.py'
    file.write_text('x = 1\n')
    with pytest.raises(ValueError, match='get_config'):
        load_config(str(file))


def test_parse_overrides():
    assert parse_overrides(
        [
            '--config.optimizer.lr=0.02',
            '--config.load_from=work_dirs/x=y.pth',
            '--config.pretrained=None',
            '--config.data.canvases=((64, 96), (96, 64))',
            '--config.model.neck.add_extra_convs=True',
            '--config.a.b={"c": 1}',
            "--config.name='1'",
        ]
    ) == {
        'optimizer.lr': 0.02,
        'load_from': 'work_dirs/x=y.pth',
        'pretrained': None,
        'data.canvases': ((64, 96), (96, 64)),
        'model.neck.add_extra_convs': True,
        'a.b': {'c': 1},
        'name': '1',
    }


@pytest.mark.parametrize('argument', ['--lr=1', '--config.lr', 'config.lr=1', '-x'])
def test_parse_overrides_refuses_other_arguments(argument):
    with pytest.raises(ValueError) as caught:
        parse_overrides([argument])
    assert argument in str(caught.value) and '--config.FIELD=VALUE' in str(caught.value)


@pytest.mark.parametrize(
    'overrides',
    [
        None,
        {'optimizer.lr': 1, 'data.canvases': None, 'database.test': 1},
        {'data.val.ann_file': 'x'},
        {'data.val': {'type': 'x'}},
        {f'data.{split}.pipeline.pad.size_divisor': 64 for split in ('test', 'val')},
    ],
)
def test_overrides_of_the_section_that_is_used(overrides):
    check_section(overrides, 'val', 'is scored')


@pytest.mark.parametrize('path', ['data.test.ann_file', 'data.test.pipeline.pad.x'])
def test_overrides_of_another_section_alone(path):
    with pytest.raises(ValueError) as caught:
        overrides = {'seed': 1, path: 'x', 'data.train.times': 2}
        check_section(overrides, 'val', 'is scored', ', or {}')
    wanted = path.replace('test', 'val')
    assert str(caught.value) == (
        f'config.{path} has no effect, since data.val is scored; set '
        f'--config.{wanted} instead, or test'
    )


def test_closest_prefers_the_same_section():
    known = ['optimizer.lr', 'model.lrs', 'data.train.type', 'data.val.type']
    assert closest('optimizer.lrr', known) == "; did you mean 'optimizer.lr'?"
    assert closest('data.val.typ', known) == "; did you mean 'data.val.type'?"
    assert closest('something.else.entirely', known) == ''
    assert closest('data.type', known) == "; did you mean 'data.val.type'?"
    assert closest('data.train.noise', known) == ''


# Shipped configs, and configs that build on others ------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A current folder without importable `configs`, as after pip install."""
    paths = [
        path for path in sys.path if path and not (Path(path) / 'configs').exists()
    ]
    monkeypatch.setattr(sys, 'path', paths)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(path, imports, lr):
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f'{imports} as base\n\n\ndef get_config():\n'
        f'    config = base.get_config()\n    config.optimizer.lr = {lr}\n'
        '    return config\n'
    )
    return path


@pytest.mark.parametrize('path', CONFIGS)
def test_a_shipped_config_by_name(path, elsewhere):
    assert to_json(load_config(Path(path).stem)) == to_json(load_config(path))


def test_an_unknown_name_lists_the_shipped_configs(elsewhere):
    for unknown in ('atss_shape', 'atss_shape.py', 'configs/atss_shape.py'):
        with pytest.raises(ValueError) as caught:
            load_config(unknown)
        message = str(caught.value)
        assert f'no config file at {unknown}' in message
        assert all(Path(path).stem in message for path in CONFIGS)
        assert message.endswith("did you mean 'atss_shapes'?")
    with pytest.raises(ValueError) as caught:
        load_config('zzz')
    assert 'did you mean' not in str(caught.value)


def test_a_file_is_not_mistaken_for_a_name(elsewhere):
    write_config(
        elsewhere / 'atss_shapes.py', 'from atss_jax.configs import atss_shapes', 0.5
    )
    assert load_config('atss_shapes.py').optimizer.lr == 0.5
    assert load_config('atss_shapes').optimizer.lr == 0.04


@pytest.mark.parametrize('folder', ['.', 'configs', 'experiments'])
@pytest.mark.parametrize(
    'imports',
    [
        'from atss_jax.configs import atss_r50_1x',
        'from configs import atss_r50_1x',
        'import atss_jax.configs.atss_r50_1x',
        'import configs.atss_r50_1x',
    ],
)
def test_a_config_of_any_folder_builds_on_a_shipped_one(elsewhere, folder, imports):
    file = write_config(elsewhere / folder / 'mine.py', imports, 0.5)
    expected = changed({'optimizer.lr': 0.5})
    assert as_dict(load_config(file)) == expected
    assert as_dict(load_config(file.relative_to(elsewhere))) == expected


def test_a_config_builds_on_another_in_its_folder(elsewhere):
    for folder in ('configs', 'experiments'):
        base = elsewhere / folder / 'base.py'
        write_config(base, 'from atss_jax.configs import atss_r50_1x', 0.5)
        file = write_config(
            base.with_name('mine.py'), f'from {folder} import base', 0.5
        )
        file.write_text(file.read_text().replace('optimizer.lr', 'optimizer.momentum'))
        optimizer = load_config(file).optimizer
        assert (optimizer.lr, optimizer.momentum) == (0.5, 0.5)


def test_configs_that_are_built_on_are_read_anew_each_time(elsewhere):
    file = write_config(
        elsewhere / 'configs' / 'mine.py', 'from configs import base', 1
    )
    file.write_text(file.read_text().replace('optimizer.lr', 'total_epochs'))
    for lr in (0.5, 0.25):
        base, imports = file.with_name('base.py'), 'from configs import atss_r50_1x'
        write_config(elsewhere / 'configs' / f'base_{lr}.py', imports, lr).rename(base)
        assert load_config(file).optimizer.lr == lr


def test_modules_called_configs_stay_as_they_were(elsewhere):
    before = {name for name in sys.modules if name.startswith('configs')}
    path = list(sys.path)
    load_config(
        write_config(elsewhere / 'mine.py', 'from configs import atss_r50_1x', 1)
    )
    assert {name for name in sys.modules if name.startswith('configs')} == before
    assert sys.path == path


@pytest.mark.parametrize('package', ['configs', 'atss_jax.configs'])
@pytest.mark.parametrize('form', ['from {} import atss_r50_1', 'import {}.atss_r50_1'])
def test_an_import_of_an_unknown_config_says_what_to_write(elsewhere, package, form):
    file = write_config(elsewhere / 'mine.py', form.format(package), 1)
    with pytest.raises(ValueError) as caught:
        load_config(file)
    message = str(caught.value)
    assert str(file) in message and 'from atss_jax.configs import NAME' in message
    assert 'atss_r101_lsj_200e' in message


INSTALLED = """
import sys
from atss_jax.commands.import_mmdet import read_config
from atss_jax.config import load_config, shipped_configs

assert 'site-packages' in str(shipped_configs()['atss_r50_1x'])
assert load_config('atss_shapes').optimizer.lr == 0.04
assert load_config('mine.py').optimizer.lr == 0.5
assert read_config(sys.argv[1])[0].data.max_boxes == 100
"""


def test_as_installed(tmp_path):
    """The wheel has the configs inside the package, and nothing of the checkout."""
    site = tmp_path / 'site-packages'
    shutil.copytree(ROOT / 'atss_jax', site / 'atss_jax')
    shutil.copytree(ROOT / 'configs', site / 'atss_jax/configs', dirs_exist_ok=True)
    folder = tmp_path / 'empty'
    write_config(folder / 'mine.py', 'from configs import atss_r101_1x', 0.5)
    mmdet_config = ROOT / 'tests' / 'mmdet_configs' / 'v3_r50.py'
    subprocess.run(
        [sys.executable, '-c', INSTALLED, mmdet_config],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(site)},
        check=True,
    )


def test_other_failing_imports_are_left_alone(elsewhere):
    file = write_config(elsewhere / 'mine.py', 'import no_such_module', 1)
    with pytest.raises(ModuleNotFoundError, match='no_such_module'):
        load_config(file)
