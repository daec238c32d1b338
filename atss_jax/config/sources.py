"""The data sets that a config describes, opened and checked against each other."""

from collections.abc import Sequence

from atss_jax.config.experiment import Experiment
from atss_jax.data.records import Source


def open_sources(
    experiment: Experiment,
    splits: Sequence[str],
    trained_classes: Sequence[str] | None = None,
) -> dict[str, Source]:
    """Opens data sets and checks them against the model and each other.

    Args:
        experiment: what the config describes.
        splits: of 'train', 'val' and 'test'.
        trained_classes: names that the weights were trained for; None: unknown.

    Raises:
        ValueError: files are missing or malformed, or classes do not go together.
    """
    classes = {} if trained_classes is None else {'the weights': tuple(trained_classes)}
    sources = {}
    for split in splits:
        source = sources[split] = experiment.data[split].open()
        _check_count(source, experiment.model.bbox_head.num_classes, split)
        classes[f'data.{split}'] = source.classes
    if len(set(classes.values())) > 1:
        listed = '; '.join(f'{owner}: {names}' for owner, names in classes.items())
        raise ValueError(
            'classes differ in name or order, so labels would mean different things: '
            f'{listed}. Is data.{splits[-1]} the data that you mean? If so, set '
            f'data.{splits[-1]}.classes to the same names and order'
        )
    return sources


def _check_count(source, num_classes, split):
    found = len(source.classes)
    if found != num_classes:
        raise ValueError(
            f'model.bbox_head.num_classes = {num_classes}, but data.{split} has '
            f'{found} classes {source.classes}; set '
            f'--config.model.bbox_head.num_classes={found}, or choose with '
            f'data.{split}.classes'
        )
