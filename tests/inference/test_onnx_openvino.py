"""OpenVINO reads the files, and gives the detections that onnxruntime gives."""

import numpy as np
import pytest

from atss_jax.config import build_experiment, load_config
from atss_jax.inference.onnx_file.runtime import open_session, runner
from atss_jax.inference.onnx_file.sample_images import batches_of
from atss_jax.inference.onnx_file.write import serialize
from tests.support.configs import R50
from tests.support.onnx_models import SMALL, trained

pytestmark = pytest.mark.onnx
pytest.importorskip('onnxruntime')
openvino = pytest.importorskip('openvino')

READABLE = [name for name in SMALL if 'DCN' not in name and 'DyHead' not in name]


@pytest.mark.parametrize('name', READABLE)
def test_the_same_detections(tmp_path, name):
    build, anchors = SMALL[name]
    model = trained(build_experiment(load_config(R50)), build(), **anchors)
    path = tmp_path / 'model.onnx'
    path.write_bytes(serialize(model, heads=False))
    exact = {'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = openvino.compile_model(path, 'CPU', exact)
    run = runner(open_session(path, 'cpu'))
    for batch in batches_of(None, None, model.experiment.model.size_divisor):
        ours, theirs = compiled(batch), run(batch)
        assert theirs['num'].min() > 10
        for name in ('labels', 'num'):
            np.testing.assert_array_equal(ours[name], theirs[name])
        np.testing.assert_allclose(ours['scores'], theirs['scores'], atol=1e-4)
        np.testing.assert_allclose(ours['boxes'], theirs['boxes'], atol=1e-2)


@pytest.mark.parametrize('name', [name for name in SMALL if name not in READABLE])
def test_deformable_convolutions_cannot_be_read(tmp_path, name):
    """As docs/onnx.md says; when this fails, a new version can."""
    build, anchors = SMALL[name]
    model = trained(build_experiment(load_config(R50)), build(), **anchors)
    path = tmp_path / 'model.onnx'
    path.write_bytes(serialize(model, heads=False))
    with pytest.raises(RuntimeError, match=r'DeformConv|has to be known'):
        openvino.compile_model(path, 'CPU')
