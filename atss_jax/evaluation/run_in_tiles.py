"""Runs a model over a data set whose larger images are also shown in tiles."""

import dataclasses
from typing import Any

from atss_jax.data.bad_images import BadImages
from atss_jax.data.batch import Variant, for_any_image
from atss_jax.data.tiles import TiledSource, Tiling
from atss_jax.distributed import hosts
from atss_jax.evaluation.merge_tiles import merge_tiles
from atss_jax.evaluation.run import Evaluator, batches_of_views
from atss_jax.structures import Detections


def detections_with_tiles(
    evaluator: Evaluator,
    tiling: Tiling,
    variables: Any,
    show_progress: bool = False,
    stop: hosts.StopSignal | None = None,
) -> dict[int, Detections]:
    """As `Evaluator.detections`, with larger images also shown in tiles.

    Args:
        evaluator: of the whole images.
        tiling: how they are cut.
        variables: replicated over the devices.
        show_progress: show progress bars, on the first process.
        stop: asked before each batch.

    Raises:
        Stopped: `stop` was requested.
        ValueError: more images cannot be read than the config allows.
    """
    whole = evaluator.detections(variables, show_progress, stop)
    # Images that cannot be read are known by now, and have been counted.
    tiles = TiledSource(evaluator.source, tiling, evaluator.bad_images.indices)
    if not tiles.windows:
        return whole
    shown = [
        Variant(for_any_image(view.pipeline), view.flip) for view in evaluator.views
    ]
    batch_size = len(evaluator.views[0].batches[0][1])
    of_tiles = dataclasses.replace(
        evaluator,
        source=tiles,
        bad_images=BadImages(tiles, 0),
        views=batches_of_views(tiles, shown, batch_size),
    ).detections(variables, show_progress, stop)
    records = evaluator.source.records
    parts = {image_id: [] for image_id in whole}
    for number, (parent, window) in enumerate(
        zip(tiles.parents, tiles.windows, strict=True)
    ):
        parts[int(records.image_ids[parent])].append((window, of_tiles[number]))
    return {
        image_id: merge_tiles(
            whole[image_id], parts[image_id], tuple(size), tiling, evaluator.detect
        )
        for image_id, size in zip(
            records.image_ids.tolist(), records.sizes.tolist(), strict=True
        )
    }
