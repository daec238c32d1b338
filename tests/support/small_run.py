"""A COCO folder of small images and a config so small that it trains in seconds."""

import contextlib
import dataclasses
import io
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from atss_jax.config import load_config
from atss_jax.distributed import devices
from atss_jax.evaluation import run as evaluation
from atss_jax.inference import detector
from atss_jax.training import loop
from atss_jax.training.callbacks import Callback
from atss_jax.training.log import RunLog
from atss_jax.training.state import TrainState
from configs import atss_r50_1x
from tests.conftest import ROOT

CLASSES = ('red', 'green', 'blue')
CATEGORY_IDS = (7, 2, 11)  # neither labels nor in order
LANDSCAPE, PORTRAIT = (40, 80), (80, 40)  # height, width


def write_coco(folder: pathlib.Path, name: str, count: int, seed: int) -> None:
    """Writes `folder/NAME.json` and `folder/NAME/*.png`.

    One image in three is portrait, every fifth has no object, and one has a crowd
    region. Ids are neither 0..N-1 nor in order.
    """
    random = np.random.default_rng(seed)
    images, annotations = [], []
    (folder / name).mkdir(parents=True)
    for index in range(count):
        size = PORTRAIT if index % 3 == 2 else LANDSCAPE
        image_id = 1000 - 7 * index
        file_name = f'{image_id}.png'
        image, objects = _image(random, size, 0 if index % 5 == 4 else 2)
        cv2.imwrite(str(folder / name / file_name), image[..., ::-1])
        images.append(
            {
                'id': image_id,
                'file_name': file_name,
                'height': size[0],
                'width': size[1],
            }
        )
        for label, box in objects:
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': CATEGORY_IDS[label],
                    'bbox': box,
                    'area': box[2] * box[3],
                    'iscrowd': int(len(annotations) == 5),
                }
            )
    categories = [
        {'id': id_, 'name': c} for id_, c in zip(CATEGORY_IDS, CLASSES, strict=True)
    ]
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    (folder / f'{name}.json').write_text(json.dumps(content))


def _image(random, size, count):
    image = random.integers(90, 130, (*size, 3)).astype(np.uint8)
    objects = []
    for _ in range(count):
        label = int(random.integers(3))
        width, height = (int(x) for x in random.integers(12, 28, 2))
        x = int(random.integers(0, size[1] - width))
        y = int(random.integers(0, size[0] - height))
        image[y : y + height, x : x + width] = 40
        image[y : y + height, x : x + width, label] = 230
        objects.append((label, [x, y, width, height]))
    return image, objects


def _data(folder, split, name):
    """A data section of the R50 config, on small images of `folder`."""
    section = atss_r50_1x.get_config().data[split].to_dict()
    section |= {
        'ann_file': str(folder / f'{name}.json'),
        'img_prefix': str(folder / name),
    }
    # Two canvases: 32x64 and 64x32.
    section['pipeline'] |= {'img_scale': (64, 32)}
    section['pipeline']['img_norm_cfg'] |= {'mean': (110.0,) * 3, 'std': (60.0,) * 3}
    return section


def small_overrides(folder: pathlib.Path) -> dict[str, Any]:
    """Turns `configs/atss_shapes.py` into the small config, on data of `folder`."""
    return {
        'model.backbone.num_stages': 2,
        'model.backbone.out_indices': (1,),
        'model.backbone.frozen_stages': 0,
        'model.neck.in_channels': (128,),
        'model.neck.start_level': 0,
        'model.neck.out_channels': 32,
        'model.neck.num_outs': 2,
        'model.bbox_head.num_classes': 3,
        'model.bbox_head.in_channels': 32,
        'model.bbox_head.feat_channels': 32,
        'model.bbox_head.stacked_convs': 1,
        'model.bbox_head.norm_cfg.num_groups': 8,
        'model.bbox_head.anchor_generator.octave_base_scale': 2,
        'model.bbox_head.anchor_generator.strides': (8, 16),
        'test_cfg.score_thr': 0.0,  # after a few steps no score is high
        'test_cfg.max_per_img': 20,
        'data.samples_per_gpu': 1,
        'data.max_boxes': 3,
        'data.train': _data(folder, 'train', 'train') | {'filter_empty_gt': False},
        'data.val': _data(folder, 'val', 'val'),
        'data.test': _data(folder, 'test', 'val'),
        'optimizer.lr': 0.02,
        'auto_scale_lr.base_batch_size': 8,
        'lr_config.warmup_iters': 2,
        'lr_config.step': (1,),
        'total_epochs': 2,
        'evaluation.interval': 1,
        'checkpoint_config.max_keep_ckpts': 1,
        'log_config.interval': 2,
    }


def small_config(
    folder: pathlib.Path, overrides: dict[str, Any] | None = None
) -> ConfigDict:
    """The small config, with `overrides` on top."""
    path = str(ROOT / 'configs' / 'atss_shapes.py')
    return load_config(path, small_overrides(folder) | (overrides or {}))


PROFILED = (2, 3)
"""First and last step of the small run that are profiled."""


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run of the small config: its folder, last state, number of traces, output."""

    workdir: pathlib.Path
    config: ConfigDict
    state: Any
    train_traces: int
    eval_traces: int
    said: str


# Training ----------------------------------------------------------------------------

_shared: dict[Any, Any] = {}
_make_step = loop._mapped_train_step


def train(
    config: ConfigDict,
    workdir: pathlib.Path | str,
    profile: tuple[int, int] | None = None,
    make_evaluator: loop.MakeEvaluator | None = None,
    wrap_step: Callable = lambda step: step,
    callbacks: Sequence[Callback] = (),
) -> TrainState:
    """Trains as `train.py` does; runs that compute alike share compiled programs.

    Args:
        config: as from `load_config`.
        workdir: folder of the run.
        profile: steps to trace.
        make_evaluator: None: the one of `train.py`.
        wrap_step: called with the mapped training step; returns what takes its place.
        callbacks: of the run.
    """
    with pytest.MonkeyPatch.context() as patch:
        share_steps(patch, wrap_step)
        share_predictions(patch)
        evaluator = make_evaluator or shared_evaluator
        return loop.train(config, str(workdir), evaluator, profile, callbacks=callbacks)


def share_steps(
    patch: pytest.MonkeyPatch, wrap_step: Callable = lambda step: step
) -> None:
    """Makes runs that compute alike share the compiled training step."""
    patch.setattr(
        loop, '_mapped_train_step', lambda *args: wrap_step(_shared_step(*args))
    )


def _shared_step(run, tx):
    experiment = run.experiment
    model, normalizer = experiment.training_model, experiment.data['train'].normalizer
    used = model, normalizer, experiment.loss, experiment.optimizer, experiment.parallel
    key = f'step {used} {run.rates.tolist()} {experiment.seed}'
    if key not in _shared:
        _shared[key] = _make_step(run, tx)
    return _shared[key]


def share_predictions(patch: pytest.MonkeyPatch) -> None:
    """Makes evaluators and detectors that compute alike share the compiled step."""
    make, map_rows = evaluation.make_predict_step, devices.map_rows

    def make_predict_step(model, normalizer, config):
        key = f'predict {model, normalizer, config}'
        if key not in _shared:
            _shared[key] = make(model, normalizer, config)
        return _shared[key]

    def shared_map_rows(function, mode, mesh=None):
        key = function, mode, mesh
        if key not in _shared:
            _shared[key] = map_rows(function, mode, mesh)
        return _shared[key]

    for module in (evaluation, detector):
        patch.setattr(module, 'make_predict_step', make_predict_step)
    patch.setattr(devices, 'map_rows', shared_map_rows)


def shared_evaluator(experiment, source, split):
    """As `evaluation.run.make_evaluator`; equal ones share the compiled step."""
    used = experiment.model, experiment.detect, experiment.data[split]
    sizes = experiment.samples_per_gpu, experiment.workers_per_gpu, experiment.parallel
    key = f'evaluator {used} {sizes} {source.records.digest()}'
    if key not in _shared:
        _shared[key] = evaluation.make_evaluator(experiment, source, split)
    return _shared[key]


class Killed(Exception):
    """Ends a run where a kill would have ended it."""


def train_until(
    config: ConfigDict, workdir: pathlib.Path, step: int, **options: Any
) -> None:
    """Trains until a step, counted from 1, is logged; that step is not saved.

    Args:
        config: as from `load_config`.
        workdir: folder of the run.
        step: the step.
        options: of `train`.
    """
    real = RunLog.step

    def log_step(self, number, *args):
        real(self, number, *args)
        if number == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, 'step', log_step)
        with pytest.raises(Killed):
            train(config, workdir, **options)


def first_state(config: ConfigDict, workdir: pathlib.Path) -> TrainState:
    """The state that training would start from, as NumPy arrays; compiles nothing."""
    real, starts = loop._open_log, []

    def open_log(run, start):
        real(run, start).close()
        starts.append(start)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, '_open_log', open_log)
        with pytest.raises(Killed):
            train(config, workdir)
    return starts[0].state


def finished_run(folder: pathlib.Path, workdir: pathlib.Path) -> FinishedRun:
    """Trains the small config from start to end, and counts what is traced."""
    config = small_config(folder)
    _shared.clear()
    with pytest.MonkeyPatch.context() as patch:
        steps = count_traces(patch, 'map_over_devices')
        predictions = count_traces(patch, 'map_rows')
        with contextlib.redirect_stdout(io.StringIO()) as said:
            state = jax.device_get(train(config, workdir, PROFILED))
    counts = len(steps), len(predictions)
    return FinishedRun(workdir, config, state, *counts, said.getvalue())


def count_traces(patch: pytest.MonkeyPatch, name: str) -> list[int]:
    """A list that grows each time a function mapped by `devices.NAME` is traced."""
    real, traces = getattr(devices, name), []

    def wrap(function, *args, **kwargs):
        def traced(*inputs):
            traces.append(1)
            return function(*inputs)

        return real(traced, *args, **kwargs)

    patch.setattr(devices, name, wrap)
    return traces


def tree_of(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file below a folder with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b''
        for path in sorted(folder.rglob('*'))
    }


def assert_equal(one, other):
    """Checks that trees of arrays have the same structure and the same bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def metrics_of(workdir, kind):
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    return [record for record in map(json.loads, lines) if record['kind'] == kind]


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir())
