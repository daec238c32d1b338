"""One step of evaluation, as one device does it; loads nothing that reads or scores."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from atss_jax.detection.postprocess import DetectConfig, detect
from atss_jax.models.preprocess import Normalizer
from atss_jax.structures import Detections


def make_predict_step(
    model: nn.Module, normalizer: Normalizer, config: DetectConfig
) -> Callable[[Mapping[str, Any], Mapping[str, jax.Array]], Detections]:
    """Variables and a batch to detections of each row; map with `parallel.map_rows`."""

    def predict_step(variables, batch):
        images = normalizer(batch['image'], batch['image_size'])
        outputs = model.apply(variables, images, batch['image_size'])
        return jax.vmap(lambda *one: detect(*one, config))(
            outputs, batch['image_size'], batch['scale']
        )

    return predict_step
