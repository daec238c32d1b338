"""Files with weights in 16 bits and in 8 bits, and the AP that they must keep."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from atss_jax.commands import main as commands
from atss_jax.inference.detector import Detector
from atss_jax.inference.onnx_file.graph import Graph
from atss_jax.inference.onnx_file.smaller import calibration_batches, halve_weights
from atss_jax.inference.onnx_file.write import Options, write
from atss_jax.structures import PREDICT_FIELDS
from atss_jax.training.trained_model import load_trained

pytestmark = pytest.mark.onnx
onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def float_file(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp('float') / 'model.onnx'
    write(out, load_trained(small_run.workdir))
    return out


@pytest.mark.parametrize(('flag', 'share'), [('--half', 0.55), ('--int8', 0.35)])
def test_smaller_files(
    small_run, small_data, float_file, tmp_path, capsys, flag, share
):
    """Their size, the AP that is printed, and detections that are much the same."""
    out = tmp_path / 'model.onnx'
    words = ['export', '--workdir', str(small_run.workdir), '--out', str(out), flag]
    # The detector hardly trained: its AP changes by chance.
    words += ['--force', *(['--calibrate', '9'] if flag == '--int8' else [])]
    assert commands.main(words) == 0
    told = capsys.readouterr().out
    numbers = re.search(r'AP on 9 images: ([\d.]+) float, ([\d.]+) (half|int8)', told)
    assert abs(float(numbers[2]) - float(numbers[1])) < 0.05
    assert out.stat().st_size < share * float_file.stat().st_size
    onnx.checker.check_model(onnx.load(out), full_check=True)
    paths = sorted((small_data / 'val').iterdir())
    ours, theirs = (Detector.load(f).predict(paths) for f in (out, float_file))
    best = [x for x in zip(ours, theirs, strict=True) if len(x[0]) and len(x[1])]
    close = [abs(one.scores[0] - other.scores[0]) < 0.05 for one, other in best]
    assert len(close) > 4 and np.mean(close) > 0.7


def test_only_kernels_are_stored_in_16_bits():
    """Anchors of 724.08 pixels would become 724."""
    graph = Graph({'params': {}})
    anchors = graph.constant(np.full((2, 4), 724.08, np.float32))
    kernel = graph.weight('kernel', np.ones((3, 3)))
    halve_weights(graph)
    types = {name: value.dtype for name, value in graph.initializers.items()}
    assert types == {anchors: np.float32, f'{kernel}/half': np.float16}


def test_calibration_needs_images_only(small_run):
    """Not their objects, which may be more than a batch has capacity for."""
    trained = load_trained(small_run.workdir)
    data = trained.experiment.data
    pipeline = dataclasses.replace(data['test'].pipeline, max_boxes=0)
    test = dataclasses.replace(data['test'], pipeline=pipeline)
    experiment = dataclasses.replace(trained.experiment, data={**data, 'test': test})
    trained = trained._replace(experiment=experiment)
    batches = list(calibration_batches(trained, 3))
    assert [set(batch) for batch in batches] == [set(PREDICT_FIELDS)] * 3
    assert all(batch['image'].any() and len(batch['image']) == 1 for batch in batches)


def with_one_large_channel(trained):
    """A detector with a channel that is always 10,000, and that nothing reads.

    8 bits for the whole map then leave nothing of the other channels.
    """
    variables = jax.tree.map(np.array, trained.variables)
    neck, head = (variables['params'][name] for name in ('neck', 'bbox_head'))
    for name, conv in neck.items():
        if name.startswith('fpn_convs'):
            conv['conv']['kernel'][..., 0] = 0
            conv['conv']['bias'][0] = 1e4
    for name in ('cls_convs_0', 'reg_convs_0'):
        head[name]['conv']['kernel'][:, :, 0] = 0
    return trained._replace(variables=variables)


def test_a_file_that_lost_too_much_is_not_written(small_run, tmp_path):
    trained = with_one_large_channel(load_trained(small_run.workdir))
    out, told = tmp_path / 'model.onnx', []
    with pytest.raises(ValueError, match=r'the int8 file has lost 0\.\d+ AP'):
        write(out, trained, Options(int8=True, calibrate=5), told.append)
    assert not out.exists() and 'AP on 9 images' in told[-1]
    write(out, trained, Options(int8=True, calibrate=5, force=True))
    assert out.exists()


def test_without_images_to_measure_on(small_run, tmp_path, capsys):
    out = tmp_path / 'model.onnx'
    words = ['export', '--workdir', str(small_run.workdir), '--out', str(out), '--half']
    missing = f'--config.data.test.ann_file={tmp_path}/none.json'
    assert commands.main([*words, missing]) == 1
    output = capsys.readouterr()
    assert 'the AP of the smaller file cannot be measured' in output.err
    assert 'comparing' not in output.out, 'it is said before what takes long'
    assert commands.main([*words, missing, '--force']) == 0
    assert 'AP was not measured' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--half', '--int8'], 'not allowed with'),
        (['--half', '--calibrate=3'], '--calibrate goes with --int8'),
        (['--force'], '--force goes with'),
        (['--heads', '--int8'], '--heads does not go with'),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit):
        commands.main(['export', '--workdir=w', '--out=a.onnx', *flags])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'half': True, 'int8': True}, 'choose one'),
        ({'heads': True, 'half': True}, 'heads does not go with'),
        ({'int8': True, 'calibrate': 0}, 'calibrate = 0: expected 1 or more'),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)
