"""Opens the data sets of a config and checks that their classes agree."""

from collections.abc import Sequence

from atss_jax.config.experiment import Experiment
from atss_jax.data.records import Source


def open_sources(
    experiment: Experiment,
    splits: Sequence[str],
    trained_classes: Sequence[str] | None = None,
) -> dict[str, Source]:
    """Opens data sets, and checks their classes against the model and each other.

    Args:
        experiment: what the config describes.
        splits: some of 'train', 'val' and 'test'.
        trained_classes: class names that the weights were trained for; None: unknown.

    Returns:
        The data set of each split.

    Raises:
        ValueError: files are missing or malformed, or classes do not agree.
    """
    classes = {} if trained_classes is None else {'the weights': tuple(trained_classes)}
    sources = {}
    for split in splits:
        source = sources[split] = experiment.data[split].open()
        _check_class_count(source, experiment.model.bbox_head.num_classes, split)
        classes[f'data.{split}'] = source.classes
    if len(set(classes.values())) > 1:
        listed = '; '.join(f'{owner}: {names}' for owner, names in classes.items())
        raise ValueError(
            'classes differ in name or order, so labels would mean different things: '
            f'{listed}. If data.{splits[-1]} is the data that you mean, set '
            f'data.{splits[-1]}.classes to the same names in the same order'
        )
    return sources


def _check_class_count(source, num_classes, split):
    count = len(source.classes)
    if count != num_classes:
        raise ValueError(
            f'model.bbox_head.num_classes = {num_classes}, but data.{split} has '
            f'{count} classes {source.classes}; set '
            f'--config.model.bbox_head.num_classes={count}, or choose classes with '
            f'data.{split}.classes'
        )
