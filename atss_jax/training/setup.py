"""A training run as its config and data describe it, before the first step."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from atss_jax.config import build_experiment, to_json
from atss_jax.config.experiment import Experiment, open_sources
from atss_jax.config.monitoring import check_class_of
from atss_jax.data.augment.user_function import digests
from atss_jax.data.balance import occurrences
from atss_jax.data.batch import check_box_counts, check_has_objects
from atss_jax.data.forms.finder import Finder
from atss_jax.data.joined import set_times
from atss_jax.data.loader import TrainBatches
from atss_jax.data.plan import TrainPlan
from atss_jax.data.records import Source
from atss_jax.distributed import devices, hosts
from atss_jax.optim.paramwise import unused_settings
from atss_jax.optim.schedule import warm_up_factors
from atss_jax.training import workdir as workdirs
from atss_jax.training.state import TrainState
from atss_jax.training.step import make_train_step
from atss_jax.training.trackers import check_installed
from atss_jax.training.update_rule import rates_by_mult, trained_names

_COUNTED_ROWS = 512  # in which more objects than `max_boxes` are looked for
# All recipes with a Swin Transformer have this key; few models have the parameter.
_NAMED_IN_ANY_CASE = 'custom_keys.absolute_pos_embed'


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run, read and checked.

    Attributes:
        workdir: folder of the run.
        config_json: the resolved config, as `config.to_json` gives it.
        experiment: what the config describes.
        sources: training and evaluation data, by split.
        batches: builds the training batch of any step.
        rates_by_mult: (total_steps,) learning rate of every step, by the factor on it
            that `paramwise_cfg` gives to a parameter.
        stream: what decides the batches in addition to the config.
    """

    workdir: str
    config_json: str
    experiment: Experiment
    sources: Mapping[str, Source]
    batches: TrainBatches
    rates_by_mult: Mapping[float, np.ndarray]
    stream: Mapping[str, Any]

    @property
    def rates(self) -> np.ndarray:
        """(total_steps,) learning rate of every step, for most parameters."""
        return self.rates_by_mult[1.0]

    @property
    def total_steps(self) -> int:
        """Number of steps of the whole run."""
        return len(self.rates)

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of one epoch."""
        return self.batches.plan.steps_per_epoch

    @property
    def batch_size(self) -> int:
        """Number of images in one step, over all devices."""
        return self.batches.plan.batch_size

    def is_due(self, epoch: int, interval: int) -> bool:
        """Whether to do after `epoch` what is done every `interval` epochs.

        The last epoch always is.
        """
        return epoch == self.experiment.total_epochs or epoch % interval == 0

    def __str__(self) -> str:
        train, val = self.sources['train'], self.sources['val']
        shown = self.batches.plan.occurrences
        repeats = f' ({shown.sum()} an epoch)' if len(set(shown.tolist())) > 1 else ''
        return (
            f'{len(train.records)} training{repeats} and {len(val.records)} evaluation '
            f'images, {len(train.classes)} classes; {jax.device_count()} '
            f'{jax.devices()[0].platform} device(s), batch {self.batch_size}; '
            f'{self.steps_per_epoch} steps an epoch, {self.total_steps} in all; '
            f'canvases {self.batches.pipeline.all_canvases()}'
        )


def prepare(
    config: ConfigDict | Mapping[str, Any], workdir: str, finder: Finder | None = None
) -> Run:
    """Reads the config and the annotations, and checks them on all hosts.

    Args:
        config: as from `load_config`.
        workdir: folder of the run.
        finder: may have found or read the data already; afterwards it is empty.

    Raises:
        ValueError: config, data and workdir do not fit together.
    """
    experiment = build_experiment(config)
    check_installed(experiment.hooks)
    if experiment.training_dtype == 'bfloat16':
        devices.check_bfloat16(jax.local_devices())
    hosts.progress('reading annotations')
    finder = Finder() if finder is None else finder
    sources = open_sources(experiment, ('train', 'val'), finder=finder)
    finder.forget()
    _check_metrics(experiment, sources['val'].classes)
    hosts.progress('comparing hosts')
    config_json = to_json(config)
    functions = digests(experiment.data['train'].pipeline.after_flip)
    _check_hosts(config_json, sources, functions, workdir)
    train = sources['train']
    check_has_objects(train)
    check_box_counts(train, experiment.data['train'].pipeline.max_boxes)
    batch_size = experiment.samples_per_gpu * jax.device_count()
    rows = devices.local_rows(batch_size)
    batches = make_batches(experiment, train, batch_size, rows)
    rates = rates_by_mult(experiment, batch_size, batches.plan.steps_per_epoch)
    stream = {
        'global_batch_size': batch_size,
        'records': len(train.records),
        'records_digest': train.records.digest(),
        'occurrences_digest': hashlib.sha256(batches.plan.occurrences).hexdigest(),
        'classes': list(train.classes),
    }
    if functions:
        stream['user_functions'] = functions
    workdirs.check(workdir, config_json, stream)
    return Run(workdir, config_json, experiment, sources, batches, rates, stream)


def _check_metrics(experiment, classes):
    """Raises ValueError for the metric of a class that the data do not have."""
    check_class_of(experiment.save_best, 'evaluation.save_best', classes)
    if rule := experiment.early_stopping:
        check_class_of(rule.metric, 'early_stopping.metric', classes)


def _check_hosts(config_json, sources, functions, workdir):
    """Raises ValueError if hosts would compute different things; a collective."""
    same_data = 'All hosts must read the same annotations.'
    hosts.check_equal(
        {
            'config': config_json,
            'atss_jax code': workdirs.code_digest(),
            'versions': workdirs.package_versions(),
            **{f'file of {name}': digest for name, digest in functions.items()},
            'data.train': sources['train'].records.digest(),
            'data.val': sources['val'].records.digest(),
        },
        {'data.train': same_data, 'data.val': same_data},
    )
    workdirs.check_shared(workdir)


def make_batches(
    experiment: Experiment, source: Source, batch_size: int, rows: tuple[int, int]
) -> TrainBatches:
    """The training batches that a config describes.

    Args:
        experiment: what the config describes.
        source: the training data.
        batch_size: number of images in one step, over all devices.
        rows: first and last+1 of those rows of the batch that this host loads.
    """
    pipeline = experiment.data['train'].pipeline
    times = experiment.times * set_times(source)
    plan = TrainPlan(
        pipeline.canvas_index(source),
        pipeline.all_canvases(),
        batch_size,
        experiment.seed,
        occurrences(source.records, times, experiment.oversample_thr),
    )
    return TrainBatches(source, plan, pipeline, rows)


def mapped_train_step(
    experiment: Experiment,
    tx: optax.GradientTransformation,
    total_steps: int,
    mode: str | None = None,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, Mapping[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """The step that a config describes, mapped over devices; it reuses its state.

    Args:
        experiment: what the config describes.
        tx: its optimizer.
        total_steps: of the run.
        mode: 'pmap' or 'shard_map'; None: as the config says.
        mesh: the devices, for 'shard_map' only; None: all of all hosts.
    """
    step = make_train_step(
        experiment.training_model,
        experiment.data['train'].normalizer,
        experiment.loss,
        experiment.optimizer,
        tx,
        total_steps,
        experiment.seed,
    )
    mode = experiment.parallel if mode is None else mode
    return devices.map_over_devices(step, mode, donate_first=True, mesh=mesh)


def learning_rate_warning(run: Run) -> str | None:
    """A warning if the learning rate is meant for batches of another size."""
    scale = run.experiment.auto_scale_lr
    is_absolute = run.experiment.lr_config.policy == 'OneCycle'
    if scale.enable or is_absolute or run.batch_size == scale.base:
        return None
    return (
        f'batches of {run.batch_size}, but optimizer.lr = '
        f'{run.experiment.optimizer.lr:g} is for {scale.base} '
        '(auto_scale_lr.base_batch_size); auto_scale_lr.enable=True scales it'
    )


def paramwise_warning(run: Run) -> str | None:
    """A warning if a setting of single parameters applies to none."""
    config = run.experiment.optimizer.paramwise
    if config is None:
        return None
    names = trained_names(run.experiment.model)
    unused = [x for x in unused_settings(names, config) if x != _NAMED_IN_ANY_CASE]
    if not unused:
        return None
    listed = ', '.join(f'optimizer.paramwise_cfg.{setting}' for setting in unused)
    return (
        f'no trained parameter matches {listed}, which therefore has no effect; names '
        f"are mmdetection's, such as {names[0]}"
    )


def warm_up_warning(run: Run) -> str | None:
    """A warning if the run ends before the warm-up does."""
    config = run.experiment.lr_config
    if config.warmup is None or config.warmup_iters <= run.total_steps:
        return None
    share = float(warm_up_factors(config, np.array(run.total_steps - 1)))
    return (
        f'lr_config.warmup_iters = {config.warmup_iters}, but the run has only '
        f'{run.total_steps} steps: the learning rate rises to {share:.0%} of '
        'optimizer.lr at most. Lower lr_config.warmup_iters, or raise total_epochs'
    )


def capacity_warning(run: Run) -> str | None:
    """A warning if Mosaic or MixUp make images of more objects than are kept."""
    batches, limit = run.batches, run.batches.pipeline.max_boxes
    if not (batches.pipeline.before_resize or batches.pipeline.after_flip):
        return None
    counts = batches.object_counts(_COUNTED_ROWS)
    too_many = sum(count > limit for count in counts)
    if not too_many:
        return None
    return (
        f'{too_many} of the first {len(counts)} augmented images have more objects '
        f'than data.max_boxes = {limit}, up to {max(counts)}; they keep the {limit} '
        f'largest. data.max_boxes = {max(counts)} keeps all of them'
    )


def evaluation_warning(run: Run) -> str | None:
    """A warning if no evaluation image has an object."""
    if len(run.sources['val'].records.boxes):
        return None
    return (
        'data.val: none of its images has an object, so evaluation has nothing to '
        'score, and the checkpoint that is kept as the best is not'
    )
