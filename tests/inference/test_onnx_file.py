"""A detector as an ONNX file: what JAX gives, on any canvas, and how it is refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from atss_jax.commands import main as commands
from atss_jax.config import build_experiment, load_config
from atss_jax.data.batch import Pipeline
from atss_jax.detection.nms import SoftNms
from atss_jax.inference.detector import Detector
from atss_jax.inference.onnx_file import runtime, write
from atss_jax.inference.onnx_file.detector import detector_graph
from atss_jax.inference.onnx_file.sample_images import batches_of
from atss_jax.training.trained_model import load_trained
from tests.support.configs import CONFIGS, R50
from tests.support.onnx_models import SMALL, narrow, trained

pytestmark = pytest.mark.onnx
onnx = pytest.importorskip('onnx')
ort = pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def experiment():
    return build_experiment(load_config(R50))


# What JAX gives ----------------------------------------------------------------------


@pytest.mark.parametrize('name', SMALL)
def test_every_option_gives_what_jax_gives(experiment, tmp_path, name):
    """`write` compares heads and detections: in a batch of two, and each alone."""
    build, anchors = SMALL[name]
    differences = write.write(
        tmp_path / 'model.onnx', trained(experiment, build(), **anchors)
    )
    assert differences.images == 4 and differences.matched > 100
    assert 0 < differences.heads < 1e-4 and differences.boxes < 1e-2


def distinct_models():
    """The configs whose models differ, once for each model."""
    by_model = {}
    for path in CONFIGS:
        model = narrow(build_experiment(load_config(path)).model)
        by_model.setdefault(repr(model), path)
    return [pytest.param(path, id=path.split('/')[-1]) for path in by_model.values()]


@pytest.mark.parametrize('path', distinct_models())
def test_every_shipped_config(tmp_path, path):
    experiment = build_experiment(load_config(path))
    model = trained(experiment, narrow(experiment.model))
    out = tmp_path / 'model.onnx'
    assert write.write(out, model).matched > 100
    page = runtime.read(out)
    assert page.pipeline.img_scale == experiment.data['test'].pipeline.img_scale
    assert page.pipeline.size_divisor == experiment.model.size_divisor


# A trained detector ------------------------------------------------------------------


@pytest.fixture(scope='module')
def paths(small_data):
    return sorted((small_data / 'val').iterdir())


@pytest.fixture(scope='module')
def exported(small_run, small_data, tmp_path_factory):
    """The file, compared with JAX on the images of the data set."""
    out = tmp_path_factory.mktemp('onnx') / 'deep' / 'model.onnx'
    images = ['--images', str(small_data / 'val')]
    words = ['export', '--workdir', str(small_run.workdir), '--out', str(out)]
    assert commands.main(words + images) == 0
    return out


def test_the_same_detections(exported, small_run, paths):
    for options in ({'batch_size': 2}, {'tta': True}, {'batch_size': None}):
        expected = Detector.load(small_run.workdir, **options).predict(paths)
        detector = Detector.load(exported, **options, device='cpu')
        detections = detector.predict(paths)
        assert sum(map(len, expected)) > 50
        for one, other in zip(detections, expected, strict=True):
            assert one.names == other.names and one.size == other.size
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
            np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)


def test_the_command_predicts_with_the_file(exported, paths, tmp_path, call):
    flags = f'--workdir={exported}', f'--out={tmp_path}', '--score_thr=0', *paths
    result = call('predict', *flags, '--no_pictures')
    assert result.status == 0, result.err
    assert json.loads((tmp_path / 'detections.json').read_text())


def test_onnx_itself_finds_nothing_wrong(exported):
    """All sizes that are free have names, and every other one is known."""
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        port.name: [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim]
        for port in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        'image': ['batch', 'height', 'width', 3],
        'image_size': ['batch', 2],
        'scale': ['batch', 2],
        'boxes': ['batch', 20, 4],
        'scores': ['batch', 20],
        'labels': ['batch', 20],
        'num': ['batch'],
    }
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert 'bbox_head/atss_cls/Conv' in names


def test_the_properties_say_how_images_are_put_on_a_canvas(exported, small_run):
    session = ort.InferenceSession(exported)
    properties = session.get_modelmeta().custom_metadata_map
    page = {name: json.loads(text) for name, text in properties.items()}
    pipeline = load_trained(small_run.workdir).experiment.data['test'].pipeline
    assert page['format'] == 1 and page['outputs'] == 'detections'
    assert page['classes'] == ['red', 'green', 'blue']
    assert page['img_scale'] == list(pipeline.img_scale)
    assert page['size_divisor'] == pipeline.size_divisor
    assert page['max_per_img'] == 20 and 0 <= page['score_thr'] < 1


def test_heads_in_place_of_detections(small_run, tmp_path, capsys):
    out = tmp_path / 'heads.onnx'
    words = ['export', '--workdir', str(small_run.workdir), '--out', str(out)]
    assert commands.main([*words, '--heads']) == 0
    told = capsys.readouterr().out
    assert 'detections' not in told and f'wrote {out}: 3 classes' in told
    model = load_trained(small_run.workdir).experiment.model
    (batch, *_) = batches_of(None, None, model.size_divisor)
    outputs = runtime.runner(runtime.open_session(out))(batch)
    anchors = outputs['deltas'].shape[1]
    shapes = {name: array.shape for name, array in outputs.items()}
    assert shapes == {
        'cls_logits': (2, anchors, 3),
        'deltas': (2, anchors, 4),
        'centerness': (2, anchors),
    }
    with pytest.raises(ValueError, match='was written with --heads'):
        Detector.load(out)


def test_images_below_the_working_directory(small_data, tmp_path, monkeypatch):
    """They are no results of ours. A folder without images compares nothing."""
    pipeline = Pipeline((64, 48))
    (tmp_path / 'mine').mkdir()
    for path in sorted((small_data / 'val').iterdir())[:3]:
        shutil.copy(path, tmp_path / 'mine')
    monkeypatch.chdir(tmp_path)
    for folder in ('mine', '.', tmp_path / 'mine'):
        assert sum(len(b['image']) for b in batches_of(folder, pipeline, 32)) >= 3
    (tmp_path / 'films').mkdir()
    (tmp_path / 'films' / 'a.mp4').write_bytes(b'film')
    with pytest.raises(ValueError, match='no images in films, only videos'):
        batches_of('films', pipeline, 32)


# What is refused ---------------------------------------------------------------------


def test_files_that_cannot_be_read(exported, tmp_path):
    path = tmp_path / 'model.onnx'
    with pytest.raises(ValueError, match='no such file'):
        Detector.load(path)
    content = exported.read_bytes()
    for damaged in (b'', b'junk', content[: len(content) // 2], content[:-20]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r'cannot be read by onnxruntime \d'):
            Detector.load(path)
    path.write_bytes(b'<!DOCTYPE html>')
    with pytest.raises(ValueError, match='a web page'):
        Detector.load(path)


def test_files_of_other_programs_and_of_later_versions(exported, tmp_path):
    path = tmp_path / 'model.onnx'
    model = onnx.load(exported)
    for change, message in (
        ({'producer_name': 'pytorch'}, 'but by pytorch'),
        ({'producer_name': ''}, 'a program that does not say its name'),
        ({'format': '2'}, 'install a newer atss-jax'),
        ({'format': '"2"'}, "is of format '2'"),
        ({'outputs': 'null'}, 'its property outputs is None'),
        ({'classes': '"red"'}, "expected a list of names, got 'red'"),
        ({'classes': '[1]'}, r'expected a list of names, got \[1'),
        ({'img_scale': '[64]'}, r'expected two lengths, got \[64'),
        ({'size_divisor': '0'}, 'size_divisor: expected a length, got 0'),
    ):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        if 'producer_name' in change:
            changed.producer_name = change['producer_name']
        else:
            properties = {entry.key: entry.value for entry in model.metadata_props}
            onnx.helper.set_model_props(changed, properties | change)
        onnx.save(changed, path)
        with pytest.raises(ValueError, match=message):
            Detector.load(path)


def test_what_an_exported_detector_cannot_do(exported):
    with pytest.raises(ValueError, match='is exported: nothing in it can be set'):
        Detector.load(exported, overrides={'test_cfg.score_thr': 0.3})
    for device in ('gpu', 'tpu'):
        if runtime.PROVIDERS.get(device) not in ort.get_available_providers():
            with pytest.raises(ValueError, match='cannot use the device'):
                Detector.load(exported, device=device)


def test_flags_that_do_not_go_together(small_run, tmp_path, capsys):
    words = ['export', '--workdir', str(small_run.workdir), '--out']
    for flags, message in (
        (['model.onnx', '--platforms=cpu'], '--platforms goes with .stablehlo'),
        (['model.stablehlo', '--heads'], 'goes with .onnx'),
        (['model.stablehlo', '--images=x'], 'goes with .onnx'),
    ):
        with pytest.raises(SystemExit):
            commands.main([*words, *flags])
        assert message in capsys.readouterr().err
    out = str(tmp_path / 'a.onnx')
    assert commands.main([*words, out, f'--images={tmp_path}/nowhere']) == 1
    assert 'no image or folder at' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_from_jax_is_not_written(experiment, tmp_path, monkeypatch):
    """A tolerance of nothing stands for a writer with a mistake."""
    from atss_jax.inference.onnx_file import differences

    monkeypatch.setattr(differences, 'HEAD_TOLERANCE', 0)
    out = tmp_path / 'model.onnx'
    with pytest.raises(ValueError, match='gives other outputs than JAX: heads'):
        write.write(out, trained(experiment, SMALL['R18'][0]()))
    assert not out.exists()


def test_soft_nms_cannot_be_exported(experiment):
    model = trained(experiment, SMALL['R18'][0]())
    config = dataclasses.replace(
        model.experiment.detect, soft_nms=SoftNms(), min_bbox_size=0.0
    )
    normalizer = experiment.data['test'].normalizer
    arguments = model.experiment.model, model.variables, normalizer
    with pytest.raises(ValueError, match='cannot export soft_nms'):
        detector_graph(*arguments, config)
    assert detector_graph(*arguments, None).outputs


def test_parts_that_cannot_be_exported(experiment):
    model = SMALL['R18'][0]()
    head = dataclasses.replace(model.neck)
    variables = trained(experiment, model).variables
    normalizer = experiment.data['test'].normalizer
    with pytest.raises(ValueError, match=r'model.bbox_head: cannot export a FPN'):
        detector_graph(model.clone(bbox_head=head), variables, normalizer, None)
    variables['params']['backbone']['layer9_0'] = {'kernel': np.zeros(3)}
    with pytest.raises(ValueError, match='is not known: backbone/layer9_0/kernel'):
        detector_graph(model, variables, normalizer, None)
