"""What a run starts from: a checkpoint, other weights, or random ones."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from atss_jax.config.experiment import Experiment
from atss_jax.distributed import hosts
from atss_jax.models.atss_head import NORMAL, PRIOR_BIAS
from atss_jax.models.detector import ATSS
from atss_jax.models.swin import SwinTransformer
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.setup import Run
from atss_jax.training.state import (
    TrainState,
    create_state,
    init_variables,
    zero_variables,
)
from atss_jax.training.workdir import check_stream, class_count, trained_classes
from atss_jax.weights import (
    address,
    mmdet,
    mmdet_checkpoint,
    swin_backbone,
    torchvision,
)

_CLASS_LAYER = 'bbox_head.atss_cls.weight'


# The state ---------------------------------------------------------------------------


class Start(NamedTuple):
    """What a run starts or resumes from.

    Attributes:
        state: the training state, as NumPy arrays.
        unlogged: metrics of the steps since the last record of the log.
        warnings: what the user should know about it.
    """

    state: TrainState
    unlogged: Sequence[Mapping[str, float]]
    warnings: list[str]

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return int(self.state.step)


def starting_point(
    run: Run, checkpoints: Checkpoints, tx: optax.GradientTransformation
) -> Start:
    """The newest checkpoint of the workdir, that of `resume_from`, or initial weights.

    Raises:
        ValueError: they cannot be read or do not fit the config.
    """
    hosts.progress('reading or initializing the weights')
    experiment = run.experiment
    unfinished = checkpoints.set_aside_unfinished()
    warnings = [f'an unfinished checkpoint was set aside as {x}' for x in unfinished]
    notes = {}
    if checkpoints.steps():
        like = new_state(experiment, zero_variables(experiment.model), tx)
        state, damaged = checkpoints.restore_latest(like)
        notes = checkpoints.notes(int(state.step))
        warnings += damaged
    elif experiment.resume_from is not None:
        with _naming('resume_from'):
            state, notes, damaged = _resume_from(experiment.resume_from, run, tx)
        warnings += damaged
    else:
        field = 'load_from' if experiment.load_from else experiment.pretrained_field
        with _naming(field):
            variables = initial_variables(
                experiment.model,
                experiment.seed,
                experiment.pretrained,
                experiment.load_from,
                run.stream['classes'],
                warnings.append,
            )
        state = new_state(experiment, variables, tx)
    hosts.check_equal({'step to resume from': str(state.step)}, {})
    checkpoints.forget_evaluations_after(int(state.step))
    return Start(state, notes.get('log', ()), warnings)


@contextlib.contextmanager
def _naming(field):
    """Puts the field whose weights cannot be used before the message of an error."""
    try:
        yield
    except (ValueError, OSError) as error:
        kinds = (ConnectionError, FileNotFoundError, OSError, ValueError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(f'config.{field}: {error}') from error


def new_state(
    experiment: Experiment, variables: Mapping, tx: optax.GradientTransformation
) -> TrainState:
    """The state before the first step, with the fields that the config calls for."""
    return create_state(
        variables,
        experiment.model,
        tx,
        accumulates=experiment.optimizer.cumulative_iters > 1,
        averages=experiment.optimizer.ema_momentum is not None,
    )


def _resume_from(folder, run, tx):
    """State, notes and warnings of the newest checkpoint of another workdir."""
    check_stream(folder, run.stream, resumes_from=True)
    checkpoints = Checkpoints.open(folder)
    like = new_state(run.experiment, zero_variables(run.experiment.model), tx)
    state, damaged = checkpoints.restore_latest(like, set_aside=False)
    if state.step >= run.total_steps:
        raise ValueError(
            f'{folder}: step {state.step} of {run.total_steps} is done there, nothing '
            'is left to train; raise total_epochs, or start from its weights with '
            'load_from'
        )
    return state, checkpoints.notes(int(state.step)), damaged


# The weights -------------------------------------------------------------------------


def initial_variables(
    model: ATSS,
    seed: int,
    pretrained: str | None,
    load_from: str | None,
    classes: Sequence[str] | None = None,
    warn: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Variables before the first step, as NumPy arrays.

    Args:
        model: the detector.
        seed: seed of all random weights.
        pretrained: backbone weights, `torchvision://resnet50` or a path; None: random.
        load_from: weights of a whole detector, which replace all others: a `.pth` or
            `.safetensors` file with mmdet's names; a workdir, whose best checkpoint is
            taken; or a name or address, as `weights.address` takes it. It may have
            other classes: see `load_detector`.
        classes: names of the model's classes.
        warn: called with a message about what becomes of the class layer.

    Raises:
        ValueError: the weights do not exist or do not fit.
    """
    if load_from is not None:
        return load_detector(load_from, model, seed, classes, warn)
    if pretrained is None:
        return init_variables(model, seed)
    prefix = 'backbone.'
    shapes = {
        mmdet.torch_name(path).removeprefix(prefix): shape
        for path, shape in mmdet.variable_shapes(model).items()
        if mmdet.torch_name(path).startswith(prefix)
    }
    # Read first: a missing file is reported before anything slow is done.
    if isinstance(model.backbone, SwinTransformer):
        is_official = model.backbone.convert_weights
        loaded = swin_backbone.backbone_weights(pretrained, shapes, is_official)
    else:
        # No classifier was trained with offsets: they keep their initial value, 0.
        wanted = [name for name in shapes if '.conv_offset.' not in name]
        loaded = torchvision.backbone_weights(pretrained, wanted)
    state_dict = mmdet.to_state_dict(init_variables(model, seed))
    state_dict |= {prefix + name: value for name, value in loaded.items()}
    return mmdet.to_variables(state_dict, model)


def load_detector(
    source: str,
    model: ATSS,
    seed: int,
    classes: Sequence[str] | None,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Variables from a file with mmdet's names, or from a workdir's best checkpoint.

    The file may be given by a name or address, as `weights.address` takes it.

    If it was trained for other classes, classes of the same name keep their rows of the
    class layer, in their new places, and the others are initialized as in a new model.
    If it does not name its classes, the class layer is loaded as it is if the number of
    classes is the same, and is initialized otherwise.

    Raises:
        ValueError: there is neither, or the weights do not fit.
        ConnectionError: the file cannot be downloaded.
    """
    located = address.locate(source)
    path = located.fetch()
    if not pathlib.Path(path).exists():
        raise ValueError(
            f'no weights at {path}: expected the workdir of a run, a .pth or '
            '.safetensors file, or a model that `atss models` lists'
            f'{address.similar_model(path)}'
        )
    if pathlib.Path(path).is_dir():
        names = trained_classes(path)
        count = len(names) if names else class_count(path)
        checkpoints = Checkpoints.open(path)
        variables = checkpoints.restore_variables(_with_classes(model, count))
    else:
        checkpoint = mmdet_checkpoint.load(path)
        names = checkpoint.classes or located.classes
        weights = checkpoint.weights
        rows = weights[_CLASS_LAYER].shape[0] if _CLASS_LAYER in weights else 0
        count = rows // model.bbox_head.num_anchors or model.bbox_head.num_classes
        variables = mmdet.to_variables(weights, _with_classes(model, count))
    if names is not None and len(names) != count:
        raise ValueError(
            f'{source} names {len(names)} classes, but has {count}: {names}'
        )
    rows, message = _match_classes(names, classes, count, model.bbox_head.num_classes)
    if message:
        warn(f'load_from = {source}: {message}')
    return variables if rows is None else _move_rows(variables, rows, model, seed)


def _with_classes(model, count):
    return model.clone(bbox_head=model.bbox_head.clone(num_classes=count))


def _match_classes(loaded, wanted, loaded_count, wanted_count):
    """The loaded row of each wanted class, -1 for a new class; and a message or ''.

    None in place of the rows: the class layer is already as it should be.
    """
    if loaded is None or wanted is None:
        if loaded_count == wanted_count:
            message = 'does not name its classes; its class layer is loaded as it is'
            return None, '' if wanted is None else message
        message = (
            f'has {loaded_count} classes without names, the data has {wanted_count}; '
            'everything is loaded except the class layer, which is initialized anew'
        )
        return [-1] * wanted_count, message
    if tuple(loaded) == tuple(wanted):
        return None, ''
    rows = [loaded.index(name) if name in loaded else -1 for name in wanted]
    kept = [name for name in wanted if name in loaded]
    new = [name for name in wanted if name not in loaded]
    message = (
        'has other classes; everything is loaded except the class layer, of which '
        f'{len(kept)} of {len(wanted)} classes keep their rows: {_shortened(kept)}; '
        f'new: {_shortened(new)}'
    )
    return rows, message


def _shortened(names, limit=10):
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return (', '.join(names[:limit]) or 'none') + more


def _move_rows(variables, loaded_rows, model, seed):
    """Puts the rows of the class layer in new places; new rows are initialized."""
    head = dict(variables['params']['bbox_head'])
    layer, key = head['atss_cls'], jax.random.key(seed)
    anchors, count = model.bbox_head.num_anchors, len(loaded_rows)
    kept = [row for row, loaded in enumerate(loaded_rows) if loaded >= 0]
    sources = [loaded_rows[row] for row in kept]
    moved = {}
    for name, initializer in (('kernel', NORMAL), ('bias', PRIOR_BIAS)):
        old = np.asarray(layer[name])
        shape = old.shape[:-1]
        new = np.array(initializer(key, (*shape, anchors * count)))
        # Channels are anchor-major.
        by_class = new.reshape(*shape, anchors, count)
        by_class[..., kept] = old.reshape(*shape, anchors, -1)[..., sources]
        moved[name] = by_class.reshape(new.shape)
    head['atss_cls'] = moved
    return {**variables, 'params': {**variables['params'], 'bbox_head': head}}
