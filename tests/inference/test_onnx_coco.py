"""Detectors at full width on real images: files and JAX give the same."""

import dataclasses
import itertools
import os

import pytest

from atss_jax.config import build_experiment, load_config
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.inference.onnx_file.write import Options, write
from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.detector import ATSS
from atss_jax.models.fpn import FPN
from atss_jax.models.swin import SwinTransformer
from atss_jax.training.trained_model import TrainedModel
from tests.inference.test_onnx_golden import relative
from tests.support.configs import R50
from tests.support.small import golden_model, golden_variables, random_variables

pytestmark = [pytest.mark.onnx, pytest.mark.slow]
pytest.importorskip('onnxruntime')


def r50():
    return golden_model(), golden_variables()


def swin_t():
    backbone = SwinTransformer(out_indices=(1, 2, 3))
    neck = FPN((192, 384, 768), start_level=0)
    model = ATSS(backbone, neck, ATSSHead(80))
    return model, random_variables(model)


MODELS = {
    'r50': r50,
    'dcn': lambda: relative('dcn')[:2],
    'dyhead': lambda: relative('dyhead')[:2],
    'x101_32x8d': lambda: relative('x101_32x8d')[:2],
    'swin_t': swin_t,
}


@pytest.fixture
def images(coco_tiny, tmp_path):
    """20 photos, in landscape and portrait format, of unlike sizes."""
    folder = tmp_path / 'images'
    folder.mkdir()
    photos = itertools.islice(sorted(coco_tiny.rglob('*.jpg')), 20)
    for photo in photos:
        os.symlink(photo, folder / photo.name)
    return folder


@pytest.mark.parametrize('name', MODELS)
def test_twenty_photos(images, tmp_path, name):
    """On two canvases, in batches of two and alone; small, to take minutes only."""
    model, variables = MODELS[name]()
    fields = {'data.test.pipeline.img_scale': (384, 256)}
    experiment = build_experiment(load_config(R50, fields))
    experiment = dataclasses.replace(
        experiment, model=model, detect=DetectConfig(score_thr=0.05)
    )
    classes = tuple(map(str, range(80)))
    trained = TrainedModel(experiment, variables, classes)
    told = []
    options = Options(images=images)
    differences = write(tmp_path / 'model.onnx', trained, options, told.append)
    print(name, told)
    assert differences.images >= 20 and differences.matched > 1000
