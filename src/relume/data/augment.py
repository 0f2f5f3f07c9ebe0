"""Darknet's augmentation of one picture: draw a plan, apply it to the truths, to the pixels.

A `Plan` says all that will happen to a picture, in its own pixels. It is drawn from (seed,
position, picture) alone, so a sample never depends on its neighbours, on workers or on history.

Not covered: what blur and noise do to the pixels (blur.py, noise.py).

Source:
    AlexeyAB/darknet 59596d78, build with OpenCV: src/data.c load_data_detection (the first
    definition) and image_opencv.cpp image_data_augmentation. Arithmetic is float32 as there.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from relume.data.image import Pixels
from relume.draws import draw_words, uniforms_from_words
from relume.formats.data_files import Boxes
from relume.formats.sections import Net, Yolo

ONE, TWO = np.float32(1), np.float32(2)
LARGEST_NOISE = 127


@dataclass(frozen=True)
class Plan:
    """What happens to one picture: cut, flip, colour, blur, noise, and the order of its boxes."""

    pleft: int = 0
    """Pixels cut off at the left side; a negative number adds a border instead."""
    ptop: int = 0
    pright: int = 0
    pbot: int = 0
    flip: bool = False
    hue: float = 0.0
    """Added to the hue, in turns of the colour circle."""
    saturation: float = 1.0
    exposure: float = 1.0
    shuffle: int | None = None
    """Seed of the order of the boxes; None leaves them as they are."""
    blur: int = 0
    """0 none, 1 all but the objects, above: the whole picture with a kernel of so many pixels."""
    gaussian_noise: int = 0
    """Standard deviation, in levels of 0 to 255; 0 none."""
    noise: int = 0
    """Seed of the noise."""


def draw_plan(
    net: Net,
    head: Yolo,
    picture_px: tuple[int, int],
    input_px: tuple[int, int],
    seed: int,
    position: int,
    picture: int = 0,
) -> Plan:
    """Return the plan of one picture of the sample at `position`.

    The words are drawn whatever the settings, so that switching one kind of augmentation off
    leaves the others as they were. Thirteen of "augment": resize left/top, resize
    right/bottom, jitter left, right, top, bottom, flip, hue, saturation, its inversion,
    exposure, its inversion, shuffle. Kinds that came later have words by their own name.

    Args:
        net: flip, hue, saturation, exposure, letter_box, blur and gaussian_noise.
        head: the last [yolo]: jitter, the largest cut or border as a part of a side, and
            resize, the factor of zoom, below 1 only outwards.
        picture_px: width and height of the picture as it was read.
        input_px: width and height of the net's input.
        picture: its number in the sample.
    """
    address = (position, picture)
    words = draw_words(seed, "augment", address, 13)
    zoom_1, zoom_2, *jitters, flip, hue, sat, sat_inverted, exp, exp_inverted = uniforms_from_words(
        words[:12]
    )
    left, right, top, bottom = jitters
    width_px, height_px = picture_px
    pleft = _cut_px(width_px, head.jitter, left, head.resize, zoom_1)
    pright = _cut_px(width_px, head.jitter, right, head.resize, zoom_2)
    ptop = _cut_px(height_px, head.jitter, top, head.resize, zoom_1)
    pbot = _cut_px(height_px, head.jitter, bottom, head.resize, zoom_2)
    if net.letter_box:
        border_x, border_y = _letter_box(picture_px, input_px)
        pleft, pright = int(np.float32(pleft) - border_x), int(np.float32(pright) - border_x)
        ptop, pbot = int(np.float32(ptop) - border_y), int(np.float32(pbot) - border_y)
    if not (_is_visible(pleft, pright, width_px) and _is_visible(ptop, pbot, height_px)):
        pleft = pright = ptop = pbot = 0
    gaussian_noise, noise = _noise(net, seed, address)
    return Plan(
        pleft=pleft,
        ptop=ptop,
        pright=pright,
        pbot=pbot,
        flip=net.flip and bool(flip >= 0.5),
        hue=float(_between(-np.float32(net.hue), np.float32(net.hue), hue)),
        saturation=_scale(net.saturation, sat, sat_inverted),
        exposure=_scale(net.exposure, exp, exp_inverted),
        shuffle=int(words[12]),
        blur=_blur(net, seed, address),
        gaussian_noise=gaussian_noise,
        noise=noise,
    )


def apply_to_pixels(image: Pixels, plan: Plan, width: int, height: int) -> Pixels:
    """Return the [height, width, C] picture of the net: cut, resized, flipped, recoloured."""
    cut = _cut(image, plan)
    sized = cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR)
    if plan.flip:
        sized = cv2.flip(sized, 1)
    if (plan.hue, plan.saturation, plan.exposure) != (0.0, 1.0, 1.0):
        sized = _recolour(sized, plan)
    pixels: Pixels = sized.reshape(height, width, image.shape[2])
    return pixels


def apply_to_truths(
    boxes: Boxes,
    plan: Plan,
    width_px: int,
    height_px: int,
    net_width: int,
    net_height: int,
    max: int,
) -> Boxes:
    """Return the [M, 5] truths of a sample, M <= max, relative to the net's picture.

    In Darknet's order: shuffle, cut and flip, clamp to the picture, keep the first `max`, then
    drop what is smaller than one pixel of the net, outside, or was wrong from the start.

    Source:
        AlexeyAB/darknet 59596d78 src/data.c randomize_boxes, correct_boxes,
        fill_truth_detection.
    """
    classes, x, y, w, h = _shuffled(boxes, plan.shuffle).T
    is_wrong = (x == 0) & (y == 0)
    is_wrong |= (x + w / TWO < 0) | (y + h / TWO < 0) | (x - w / TWO > 1) | (y - h / TWO > 1)
    left, right = _moved(x - w / TWO, x + w / TWO, plan.pleft, plan.pright, width_px)
    top, bottom = _moved(y - h / TWO, y + h / TWO, plan.ptop, plan.pbot, height_px)
    if plan.flip:
        left, right = ONE - right, ONE - left
    left, right, top, bottom = (np.clip(edge, 0, 1) for edge in (left, right, top, bottom))
    x, y, w, h = (left + right) / TWO, (top + bottom) / TWO, right - left, bottom - top
    w, h = np.clip(w, 0, 1), np.clip(h, 0, 1)  # a negative size was written in the label file
    is_kept = (w >= ONE / np.float32(net_width)) & (h >= ONE / np.float32(net_height))
    is_kept &= ~is_wrong & (x > 0) & (x <= 1) & (y > 0) & (y <= 1)
    truths: Boxes = np.stack([classes, x, y, w, h], axis=1)
    kept: Boxes = truths[:max][is_kept[:max]]
    return kept


def _cut_px(side_px: int, jitter: float, draw: np.float32, resize: float, zoom: np.float32) -> int:
    """Return the pixels to cut at one end of a side, truncated where C truncates."""
    side = np.float32(side_px)
    most = np.float32(int(side * np.float32(jitter)))
    cut = int(_between(-most, most, draw))
    inwards = outwards = np.float32(resize)
    if outwards > 1:
        outwards = ONE / outwards
    if inwards < 1:
        inwards = ONE / inwards
    lowest = int(side * (ONE - ONE / outwards) / TWO)
    highest = int(side * (ONE - ONE / inwards) / TWO) if resize >= 1 else 0
    return int(np.float32(cut) + _between(np.float32(lowest), np.float32(highest), zoom))


def _letter_box(
    picture_px: tuple[int, int], input_px: tuple[int, int]
) -> tuple[np.float32, np.float32]:
    """Return the borders, left and right or above and below, that give the net's shape."""
    (width, height), (net_width, net_height) = (
        (np.float32(side) for side in size) for size in (picture_px, input_px)
    )
    net_shape = net_width / net_height
    if width / height / net_shape > 1:
        return np.float32(0), (width / net_shape - height) / TWO
    return (height * net_shape - width) / TWO, np.float32(0)


def _blur(net: Net, seed: int, address: tuple[int, int]) -> int:
    """Return nothing, the background or the whole picture with equal probability."""
    if not net.blur:
        return 0
    return (0, 1, net.blur)[int(draw_words(seed, "blur", address, 1)[0]) % 3]


def _noise(net: Net, seed: int, address: tuple[int, int]) -> tuple[int, int]:
    """Return the standard deviation, half of the time 0, and a seed."""
    if not net.gaussian_noise:
        return 0, 0
    choice, noise = (int(word) for word in draw_words(seed, "noise", address, 2))
    return (min(net.gaussian_noise, LARGEST_NOISE), noise) if choice % 2 else (0, 0)


def _is_visible(start_cut_px: int, end_cut_px: int, side_px: int) -> bool:
    """Return whether a cut leaves some of the picture: if not, all of the picture is taken."""
    return max(start_cut_px, 0) + max(end_cut_px, 0) < side_px


def _between(low: np.float32, high: np.float32, draw: np.float32) -> np.float32:
    return draw * (high - low) + low


def _scale(most: float, draw: np.float32, inverted: np.float32) -> float:
    """Return a factor between 1 and `most`, or with probability one half its inverse."""
    # Darknet takes 0 for "not given"; the ends may come in either order.
    low, high = sorted((ONE, np.float32(most or 1.0)))
    scale = _between(low, high, draw)
    return float(scale if inverted >= 0.5 else ONE / scale)


def _cut(image: Pixels, plan: Plan) -> Pixels:
    """Return the part of the picture; what lies outside has the picture's mean colour."""
    height_px, width_px = image.shape[:2]
    inside = image[
        max(plan.ptop, 0) : height_px - max(plan.pbot, 0),
        max(plan.pleft, 0) : width_px - max(plan.pright, 0),
    ]
    top, bottom, left, right = (
        max(-cut, 0) for cut in (plan.ptop, plan.pbot, plan.pleft, plan.pright)
    )
    if not (top or bottom or left or right):
        return inside
    # The sum and a division: OpenCV's own mean takes ten times as long.
    mean = [channel / (height_px * width_px) for channel in cv2.sumElems(image)]
    bordered: Pixels = cv2.copyMakeBorder(
        inside, top, bottom, left, right, cv2.BORDER_CONSTANT, value=mean
    )
    return bordered


def _recolour(sized: Pixels, plan: Plan) -> Pixels:
    """Change hue, saturation and value in OpenCV's 8-bit HSV, saturating at 0 and 255.

    As in Darknet a hue (0 ... 179) does not wrap round below 0 but stays there.
    """
    if sized.ndim == 2:
        grey: Pixels = cv2.convertScaleAbs(sized, alpha=plan.exposure)
        return grey
    # Channel by channel: three times as fast as one table for all, and what Darknet does.
    hue, saturation, value = cv2.split(cv2.cvtColor(sized, cv2.COLOR_RGB2HSV))
    hue = cv2.add(hue, (179 * plan.hue, 0.0, 0.0, 0.0))
    saturation = cv2.convertScaleAbs(saturation, alpha=plan.saturation)
    value = cv2.convertScaleAbs(value, alpha=plan.exposure)
    recoloured: Pixels = cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2RGB)
    return recoloured


def _shuffled(boxes: Boxes, shuffle: int | None) -> Boxes:
    """Swap every box in turn with a random one: Darknet's shuffle, slightly biased as there."""
    count = len(boxes)
    if shuffle is None or count < 2:
        return boxes
    order = list(range(count))
    for i, word in enumerate(draw_words(shuffle, "shuffle", (), count)):
        other = int(word) % count
        order[i], order[other] = order[other], order[i]
    return boxes[order]


def _moved(
    start: Boxes, end: Boxes, start_cut_px: int, end_cut_px: int, side_px: int
) -> tuple[Boxes, Boxes]:
    """Return the edges of boxes relative to what is left of a side after the cuts."""
    side = np.float32(side_px)
    part = np.float32(side_px - start_cut_px - end_cut_px) / side
    offset = np.float32(start_cut_px) / side / part
    factor = ONE / part
    return start * factor - offset, end * factor - offset
