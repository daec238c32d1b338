"""Which images and annotations of a data set become records, as mmdet selects them."""

import dataclasses
import difflib
import warnings

import numpy as np

from atss_jax.data import class_agreement, image_file
from atss_jax.data.annotations import Annotations
from atss_jax.data.records import Records


@dataclasses.dataclass(frozen=True)
class ImageFilter:
    """Which images of a file become records; fields as arguments of `CocoDataset`."""

    filter_empty_gt: bool = True
    min_size: int = 32
    test_mode: bool = False
    indices: int | None = None


def select(
    file: Annotations,
    img_prefix: str,
    classes: tuple[str, ...] | None,
    images: ImageFilter,
) -> tuple[tuple[str, ...], tuple[int, ...], Records, dict[str, int]]:
    """Classes, the category id of each, the records, and what is not learned.

    The last is the number of annotations that training does not learn, by reason.

    Args:
        file: the annotations.
        img_prefix: folder that the file's `file_name`s are relative to.
        classes: names to detect; None: all of the file's, in its order.
        images: which images to take.

    Raises:
        ValueError: the file lacks a class, or no image remains.
    """
    classes = _choose_classes(file, classes)
    id_of = {name: id_ for id_, name in file.categories.items()}
    category_ids = tuple(id_of[name] for name in classes)

    labels = _lookup(category_ids, file.annotation_categories)
    rows = _lookup(file.image_ids.tolist(), file.annotation_images)
    wanted = _is_wanted(file, rows[labels >= 0], images)
    if not wanted.any():
        raise ValueError(_none_remains(file, classes, images, labels))
    if images.indices is not None:
        wanted &= np.cumsum(wanted) <= images.indices
    used = (labels >= 0) & wanted[rows]
    unfit = _unfit(file, rows)
    not_used = {
        'of categories that are not in classes': labels < 0,
        'in images that filter_empty_gt, min_size or indices leave out': ~wanted[rows],
    }
    not_learned = {
        'with ignore set': file.dropped,
        **unfit,
        'with iscrowd: 1, a region to ignore': file.crowds,
    }
    _warn_of_classes(file, classes)
    _warn_of_odd_boxes(file, rows)
    if not images.test_mode:  # at evaluation they count in the scores
        _warn_of_unfit(file, used & ~file.dropped, unfit)
        _warn_of_large_share(file, used, not_learned)
    chosen = used & ~file.dropped & ~np.any(list(unfit.values()), axis=0)
    records = _build_records(file, img_prefix, rows, labels, wanted, chosen)
    return classes, category_ids, records, _count(not_used | not_learned)


def _none_remains(file, classes, images, labels):
    """Why no image of a file becomes a record."""
    smaller = np.sum(file.image_sizes.min(axis=1, initial=2**62) < images.min_size)
    return (
        f'{file.path}: none of its {len(file.image_ids)} images remains with '
        f'filter_empty_gt={images.filter_empty_gt}, min_size={images.min_size}, '
        f'test_mode={images.test_mode}, classes={classes[:10]}: {smaller} are '
        f'smaller than min_size, and {np.sum(labels >= 0)} annotations are of '
        'these classes'
    )


def _choose_classes(
    file: Annotations, classes: tuple[str, ...] | None
) -> tuple[str, ...]:
    available = tuple(file.categories.values())
    if classes is None:
        classes = available
    if isinstance(classes, str):
        raise ValueError(f'classes must be a tuple of names, found {classes!r}')
    if not available:
        raise ValueError(f'{file.path}: has no classes, so there is nothing to detect')
    if not classes:
        raise ValueError(f'{file.path}: no classes; the file has {available}')
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        names = ', '.join(map(repr, repeated))
        raise ValueError(f'classes lists {names} more than once')
    for name in classes:
        if name not in available:
            raise ValueError(
                f'{file.path} has no category {name!r}{_suggest(name, available)}. '
                f'Its categories: {", ".join(available)}'
            )
    return tuple(classes)


def _suggest(name: str, available: tuple[str, ...]) -> str:
    lower = {other.lower(): other for other in available}
    close = difflib.get_close_matches(str(name).lower(), lower, n=1)
    return f', did you mean {lower[close[0]]!r}?' if close else ''


def _lookup(keys: list[int] | tuple[int, ...], values: np.ndarray) -> np.ndarray:
    """Index of each value in `keys`, -1 where it is not among them."""
    position = {key: index for index, key in enumerate(keys)}
    return np.array([position.get(value, -1) for value in values.tolist()], np.int64)


def _is_wanted(
    file: Annotations, annotated: np.ndarray, images: ImageFilter
) -> np.ndarray:
    """(N,) bool: images to keep; `annotated`: row of each wanted annotation's image."""
    if images.test_mode:
        return np.ones(len(file.image_ids), bool)
    wanted = file.image_sizes.min(axis=1) >= images.min_size
    if images.filter_empty_gt:
        wanted &= np.bincount(annotated, minlength=len(wanted)) > 0
    return wanted


def _build_records(
    file: Annotations,
    img_prefix: str,
    rows: np.ndarray,
    labels: np.ndarray,
    wanted: np.ndarray,
    kept: np.ndarray,
) -> Records:
    # Stable: the boxes of an image stay in the file's order.
    order = np.flatnonzero(kept)[np.argsort(rows[kept], kind='stable')]
    x, y, width, height = file.boxes[order].T
    counts = np.bincount(rows[order], minlength=len(wanted))[wanted]
    names = [
        image_file.locate(img_prefix, file.file_names[i]) for i in wanted.nonzero()[0]
    ]
    return Records(
        image_ids=file.image_ids[wanted],
        file_names=np.array(names, str),
        sizes=file.image_sizes[wanted].astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.stack([x, y, x + width, y + height], 1).astype(np.float32),
        labels=labels[order].astype(np.int32),
        ignored=file.crowds[order],
    )


def _unfit(file: Annotations, rows: np.ndarray) -> dict[str, np.ndarray]:
    """(M,) bool by reason: annotations that mmdet silently drops."""
    x, y, width, height = file.boxes.T
    image_height, image_width = file.image_sizes[rows].T
    inside_width = np.minimum(x + width, image_width) - np.maximum(x, 0)
    inside_height = np.minimum(y + height, image_height) - np.maximum(y, 0)
    return {
        'bbox narrower or lower than 1 pixel': (width < 1) | (height < 1),
        'bbox outside the image': (inside_width <= 0) | (inside_height <= 0),
        'area not above 0': file.areas <= 0,
    }


def _warn_of_classes(file: Annotations, classes: tuple[str, ...]) -> None:
    """Warns of a class whose name is another one's up to case and white space."""
    id_of = {name: id_ for id_, name in file.categories.items()}
    for names in class_agreement.alike(file.categories.values()):
        if set(names).isdisjoint(classes):
            continue
        counts = [np.sum(file.annotation_categories == id_of[name]) for name in names]
        listed = ', '.join(
            f'{name!r} of {count} objects'
            for name, count in zip(names, counts, strict=True)
        )
        warnings.warn(
            f'{file.path}: names of classes {class_agreement.ONLY_IN_CASE}: {listed}. '
            'They are different classes to the detector: if you mean one, give all its '
            'objects one name',
            stacklevel=3,
        )


def _warn_of_unfit(
    file: Annotations, chosen: np.ndarray, unfit: dict[str, np.ndarray]
) -> None:
    """Warns once per reason; each annotation counts under the first that applies."""
    for reason, bad in unfit.items():
        ids = file.annotation_ids[chosen & bad]
        chosen = chosen & ~bad
        if ids.size:
            more = ', ...' if ids.size > 5 else ''
            warnings.warn(
                f'{file.path}: {ids.size} of {len(bad)} annotations not trained on, as '
                f'in mmdet: {reason} (ids {", ".join(map(str, ids[:5]))}{more})',
                stacklevel=3,
            )


_LARGE_SHARE = 0.2  # of annotations; COCO has 1 % of crowds


def _warn_of_large_share(
    file: Annotations, used: np.ndarray, reasons: dict[str, np.ndarray]
) -> None:
    """Warns if many of the annotations of the training images are not learned.

    If none is, training ends with an error that has the same numbers.
    """
    counts = _count({reason: used & bad for reason, bad in reasons.items()})
    number, total = sum(counts.values()), int(used.sum())
    if _LARGE_SHARE * total < number < total:
        named = '; '.join(f'{count} {reason}' for reason, count in counts.items())
        warnings.warn(
            f'{file.path}: {number} of {total} annotations of the training images are '
            f'not learned: {named}',
            stacklevel=3,
        )


def _warn_of_odd_boxes(file: Annotations, rows: np.ndarray) -> None:
    """Warns if the boxes look as if they were not x, y, width, height in pixels."""
    if not len(rows):
        return
    sizes = file.image_sizes[rows]
    ends = file.boxes[:, :2] + file.boxes[:, 2:]
    margin = np.maximum(2, 0.01 * sizes)  # programs round in different ways
    beyond = (ends[:, ::-1] > sizes + margin) | (file.boxes[:, 1::-1] < -margin)
    outside = int(beyond.any(axis=1).sum())
    if file.boxes.min() >= 0 and file.boxes.max() <= 1 and sizes.min() > 1:
        warnings.warn(
            f'{file.path}: all {len(rows)} boxes lie within 0 and 1, so they seem to '
            "be relative to the size of the image; COCO's bbox is in pixels",
            stacklevel=3,
        )
    elif outside > _LARGE_SHARE * len(rows):
        warnings.warn(
            f'{file.path}: {outside} of {len(rows)} boxes reach outside their images. '
            "Are they x1, y1, x2, y2? COCO's bbox is x, y, width, height. Or are width "
            'and height of the images swapped, or those of other copies? atss draw '
            'data shows the boxes on the images',
            stacklevel=3,
        )


def _count(reasons: dict[str, np.ndarray]) -> dict[str, int]:
    """Number of annotations by reason; each counts under the first that applies."""
    counts, counted = {}, False
    for reason, applies in reasons.items():
        if number := int(np.sum(applies & ~np.asarray(counted))):
            counts[reason] = number
        counted = counted | applies
    return counts
