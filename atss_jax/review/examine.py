"""Runs a detector over all images of a split, for a review of their annotations."""

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from atss_jax.config.data import SetConfig
from atss_jax.config.experiment import open_sources
from atss_jax.data.joined import JoinedDataset
from atss_jax.data.records import Source
from atss_jax.data.shapes.dataset import ShapesDataset
from atss_jax.distributed import devices, hosts
from atss_jax.evaluation.evaluate import check_overrides
from atss_jax.evaluation.evaluated_image import EvaluatedImage, evaluated_images
from atss_jax.evaluation.run import make_evaluator
from atss_jax.training.trained_model import load_weights


class Examination(NamedTuple):
    """The annotations of a split next to the detections in its images.

    Attributes:
        data: the split, as it was opened.
        source: its images and annotations.
        images: all images.
        step: step of the checkpoint of a workdir; None: from a file.
        notes: lines about images that could not be read.
    """

    data: SetConfig
    source: Source
    images: list[EvaluatedImage]
    step: int | None
    notes: list[str]


def examine(
    workdir: str | os.PathLike,
    split: str = 'train',
    step: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    config: str | os.PathLike | None = None,
) -> Examination:
    """Detects objects in every image of a split; a collective.

    Args:
        workdir: folder of a run; or a file of weights, the name of a model of the zoo,
            or an address.
        split: 'train', 'val' or 'test'; no image is left out or augmented.
        step: step of the checkpoint; None: the one with the best AP.
        overrides: config fields to change, as for `load_config`.
        config: config of a file of weights.

    Raises:
        ValueError: the weights are missing, or the data is malformed.
        ConnectionError: the weights cannot be downloaded.
        Stopped: SIGTERM was received.
    """
    check_overrides(overrides, split)
    workdir = os.path.expanduser(os.fspath(workdir))
    loaded = load_weights(workdir, config, step, overrides)
    data = loaded.experiment.data[split]
    data = dataclasses.replace(data, data_set=with_all_images(data.data_set))
    experiment = dataclasses.replace(
        loaded.experiment, data={**loaded.experiment.data, split: data}
    )
    source = open_sources(experiment, (split,), loaded.classes)[split]
    evaluator = make_evaluator(experiment, source, split)
    detections = evaluator.detections(
        devices.replicate(loaded.variables), sys.stdout.isatty(), hosts.StopSignal()
    )
    images = evaluated_images(source.ground_truth(), detections, source.category_ids)
    notes = evaluator.bad_images.report()
    return Examination(data.data_set, source, images, loaded.step, notes)


def with_all_images(data_set: SetConfig) -> SetConfig:
    """The data set without what training leaves out: images without objects, say."""
    arguments = dict(data_set.arguments)
    if data_set.source is JoinedDataset:
        arguments['members'] = tuple(map(with_all_images, arguments['members']))
    elif data_set.source is not ShapesDataset:
        arguments['test_mode'] = True
    return dataclasses.replace(data_set, arguments=arguments)
