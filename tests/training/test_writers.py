"""What writers are handed, and what becomes of it when a run is killed or resumed."""

import dataclasses
import json
import types

import numpy as np
import pytest

from atss_jax.config import build_experiment
from atss_jax.config.monitoring import HookConfig
from atss_jax.drawing.detections import draw_example
from atss_jax.structures import Detections
from atss_jax.training import trackers
from atss_jax.training.metrics_file import Entry, MetricsFile, evaluated, metric_value
from atss_jax.training.trackers import Tracker, check_installed
from atss_jax.training.writers import open_writers
from tests.support.small_run import shared_evaluator, small_config, train

SCORES = {'AP': 0.5, 'APl': None, 'per_class': {'a b': 0.25, 'c': None}}


def entry(step, kind='train'):
    numbers = SCORES if kind == 'eval' else {'lr': 0.1, 'loss': 1.0 / step}
    return Entry(kind, step, 1, numbers, {'images_per_second': 7.0})


def test_numbers_by_name():
    assert entry(4).scalars == {
        'train/lr': 0.1,
        'train/loss': 0.25,
        'speed/images_per_second': 7.0,
    }
    assert entry(4, 'eval').scalars == {  # what is undefined is left out
        'eval/AP': 0.5,
        'eval/per_class/a b': 0.25,
        'speed/images_per_second': 7.0,
    }


def test_a_record_and_back(tmp_path):
    file = MetricsFile(str(tmp_path), 0)
    file.write(entry(3, 'eval'))
    (line,) = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    record = {'kind': 'eval', 'step': 3, 'epoch': 1, **SCORES}
    assert line == json.dumps(record)
    assert Entry.of(record) == dataclasses.replace(entry(3, 'eval'), speed={})


@pytest.mark.parametrize(
    ('metric', 'value'), [('AP', 0.5), ('APl', None), ('per_class/a b', 0.25)]
)
def test_a_metric_of_an_evaluation(tmp_path, metric, value):
    assert metric_value(SCORES, metric) == value
    file = MetricsFile(str(tmp_path), 0)
    file.write(entry(2))
    file.write(entry(3, 'eval'))
    assert evaluated(str(tmp_path), metric) == {3: value or 0.0}


# Trackers -----------------------------------------------------------------------------


class Client:
    """A tracker that remembers; `delay` seconds after an entry it is safe."""

    errors = (OSError,)

    def __init__(self, hook, start):
        self.id = hook.init_kwargs.get('id') or start.id or 'new'
        self.delay = hook.init_kwargs['delay']
        self.entries, self.outcome, self.trouble = [], None, False

    def log(self, entry):
        if self.trouble:
            raise OSError('no route to host')
        self.entries.append((entry.kind, entry.step))

    def finish(self, outcome):
        self.outcome = outcome


class Run:
    """A workdir with a tracker, which may be killed and started again."""

    def __init__(self, folder, delay):
        self.folder, self.warnings = folder, []
        arguments = {'delay': delay}
        self._hook = HookConfig('hooks.0', 'WandbLoggerHook', init_kwargs=arguments)

    def start(self, step=0, **arguments):
        file = MetricsFile(str(self.folder), step)
        arguments = {**self._hook.init_kwargs, **arguments}
        hook = dataclasses.replace(self._hook, init_kwargs=arguments)
        tracker = Tracker(hook, str(self.folder), '{}', self.warnings.append)
        self.writers = [file, tracker]
        self.client = tracker._client
        return self

    def write(self, *steps):
        for step in steps:
            for writer in self.writers:
                writer.write(entry(step))

    def close(self):
        for writer in self.writers:
            writer.close('finished')


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.CLIENTS, 'WandbLoggerHook', Client)
    return lambda delay: Run(tmp_path, delay)


def test_those_that_are_open_are_closed_if_one_refuses(tmp_path, monkeypatch):
    clients = []

    def accept(hook, start):
        clients.append(Client(hook, start))
        return clients[-1]

    def refuse(hook, start):
        raise ValueError('not signed in')

    monkeypatch.setitem(trackers.CLIENTS, 'WandbLoggerHook', accept)
    monkeypatch.setitem(trackers.CLIENTS, 'MlflowLoggerHook', refuse)
    hooks = (
        HookConfig('hooks.0', 'WandbLoggerHook', init_kwargs={'delay': 0}),
        HookConfig('hooks.1', 'MlflowLoggerHook'),
    )
    experiment = types.SimpleNamespace(hooks=hooks[:1])
    run = types.SimpleNamespace(
        workdir=str(tmp_path), config_json='{}', experiment=experiment
    )
    assert len(open_writers(run, 0, print)) == 2 and clients[0].outcome is None
    experiment.hooks = hooks
    with pytest.raises(ValueError, match='mlflow does not start a run: not signed in'):
        open_writers(run, 0, print)
    assert clients[1].outcome == 'failed'


def test_after_a_stop_the_run_continues(run):
    run = run(delay=60).start()
    run.write(2, 4)
    run.close()
    assert run.client.outcome == 'finished'
    run.start(4).write(6)
    assert run.client.id == 'new' and run.client.entries == [('train', 6)]


def test_a_kill_after_which_steps_are_computed_again(run):
    """Each entry is safe at once: none is recorded twice, none is missing."""
    run = run(delay=0).start()
    run.write(2, 4, 6, 8)
    run.start(4).write(6)  # killed again before it is as far as it was
    run.start(4).write(6, 8, 10)
    assert run.client.entries == [('train', 10)]
    (record,) = json.loads((run.folder / 'tracking.json').read_text()).values()
    assert record == {'id': 'new', 'last_steps': {'train': 10}}


def test_a_kill_that_the_tracker_may_have_lost_entries_by(run):
    """What is not safe yet is recorded again, from the log where it is there."""
    run = run(delay=60).start()
    run.write(2, 4, 6)
    run.start(4).write(6, 8)
    assert run.client.entries == [('train', step) for step in (2, 4, 6, 8)]


def test_another_run_of_the_tracker_gets_all_numbers(run):
    """`init_kwargs` may name one, by its id or name."""
    run = run(delay=0).start()
    run.write(2, 4)
    file = run.folder / 'tracking.json'
    file.write_text(file.read_text().replace('"new"', '"old"'))
    assert run.start(4).client.entries == []
    assert run.start(4, id='mine').client.entries == [('train', 2), ('train', 4)]
    assert json.loads(file.read_text())['wandb']['id'] == 'mine'


def test_a_run_of_the_tracker_that_is_gone(run, tmp_path, monkeypatch):
    run = run(delay=0).start()

    def refuse(hook, start):
        raise ValueError('no such run')

    monkeypatch.setitem(trackers.CLIENTS, 'WandbLoggerHook', refuse)
    with pytest.raises(ValueError) as caught:
        run.start()
    assert str(caught.value) == (
        'config.hooks.0 = WandbLoggerHook: wandb does not continue its run new: no '
        f'such run; if that run is gone, remove wandb from {tmp_path}/tracking.json, '
        'and a new one gets all numbers'
    )


def test_training_and_evaluation_of_one_step(run):
    """Killed between the two: the evaluation is not taken for recorded."""
    run = run(delay=0).start()
    run.write(2)
    run.start(2)
    for writer in run.writers:
        writer.write(entry(2, 'eval'))
    assert run.client.entries == [('eval', 2)]


def test_a_tracker_in_trouble_does_not_end_the_run(run):
    run = run(delay=0).start()
    run.write(2)
    run.client.trouble = True
    run.write(4)
    run.client.trouble = False
    run.write(6)
    assert run.client.entries == [('train', 2), ('train', 6)]
    assert run.warnings == [
        'wandb did not take the numbers of step 4, which metrics.jsonl has: no route '
        'to host'
    ]


@pytest.mark.parametrize('name', ['Wandb', 'Mlflow', 'Trackio'])
def test_a_library_that_is_not_installed(small_data, tmp_path, monkeypatch, name):
    """Nor is a folder of that name a library: wandb makes one where it runs."""
    library = name.lower()
    monkeypatch.setattr('sys.path', [str(tmp_path)])
    hook = HookConfig('log_config.hooks.1', f'{name}LoggerHook')
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            check_installed([HookConfig('x', 'TextLoggerHook'), hook])
        assert str(caught.value) == (
            f'config.log_config.hooks.1 = {name}LoggerHook needs {library}, which is '
            f"not installed: pip install 'atss-jax[{library}]'"
        )
        (tmp_path / library).mkdir(exist_ok=True)


# Example images -----------------------------------------------------------------------


def test_example_images(small_run, small_data, tmp_path):
    """The same images each time, spread over those with objects, as they are."""
    drawn = []

    def evaluator(experiment, source, split):
        def draw(source, record, detections):
            drawn.append((record.image_id, len(detections.scores)))
            return draw_example(source, record, detections)

        shared = shared_evaluator(experiment, source, split)
        return dataclasses.replace(shared, draw=draw)

    overrides = {'evaluation.num_eval_images': 3, 'log_config.interval': 6}
    config = small_config(small_data, overrides)
    train(config, tmp_path, make_evaluator=evaluator)
    with_objects = [1000 - 7 * index for index in range(9) if index % 5 != 4]
    chosen = [with_objects[0], with_objects[2], with_objects[5]]
    assert [image_id for image_id, _ in drawn] == chosen * 2
    assert all(count == 20 for _, count in drawn)  # test_cfg.max_per_img
    (file,) = (tmp_path / 'tensorboard').iterdir()
    content = file.read_bytes()
    assert content.count(b'\x89PNG') == 6
    assert all(f'examples/{image_id}'.encode() in content for image_id in chosen)


def test_an_example_is_ground_truth_next_to_detections(small_run):
    source = build_experiment(small_run.config).data['val'].open()
    record = source.records[0]
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros(0))
    empty = draw_example(source, record, nothing)
    assert empty.dtype == np.uint8 and max(empty.shape) <= 1280
    found = Detections(
        record.boxes, np.ones(len(record.labels)), record.labels, np.ones(2, bool)
    )
    same = draw_example(source, record, found)
    differing = np.flatnonzero((empty != same).any(axis=(0, 2)))
    assert differing.min() >= empty.shape[1] // 2  # the right half alone
