"""torchvision's half of `benchmarks/gpu.py`: FCOS, the public model closest to ATSS.

It has the same backbone, neck and towers, one point per cell where ATSS has one anchor,
and 80 classes. It is built as by `torchvision.models.detection.fcos_resnet50_fpn`
except for frozen stages, which that does not allow without pretrained weights: as in
our recipe, stem and first stage are frozen, and batch norms use stored statistics.

Needs torch and torchvision (`pip install torch torchvision`), not JAX.
"""

import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.fcos import FCOS
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks.gpu_work import NUM_CLASSES, Job, images, main, measure

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
TRAINED_STAGES = 3  # of 5, counting the stem: frozen_stages=1


def build(job: Job) -> FCOS:
    """The detector, channels last, without its own resizing."""
    backbone = resnet_fpn_backbone(
        backbone_name=f'resnet{job.depth}',
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        trainable_layers=TRAINED_STAGES,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    model = FCOS(
        backbone,
        NUM_CLASSES,
        min_size=min(job.canvas),
        max_size=max(job.canvas),
        _skip_resize=True,
    )
    return model.to(DEVICE, memory_format=torch.channels_last)


def compile_parts(model: FCOS) -> None:
    """Compiles network and head; later parts have sizes that depend on the images."""
    model.backbone.compile()
    model.head.compile()


def on_device(job: Job) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Images (B,H,W,3) uint8, and the objects of each, on the device."""
    image, boxes, labels = images(job)
    targets = [
        {
            'boxes': torch.from_numpy(boxes[row]).to(DEVICE),
            'labels': torch.from_numpy(labels[row]).long().to(DEVICE),
        }
        for row in range(job.batch)
    ]
    return torch.from_numpy(image).to(DEVICE), targets


def as_input(image: torch.Tensor) -> list[torch.Tensor]:
    """The input of torchvision: a list of images, channels first, 0 to 1."""
    return list(image.permute(0, 3, 1, 2).float() / 255)


def autocast(job: Job) -> torch.autocast:
    """Automatic mixed precision, unless the dtype is float32."""
    dtype = getattr(torch, job.dtype)
    return torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32)


def synchronize() -> None:
    """Waits until the device has finished its work."""
    if DEVICE == 'cuda':
        torch.cuda.synchronize()


def training(job: Job, model: FCOS) -> dict:
    """The training step: losses, gradients, and SGD as in our recipe."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-5, momentum=0.9, weight_decay=1e-4)
    image, targets = on_device(job)

    def step(rows):
        with autocast(job):
            loss = sum(model(as_input(image[:rows]), targets[:rows]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    def run(steps):
        for _ in range(steps):
            loss = step(job.batch)
        synchronize()
        if not torch.isfinite(loss):
            raise ValueError('the loss was not finite')

    return _measure(run, lambda: step(1), job, model)


@torch.inference_mode()
def inference(job: Job, model: FCOS) -> dict:
    """Forward and post-processing with NMS, with mmdetection's IoU threshold.

    Its work depends on the scores, ours does not. With random weights no score means an
    object, so the threshold is set to keep about 100 detections.
    """
    model.eval()
    image, _ = on_device(job)

    def step(rows):
        with autocast(job):
            return model(as_input(image[:rows]))

    model.nms_thresh, model.score_thresh = 0.6, 0
    (detections,) = step(1)
    # Slightly lower: in bfloat16 many scores are equal, and only higher ones are kept.
    model.score_thresh = float(detections['scores'].min()) - 1e-6

    def run(steps):
        for _ in range(steps):
            step(job.batch)
        synchronize()

    result = _measure(run, lambda: step(1), job, model)
    count = sum(len(detections['scores']) for detections in step(job.batch))
    return {**result, 'detections': count / job.batch}


def _measure(run, one_image, job, model):
    """Counts the operations of one image, then measures."""
    with FlopCounterMode(display=False) as counter:
        one_image()
    if job.compiled:
        compile_parts(model)
    result = measure(run, job)
    peak = torch.cuda.max_memory_allocated() if DEVICE == 'cuda' else None
    count = counter.get_total_flops() // 2
    return {**result, 'multiply_adds': count, 'peak_bytes': peak}


def do(job: Job) -> dict:
    """Runs one measurement."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    work = {'training': training, 'inference': inference}[job.work]
    versions = f'torch {torch.__version__}, torchvision {torchvision.__version__}'
    return {**work(job, build(job)), 'version': versions}


if __name__ == '__main__':
    main(do)
