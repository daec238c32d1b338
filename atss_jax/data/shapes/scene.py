"""One generated image: where its shapes are (`sample_scene`), its pixels (`paint`).

The two use separate streams of random numbers, so that boxes are known without
painting.
"""

import dataclasses
import statistics

import cv2
import numpy as np

# In a crowded image many places are refused; it then gets fewer objects than wanted.
TRIES_PER_OBJECT = 8
# cv2 draws in units of 1/16 pixel and from pixel centers; boxes are from corners.
SUBPIXEL_BITS = 4
# cv2 also fills the pixels under a polygon's edges, which reach this much further.
GROWTH = 0.5
RIM_SHARE = 0.5
CANDIDATE_COLORS = 12
# Gaussian quantiles, one per byte: noise for the price of random bytes.
QUANTILES = np.array(
    [statistics.NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)]
)


def _wheel(
    count: int, radii: tuple[float, ...] = (1.0,), turn: float = 0.0
) -> np.ndarray:
    """(count, 2) points around the origin, with `radii` in turn, the first on top.

    All are rotated clockwise by `turn` times the angle between neighbors.
    """
    angles = (np.arange(count) + turn) * (2 * np.pi / count)
    radius = np.resize(radii, count)
    return np.stack([radius * np.sin(angles), -radius * np.cos(angles)], axis=1)


def _plus(half_arm: float) -> np.ndarray:
    """(12, 2) points of a plus sign inside the unit circle."""
    arm = np.array([[half_arm, -half_arm], [half_arm, -1], [-half_arm, -1]])
    turn = np.array([[0, -1], [1, 0]])
    points = np.concatenate([arm @ np.linalg.matrix_power(turn, k) for k in range(4)])
    return points / np.hypot(half_arm, 1)


# Upright outlines inside the unit circle.
OUTLINES = {
    'circle': _wheel(48),
    'square': _wheel(4, turn=0.5),
    'triangle': _wheel(3),
    'star': _wheel(10, (1.0, 0.45)),
    'cross': _plus(0.32),
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """Where the objects of one image are, the frontmost first.

    Attributes:
        size: height, width.
        labels: index into `OUTLINES` of each object.
        outlines: (P,2) polygon of each object, xy in continuous pixels, not clipped.
    """

    size: tuple[int, int]
    labels: list[int]
    outlines: list[np.ndarray]


def sample_scene(
    rng: np.random.Generator,
    size: tuple[int, int],
    max_objects: int,
    object_size: tuple[float, float],
    min_visible: float,
    max_rotation: float,
) -> Scene:
    """Places 1..max_objects random objects; arguments as the fields of `ShapesDataset`.

    Objects are placed from front to back, so that how much an object shows is known
    when it is placed and does not change. The frontmost is wholly inside the image, the
    others may reach beyond its border.
    """
    height, width = size
    shapes = [outline @ (1, 1j) for outline in OUTLINES.values()]
    low, high = np.log(object_size)
    wanted = int(rng.integers(1, max_objects + 1))
    taken = np.zeros(size, np.uint8)
    labels, outlines = [], []
    samples = rng.random((TRIES_PER_OBJECT * wanted, 5))
    radii = np.exp(low + (high - low) * samples[:, 0]) * (min(size) / 2 - 1)
    # One complex number per try: multiplying by it scales and rotates an outline.
    turns = (2 * samples[:, 1] + 1) % 2 - 1  # from -1 to 1
    spins = radii * np.exp(1j * np.deg2rad(max_rotation) * turns)
    tries = zip(samples.tolist(), radii.tolist(), spins, strict=True)
    for sample, radius, spin in tries:
        label = int(sample[2] * len(shapes))
        # One pixel more, so that the frontmost object is whole and thus never refused.
        margin = radius / 2 if labels else radius + 1
        x = margin + sample[3] * (width - 2 * margin)
        y = margin + sample[4] * (height - 2 * margin)
        outline = (shapes[label] * spin + complex(x, y)).view(np.float64).reshape(-1, 2)
        if _claim(taken, outline, min_visible):
            labels.append(label)
            outlines.append(outline)
        if len(labels) == wanted:
            break
    return Scene(size, labels, outlines)


def _claim(taken: np.ndarray, outline: np.ndarray, min_visible: float) -> bool:
    """Marks an object's pixels as taken if enough of them are free and inside."""
    left, top = np.floor(outline.min(axis=0) - GROWTH).astype(int)
    right, bottom = np.ceil(outline.max(axis=0) + GROWTH).astype(int)
    whole = np.zeros((bottom - top, right - left), np.uint8)
    fill(whole, outline - (left, top), 1, line_type=cv2.LINE_8)
    x1, y1 = max(left, 0), max(top, 0)
    window = taken[y1:bottom, x1:right]
    height, width = window.shape
    inside = whole[y1 - top : y1 - top + height, x1 - left : x1 - left + width]
    union = cv2.bitwise_or(window, inside)
    free = cv2.countNonZero(union) - cv2.countNonZero(window)
    if free < min_visible * cv2.countNonZero(whole):
        return False
    window[:] = union
    return True


def drawn_box(outline: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(4,) xyxy: the tight box of the part of a drawn polygon inside the image.

    To clip the polygon's box instead would not be tight: if the tip of a triangle is
    outside, the part inside can be much less tall than the triangle.
    """
    height, width = size
    for axis, limit in ((0, width), (1, height)):
        if outline[:, axis].min() < 0:
            outline = _cut(outline, depth=outline[:, axis])
        if outline[:, axis].max() > limit:
            outline = _cut(outline, depth=limit - outline[:, axis])
    low = np.maximum(outline.min(axis=0) - GROWTH, 0)
    high = np.minimum(outline.max(axis=0) + GROWTH, (width, height))
    return np.concatenate([low, high])


def _cut(outline: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The part of a polygon with depth >= 0. Source: Sutherland and Hodgman, 1974."""
    after, depth_after = np.roll(outline, -1, axis=0), np.roll(depth, -1)
    crosses = (depth >= 0) != (depth_after >= 0)
    share = depth / np.where(crosses, depth - depth_after, 1)
    crossings = outline + share[:, None] * (after - outline)
    keep = np.stack([depth >= 0, crosses], axis=1)
    return np.stack([outline, crossings], axis=1)[keep]


def fill(
    image: np.ndarray, outline: np.ndarray, color, line_type: int = cv2.LINE_AA
) -> None:
    """Fills a polygon in place, with sub-pixel precision."""
    points = np.rint((outline - 0.5) * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(image, [points], color, lineType=line_type, shift=SUBPIXEL_BITS)


def paint(
    scene: Scene, rng: np.random.Generator, clutter: float, noise: float
) -> np.ndarray:
    """(H,W,3) uint8 RGB: background, clutter, objects, thin lines, blur, noise."""
    base = rng.integers(40, 216, 3)
    image = _background(rng, scene.size, base)
    pieces = round(clutter * scene.size[0] * scene.size[1] / 1000)
    _scatter(image, rng, pieces - pieces // 4)
    colors = _contrasting_colors(rng, base, len(scene.outlines))
    rims = rng.random(len(scene.outlines)) < RIM_SHARE
    for outline, color, rim in reversed(
        list(zip(scene.outlines, colors, rims, strict=True))
    ):
        if rim:
            fill(image, outline, (color * 0.55).tolist())
            outline = outline.mean(axis=0) * 0.15 + outline * 0.85
        fill(image, outline, color.tolist())
    _scatter(image, rng, pieces // 4, specks=False)
    image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.3, 0.8))
    return _add_noise(image, rng, noise)


def _background(rng, size: tuple[int, int], base: np.ndarray) -> np.ndarray:
    """Colors that drift smoothly around `base`, with a finer mottle on top."""
    height, width = size
    drift = np.clip(base + rng.integers(-40, 41, (3, 3, 3)), 0, 255).astype(np.uint8)
    mottle = rng.integers(0, 30, (height // 5 + 2, width // 5 + 2, 3), np.uint8)
    drift = cv2.resize(drift, (width, height), interpolation=cv2.INTER_CUBIC)
    mottle = cv2.resize(mottle, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.addWeighted(drift, 1, mottle, 1, -15)


def _scatter(image: np.ndarray, rng, count: int, specks: bool = True) -> None:
    """Draws thin lines and specks in place, all far smaller than an object."""
    height, width = image.shape[:2]
    starts = rng.integers(0, (width, height), (count, 2))
    reach = max(2, min(height, width) // 3)
    ends = starts + rng.integers(-reach, reach + 1, (count, 2))
    axes = rng.integers(1, 3, (count, 2))
    colors = rng.integers(0, 256, (count, 3)).tolist()
    for k, (start, end, color) in enumerate(
        zip(starts.tolist(), ends.tolist(), colors, strict=True)
    ):
        if specks and k % 2:
            cv2.ellipse(image, start, axes[k].tolist(), 0, 0, 360, color, cv2.FILLED)
        else:
            cv2.line(image, start, end, color, 1, cv2.LINE_AA)


def _contrasting_colors(rng, base: np.ndarray, count: int) -> np.ndarray:
    """(count, 3) colors, each far from the background's and from the previous ones."""
    candidates = rng.integers(0, 256, (count, CANDIDATE_COLORS, 3))
    chosen = [base]
    for colors in candidates:
        distances = np.abs(colors[:, None] - np.array(chosen)).sum(axis=2)
        chosen.append(colors[distances.min(axis=1).argmax()])
    return np.array(chosen[1:])


def _add_noise(image: np.ndarray, rng, noise: float) -> np.ndarray:
    """Adds independent Gaussian noise to every pixel and channel."""
    if not noise:
        return image
    levels = np.clip(np.rint(128 + noise * QUANTILES), 0, 255).astype(np.uint8)
    bytes_ = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return cv2.addWeighted(image, 1, cv2.LUT(bytes_, levels), 1, -128)
