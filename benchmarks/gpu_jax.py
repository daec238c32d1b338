"""Our half of `benchmarks/gpu.py`: training and inference steps, and a matrix product.

Builds everything from the package's classes, whose defaults are those of the R50
recipe, so that no code for configs, data or checkpoints is imported: grain,
tensorflow_datasets, orbax and pycocotools need not be installed.
"""

import jax
import jax.numpy as jnp
import numpy as np

from atss_jax.detection.losses import LossConfig
from atss_jax.detection.postprocess import DetectConfig, detect
from atss_jax.distributed import devices
from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.cost import multiply_adds
from atss_jax.models.detector import ATSS
from atss_jax.models.fpn import FPN
from atss_jax.models.preprocess import Normalizer
from atss_jax.models.resnet import ResNet, stage_channels
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.schedule import LrConfig, learning_rates, schedule
from atss_jax.optim.sgd import sgd
from atss_jax.structures import BATCH_AXIS, PREDICT_FIELDS
from atss_jax.training.state import (
    create_state,
    init_variables,
    is_trained,
    zero_variables,
)
from atss_jax.training.step import make_train_step
from benchmarks import timing
from benchmarks.gpu_work import NUM_CLASSES, Job, images, main, measure

MAX_BOXES = 100  # the recipe's `data.max_boxes`
STEPS_PER_EPOCH, EPOCHS = 7329, 12  # of 16 images, on COCO


def build(depth: int, dtype: str) -> ATSS:
    """The recipe's detector, at any depth of the ResNet."""
    neck = FPN(stage_channels(depth))
    return ATSS(ResNet(depth), neck, ATSSHead(NUM_CLASSES), dtype=dtype)


def random_variables(model: ATSS) -> dict:
    """The initial weights of training, except the last norms of the residual blocks.

    Their initial scales of 0 would make all outputs of the blocks zero, and a GPU that
    is limited by its power multiplies zeros faster.
    """

    def switch_on(path, x):
        is_off = path[-1].key == 'scale' and not x.any()
        return np.full_like(x, 0.2) if is_off else x

    return jax.tree_util.tree_map_with_path(switch_on, init_variables(model, 0))


def on_device(job: Job) -> dict[str, jax.Array]:
    """The batch as the mapped steps expect it, already on the device."""
    image, boxes, labels = images(job)
    padding = (0, MAX_BOXES - boxes.shape[1])
    valid = np.pad(np.ones(labels.shape, bool), ((0, 0), padding))
    batch = {
        'image': image,
        'image_size': np.tile(np.int32(job.canvas), (job.batch, 1)),
        'scale': np.ones((job.batch, 2), np.float32),
        'gt_boxes': np.pad(boxes, ((0, 0), padding, (0, 0))),
        'gt_labels': np.pad(labels, ((0, 0), padding)),
        'gt_valid': valid,
        'gt_ignored': np.zeros_like(valid),
    }
    by_rows = jax.sharding.PartitionSpec(BATCH_AXIS)
    sharding = jax.sharding.NamedSharding(devices.device_mesh(), by_rows)
    return jax.device_put(devices.shard_rows(batch, job.mapping), sharding)


def training(job: Job) -> dict:
    """The recipe's training step (losses, gradients, SGD) with a donated state."""
    model = build(job.depth, job.dtype)
    optimizer = OptimizerConfig()
    rates = learning_rates(optimizer.lr, LrConfig(), STEPS_PER_EPOCH, EPOCHS)
    tx = sgd(optimizer, schedule(rates))
    step = make_train_step(model, Normalizer(), LossConfig(), optimizer, tx)
    mapped = devices.map_over_devices(step, job.mapping, donate_first=True)
    state = devices.replicate(create_state(random_variables(model), model, tx))
    batch = on_device(job)
    del batch['scale']

    def run(steps):
        nonlocal state
        for _ in range(steps):
            state, metrics = mapped(state, batch)
        jax.block_until_ready((state, metrics))

    result = measure(run, job)
    _profile(run, job)
    if not state.healthy:
        raise ValueError('a loss or gradient was not finite')
    return {**result, **_usage(training_multiply_adds(model, job.canvas))}


def inference(job: Job) -> dict:
    """Forward and post-processing with NMS; the work does not depend on the scores."""
    model = build(job.depth, job.dtype)
    normalizer, config = Normalizer(), DetectConfig()

    # The evaluation's predict step, repeated because its module imports pycocotools.
    def step(variables, batch):
        images = normalizer(batch['image'], batch['image_size'])
        outputs = model.apply(variables, images, batch['image_size'])
        return jax.vmap(lambda *image: detect(*image, config))(
            outputs, batch['image_size'], batch['scale']
        )

    mapped = devices.map_rows(step, job.mapping)
    variables = devices.replicate(random_variables(model))
    batch = on_device(job)
    batch = {name: batch[name] for name in PREDICT_FIELDS}

    def run(steps):
        for _ in range(steps):
            detections = mapped(variables, batch)
        jax.block_until_ready(detections)

    result = measure(run, job)
    _profile(run, job)
    return {**result, **_usage(forward_multiply_adds(model, job.canvas))}


def _profile(run, job):
    if job.profile is not None:
        with jax.profiler.trace(job.profile):
            run(job.steps)


def _usage(count):
    stats = jax.local_devices()[0].memory_stats() or {}
    return {'multiply_adds': count, 'peak_bytes': stats.get('peak_bytes_in_use')}


def _by_convolution(model, canvas):
    """Module path and multiply-adds of each convolution in an image's forward pass."""
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), zero_variables(model)
    )
    image = jax.ShapeDtypeStruct((1, *canvas, 3), jnp.float32)
    size = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    counts = multiply_adds(model.apply, variables, image, size)
    for scope, count in counts.items():
        # A scope starts with the model, and names of methods contain a dot.
        yield tuple(n for n in scope.split('/')[1:] if '.' not in n), count


def forward_multiply_adds(model: ATSS, canvas: tuple[int, int]) -> int:
    """Multiply-adds of one image's forward pass."""
    return sum(count for _, count in _by_convolution(model, canvas))


def training_multiply_adds(model: ATSS, canvas: tuple[int, int]) -> int:
    """Multiply-adds of one image's forward and backward pass.

    Each convolution counts once, once more for the gradient of its kernel if that is
    trained, and once more for that of its input if anything before it is trained.
    Frozen stages count with their forward pass only. The count is the same on every
    backend, whatever else its way of computing gradients multiplies.
    """
    first = f'layer{model.backbone.frozen_stages + 1}_0'
    reads_frozen = (first, 'conv1'), (first, 'downsample_0')
    total = 0
    for path, count in _by_convolution(model, canvas):
        gradients = 0
        if is_trained((*path, 'kernel'), model):
            gradients = 1 if path[1:] in reads_frozen else 2
        total += (1 + gradients) * count
    return total


def ceiling(job: Job) -> dict:
    """Operations per second of a large matrix product, in the dtype of the network."""
    shape, dtype = (job.matmul, job.matmul), jnp.dtype(job.dtype)
    a, b = (jax.random.normal(jax.random.key(i), shape, dtype) for i in range(2))
    product = jax.jit(jnp.matmul)

    def run():
        jax.block_until_ready([product(a, b) for _ in range(job.steps)][-1])

    seconds = timing.seconds(run, job.repeats) / job.steps
    return {
        'operations_per_second': 2 * job.matmul**3 / seconds,
        'device': jax.local_devices()[0].device_kind,
        'version': f'jax {jax.__version__}',
    }


WORK = {'ceiling': ceiling, 'training': training, 'inference': inference}


def do(job: Job) -> dict:
    """Runs one measurement on the only device.

    Raises:
        ValueError: there are several devices.
    """
    if jax.device_count() != 1:
        raise ValueError(f'expected one device, JAX sees {jax.device_count()}')
    return WORK[job.work](job)


if __name__ == '__main__':
    main(do)
