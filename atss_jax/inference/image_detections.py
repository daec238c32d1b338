"""The detections in one image, as a user of the package gets them."""

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDetections:
    """The objects detected in one image, best first.

    Attributes:
        boxes: (N,4) float32 xyxy in pixels of the given image.
        scores: (N,) float32.
        labels: (N,) int32 indices into `classes`.
        classes: names of all classes that the detector knows.
        size: height and width of the image.
        track_ids: (N,) identity of each object in a video, -1 for none, see
            `inference.tracks`; None: it is no frame of a video that was tracked.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    size: tuple[int, int]
    track_ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """Class name of each object."""
        return [self.classes[label] for label in self.labels]

    def keep(
        self, score_thr: float = 0.0, labels: Collection[int] | None = None
    ) -> 'ImageDetections':
        """The detections with a score of at least `score_thr` and one of `labels`.

        Args:
            score_thr: lowest score.
            labels: indices into `classes`; None: all.

        Raises:
            ValueError: a label is not an index into `classes`.
        """
        kept = self.scores >= score_thr
        known = range(len(self.classes))
        if wrong := {k for k in (() if labels is None else labels) if k not in known}:
            raise ValueError(
                f'labels {sorted(map(str, wrong))}: expected indices into `classes`, '
                f'0 to {len(self.classes) - 1}'
            )
        if labels is not None:
            kept &= np.isin(self.labels, list(labels))
        return self.select(kept)

    def select(self, rows: np.ndarray) -> 'ImageDetections':
        """The detections at these indices, or where a mask is true."""
        ids = self.track_ids
        return dataclasses.replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            track_ids=None if ids is None else ids[rows],
        )

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, names in `data['class_name']`.

        Raises:
            ImportError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError(
                'to_supervision needs a package: pip install supervision'
            ) from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.astype(int),
            tracker_id=None if self.track_ids is None else self.track_ids.copy(),
            data={'class_name': np.array(self.names, str)},
        )
