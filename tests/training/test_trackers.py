"""What the trackers' own libraries have, offline, of a run that was killed once."""

import dataclasses
import json
import time

import numpy as np
import pytest

from atss_jax.drawing.detections import draw_example
from atss_jax.training.metrics_file import Entry, records
from atss_jax.training.trackers import LIBRARIES
from tests.support import wandb_file
from tests.support.small_run import (
    metrics_of,
    shared_evaluator,
    small_config,
    train,
    train_until,
)

pytestmark = pytest.mark.trackers

IMAGES = 2


def drawing_evaluator(experiment, source, split):
    evaluator = shared_evaluator(experiment, source, split)
    return dataclasses.replace(evaluator, draw=draw_example)


def config_with(folder, *hooks):
    overrides = {'log_config.hooks': hooks, 'evaluation.num_eval_images': IMAGES}
    return small_config(folder, overrides)


def killed_and_resumed(config, workdir):
    """Killed after step 5 was computed and step 4 logged, resumed from step 3."""
    train_until(config, workdir, step=5)
    assert metrics_of(workdir, 'train')[-1]['step'] == 4
    train(config, workdir, make_evaluator=drawing_evaluator)


def expected_of(small_run):
    """Every number of the log by name and step."""
    entries = [Entry.of(record) for record in records(str(small_run.workdir))]
    return {
        (name, entry.step): value
        for entry in entries
        for name, value in entry.scalars.items()
    }


def assert_complete(rows, small_run):
    """Checks (name, step, value) of a tracker: all numbers of the log, each once."""
    logged = [(name, step) for name, step, _ in rows]
    assert len(set(logged)) == len(logged)
    values = {(name, step): value for name, step, value in rows}
    for key, value in expected_of(small_run).items():
        assert values[key] == pytest.approx(value, rel=1e-12), key
    assert ('eval/per_class/red', 6) in values
    assert ('speed/images_per_second', 6) in values


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A workdir in an empty folder, to which libraries may write other things."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'my_run'


def test_wandb(small_run, small_data, workdir, monkeypatch):
    pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    hook = {
        'type': 'WandbLoggerHook',
        'init_kwargs': {'project': 'cells', 'tags': ('a',)},
    }
    killed_and_resumed(config_with(small_data, hook), workdir)
    files = sorted(workdir.glob('wandb/offline-run-*/*.wandb'))
    assert len(files) == 2
    runs = [wandb_file.run_record(file) for file in files]
    assert runs[0].run_id == runs[1].run_id  # `wandb sync` joins them
    assert runs[0].project == 'cells' and runs[0].display_name == 'my_run'
    assert list(runs[0].tags) == ['a']
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config['optimizer']['lr'] == 0.02
    rows = [row for file in files for row in wandb_file.history(file)]
    scalars = [
        (name, row['_step'], float(value))
        for row in rows
        for name, value in row.items()
        if name.partition('/')[0] in ('train', 'eval', 'speed')
    ]
    assert_complete(scalars, small_run)
    (last,) = [row for row in rows if row['_step'] == 6]
    images = [name for name in last if name.endswith('/path')]
    assert len(images) == IMAGES and images[0].startswith('examples/')
    pngs = list(files[1].parent.glob('files/media/images/examples/*.png'))
    assert len(pngs) == IMAGES


@pytest.mark.parametrize('store', ['sqlite', 'file'])
def test_mlflow(small_run, small_data, workdir, tmp_path, monkeypatch, store):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    uri = f'sqlite:///{tmp_path}/mlflow.db' if store == 'sqlite' else tmp_path.as_uri()
    hook = {
        'type': 'MlflowLoggerHook',
        'exp_name': 'cells',
        'tags': {'who': 'me'},
        'tracking_uri': uri,
    }
    killed_and_resumed(config_with(small_data, hook), workdir)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name('cells')
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == 'FINISHED' and run.info.run_name == 'my_run'
    assert run.data.tags['who'] == 'me'
    assert run.data.params['optimizer.lr'] == '0.02'
    rows = [
        (name, metric.step, metric.value)
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    ]
    assert_complete(rows, small_run)
    paths = [file.path for file in client.list_artifacts(run.info.run_id, 'images')]
    pngs = [path for path in paths if path.endswith('.png')]
    # Once for each of two evaluations; the first one had no drawing.
    assert len(pngs) == IMAGES and all('step+6' in path for path in pngs)
    assert 'config.json' in [f.path for f in client.list_artifacts(run.info.run_id)]


@pytest.fixture(scope='module', autouse=True)
def trackio_folder(tmp_path_factory):
    """Where Trackio writes, which it decides when it is imported."""
    folder = tmp_path_factory.mktemp('trackio')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRACKIO_DIR', str(folder))
        yield folder


def test_trackio(small_run, small_data, workdir, trackio_folder):
    pytest.importorskip('trackio')
    from trackio import Api
    from trackio.sqlite_storage import SQLiteStorage

    hook = {'type': 'TrackioLoggerHook', 'init_kwargs': {'project': 'cells'}}
    killed_and_resumed(config_with(small_data, hook), workdir)
    (run,) = Api().runs('cells')
    assert run.name.startswith('my_run-') and run.config['optimizer.lr'] == 0.02
    logs = SQLiteStorage.get_logs('cells', run.name)
    rows = [
        (name, row['step'], value)
        for row in logs
        for name, value in row.items()
        if name.partition('/')[0] in ('train', 'eval', 'speed')
    ]
    assert_complete(rows, small_run)
    images = {
        name: value
        for row in logs
        for name, value in row.items()
        if name.startswith('examples/')
    }
    assert len(images) == IMAGES
    for value in images.values():
        assert list(trackio_folder.rglob(value['file_path'].rpartition('/')[2]))


def test_tensorboard(small_run, small_data, workdir):
    """TensorBoard itself reads what is written without it."""
    accumulator = pytest.importorskip(
        'tensorboard.backend.event_processing.event_accumulator'
    )
    hook = {'type': 'TensorboardLoggerHook'}
    killed_and_resumed(config_with(small_data, hook), workdir)
    events = accumulator.EventAccumulator(str(workdir / 'tensorboard'))
    events.Reload()
    rows = [
        (name, event.step, event.value)
        for name in events.Tags()['scalars']
        for event in events.Scalars(name)
    ]
    values = {(name, step): value for name, step, value in rows}
    assert len(values) == len(rows)
    for key, value in expected_of(small_run).items():
        assert values[key] == pytest.approx(np.float32(value))
    names = events.Tags()['images']
    assert len(names) == IMAGES and names[0].startswith('examples/')
    (image,) = events.Images(names[0])
    assert image.step == 6 and image.encoded_image_string.startswith(b'\x89PNG')


def test_a_tracker_in_trouble_is_a_warning(small_data, workdir, tmp_path, capsys):
    """Its database goes away while the run trains; metrics.jsonl has everything."""
    pytest.importorskip('mlflow')
    database = tmp_path / 'mlflow.db'
    hook = {'type': 'MlflowLoggerHook', 'tracking_uri': f'sqlite:///{database}'}

    class Spoils:
        def after_step(self, step, metrics):
            if step == 3:
                database.write_bytes(b'')

    train(config_with(small_data, hook), workdir, callbacks=[Spoils()])
    said = capsys.readouterr().err
    assert 'warning: mlflow did not take the numbers of step 4' in said
    assert [r['step'] for r in metrics_of(workdir, 'train')] == [2, 3, 4, 6]


@pytest.mark.parametrize(
    ('hook', 'message'),
    [
        (
            {'type': 'TrackioLoggerHook', 'init_kwargs': {'projct': 'x'}},
            r"log_config\.hooks\.0 = TrackioLoggerHook: trackio does not .* 'projct'",
        ),
        (
            {'type': 'WandbLoggerHook', 'init_kwargs': {'projct': 'x'}},
            r"log_config\.hooks\.0 = WandbLoggerHook: wandb does not start .* 'projct'",
        ),
        (
            {'type': 'MlflowLoggerHook', 'tracking_uri': 'no-such-scheme://x'},
            r'log_config\.hooks\.0 = MlflowLoggerHook: mlflow does not start a run',
        ),
    ],
)
def test_settings_that_a_tracker_refuses(small_data, workdir, hook, message):
    pytest.importorskip(LIBRARIES[hook['type']])
    with pytest.raises(ValueError, match=message):
        train(config_with(small_data, hook), workdir)
    assert not workdir.exists()  # the config may be corrected


def test_a_server_that_is_not_there(small_data, workdir, monkeypatch):
    """It is asked as often as the user says, or else for seconds and not minutes."""
    pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '0')
    hook = {'type': 'MlflowLoggerHook', 'tracking_uri': 'http://127.0.0.1:9'}
    with pytest.raises(ValueError, match='mlflow does not start a run: API request'):
        train(config_with(small_data, hook), workdir)
    assert not workdir.exists()
    monkeypatch.delenv('MLFLOW_HTTP_REQUEST_MAX_RETRIES')
    began = time.monotonic()
    with pytest.raises(ValueError, match='mlflow does not start a run: API request'):
        train(config_with(small_data, hook), workdir)
    assert time.monotonic() - began < 60
