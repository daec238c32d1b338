"""Head outputs as ONNX, run by onnxruntime: `make test-onnx`."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax import __main__ as commands
from atss_jax import export_onnx, trained
from atss_jax.data.pictures import read

pytestmark = pytest.mark.onnx


@pytest.fixture(scope='module')
def exported(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp('onnx') / 'deep' / 'model.onnx'
    words = ['export', '--workdir', str(small_run.workdir), '--out', str(out)]
    assert commands.main([*words, '--canvas=64x96', '--batch_size=2']) == 0
    return out


def test_the_same_head_outputs(exported, small_run, small_data):
    """On pictures of the data, one of them cut off; by name and stride."""
    import onnxruntime

    paths = sorted((small_data / 'val').iterdir())[:2]
    image = np.zeros((2, 64, 96, 3), np.uint8)
    image[0, :40, :80] = read(paths[0])
    image[1, :33, :40] = read(paths[1])[:33, :40]
    sizes = np.array([[40, 80], [33, 40]], np.int32)
    experiment, variables, _ = trained.read(small_run.workdir)
    inputs = jnp.asarray(image), jnp.asarray(sizes)
    normalized = experiment.data['test'].normalizer(*inputs)
    expected = jax.jit(experiment.model.apply)(variables, normalized, inputs[1])

    session = onnxruntime.InferenceSession(exported)
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {'image': image, 'image_size': sizes})
    found = dict(zip(names, found, strict=True))
    assert len(found) == 3 * len(experiment.model.strides)
    for field, levels in expected._asdict().items():
        for stride, level in zip(experiment.model.strides, levels, strict=True):
            one = found[f'{field}_{stride}']
            assert one.shape == level.shape
            np.testing.assert_allclose(one, level, atol=1e-4 * np.abs(level).max())


def test_the_page(exported, small_run):
    page = json.loads(exported.with_name('model.onnx.json').read_text())
    assert page['classes'] == ['red', 'green', 'blue']
    assert (page['canvas'], page['batch_size']) == ([64, 96], 2)
    experiment = trained.read(small_run.workdir).experiment
    assert tuple(page['detect']['anchors']['strides']) == experiment.model.strides


def test_a_file_that_computes_otherwise_is_refused(
    exported, small_run, tmp_path, monkeypatch
):
    """That of other weights, here."""
    out = tmp_path / 'model.onnx'
    copy = lambda *arguments: shutil.copy(exported, out)  # noqa: E731
    monkeypatch.setattr(export_onnx, '_translate', copy)
    found = trained.read(small_run.workdir)
    assert '2 x 64x96' in export_onnx.write(out, found, (64, 96), 2)
    other = jax.tree.map(lambda x: 1.1 * x, found.variables)
    with pytest.raises(ValueError, match='onnxruntime differs from JAX by'):
        export_onnx.write(out, found._replace(variables=other), (64, 96), 2)
