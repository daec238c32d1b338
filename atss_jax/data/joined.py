"""Several data sets, of like or unlike forms, joined to one."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from atss_jax.data.records import Record, Records, Source


@dataclasses.dataclass(frozen=True)
class Member:
    """One of the data sets that are joined.

    Attributes:
        name: what the user calls it, for messages.
        source: the data set.
        times: how often an epoch passes over it.
    """

    name: str
    source: Source
    times: int = 1


class JoinedDataset:
    """Data sets after each other, as a `Source`; they agree in their classes by name.

    Labels follow the order of `classes`, else that of the first data set; category ids
    are those of the first one. Image ids are kept if no two images have the same, else
    all images are renumbered 1, 2, 3, ... in the order of the data sets. Detections and
    ground truth have these ids.

    Attributes:
        members: the data sets.
        classes: name of each label.
        category_ids: category id of each label, as in `ground_truth`.
        records: the images of all data sets.
        untrained: number of annotations that training does not learn, by reason.
        times: (N,) int64, how often an epoch passes over the data set of each image.

    Source: mmengine.dataset.ConcatDataset, which wants classes in the same order too.
    """

    def __init__(
        self, members: Sequence[Member], classes: tuple[str, ...] | None = None
    ):
        """Joins data sets that have been opened.

        Args:
            members: the data sets, at least one.
            classes: names to detect, which all data sets must have and no others; None:
                those of the first one, in its order.

        Raises:
            ValueError: the data sets do not have the same classes.
        """
        self.members = tuple(members)
        first = self.members[0].source
        self.classes = tuple(classes or first.classes)
        for member in self.members:
            _check_classes(self.members[0].name, self.classes, member)
        id_of = dict(zip(first.classes, first.category_ids, strict=True))
        self.category_ids = tuple(id_of[name] for name in self.classes)
        counts = [len(member.source.records) for member in self.members]
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.times = np.repeat([member.times for member in self.members], counts)
        self.records, self._own_ids = self._joined_records()
        self._row_order = np.argsort(self.records.image_ids)
        self.untrained = dict(
            sum(
                (collections.Counter(m.source.untrained) for m in self.members),
                collections.Counter(),
            )
        )

    def read_image(
        self, record: Record, shown: tuple[int, int] | None = None
    ) -> np.ndarray:
        """(H,W,3) uint8 RGB of `record.size`, as its data set reads it.

        Args:
            record: whose image to read.
            shown: as of `Source.read_image`.

        Raises:
            OSError: the image cannot be read.
            BadImage: it is not an image, is cut off, or is not of this size.
            ValueError: no image has this id, or its data set cannot give it.
        """
        ids = self.records.image_ids
        place = np.searchsorted(ids, record.image_id, sorter=self._row_order)
        row = self._row_order[min(place, len(ids) - 1)]
        if ids[row] != record.image_id:
            raise ValueError(f'no image of the joined data has id {record.image_id}')
        member = int(np.searchsorted(self._starts, row, side='right')) - 1
        original = dataclasses.replace(record, image_id=int(self._own_ids[row]))
        return self.members[member].source.read_image(original, shown)

    def ground_truth(self) -> dict:
        """The annotations of the images in `records` as a COCO dict.

        Annotations of categories that are not in `classes` are left out.
        """
        images, annotations = [], []
        for number, member in enumerate(self.members):
            truth = member.source.ground_truth()
            rows = slice(self._starts[number], self._starts[number + 1])
            own_ids = self._own_ids[rows].tolist()
            new_ids = self.records.image_ids[rows].tolist()
            new_id = dict(zip(own_ids, new_ids, strict=True))
            new_category = self._new_categories(member.source)
            images += [
                image | {'id': new_id[image['id']]}
                for image in truth['images']
                if image['id'] in new_id
            ]
            annotations += [
                annotation
                | {
                    'image_id': new_id[annotation['image_id']],
                    'category_id': new_category[annotation['category_id']],
                }
                for annotation in truth['annotations']
                if annotation['image_id'] in new_id
                and annotation['category_id'] in new_category
            ]
        names = zip(self.category_ids, self.classes, strict=True)
        return {
            'images': images,
            'annotations': [
                annotation | {'id': number}
                for number, annotation in enumerate(annotations, start=1)
            ],
            'categories': [{'id': id_, 'name': name} for id_, name in names],
        }

    def _new_categories(self, source):
        """The joined category id of each category id of a data set."""
        new_id = dict(zip(self.classes, self.category_ids, strict=True))
        names = zip(source.category_ids, source.classes, strict=True)
        return {old: new_id[name] for old, name in names}

    def _joined_records(self):
        """The records with their new ids and labels, and (N,) the ids they had."""
        tables = [member.source.records for member in self.members]
        columns = {
            field.name: np.concatenate([getattr(t, field.name) for t in tables])
            for field in dataclasses.fields(Records)
        }
        own_ids = columns['image_ids']
        if len(np.unique(own_ids)) < len(own_ids):
            columns['image_ids'] = np.arange(1, len(own_ids) + 1)
        label_of = {name: label for label, name in enumerate(self.classes)}
        columns['labels'] = np.concatenate(
            [
                np.array([label_of[n] for n in m.source.classes], np.int32)[t.labels]
                for m, t in zip(self.members, tables, strict=True)
            ]
        )
        counts = np.concatenate([table.counts for table in tables])
        columns['offsets'] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Records(**columns), own_ids


def set_times(source: Source) -> np.ndarray:
    """(N,) int64: how often an epoch passes over the data set of each image."""
    if isinstance(source, JoinedDataset):
        return source.times
    return np.ones(len(source.records), np.int64)


def _check_classes(first_name, classes, member):
    """Raises ValueError unless a data set has these classes, in any order."""
    lacking = sorted(set(classes) - set(member.source.classes))
    additional = sorted(set(member.source.classes) - set(classes))
    if not lacking and not additional:
        return
    differences = []
    if lacking:
        differences.append(f'{member.name} lacks {", ".join(map(repr, lacking))}')
    if additional:
        named = ', '.join(map(repr, additional))
        differences.append(f'only {member.name} has {named}')
    raise ValueError(
        f'{first_name} and {member.name} are joined, but their classes differ: '
        f'{"; ".join(differences)}. Objects of a class that a data set does not '
        'annotate would be trained as background. Give both the same names, or choose '
        'those that all have with `classes`'
    )
