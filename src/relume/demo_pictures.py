"""Draw a small data set of road signs from a seed, in Darknet's form, to try a training on.

A picture is a landscape with a road, slightly out of focus, and before it one to three signs:
the classes. Other plates stand among them without a label, so that colour alone does not solve
the task. A sign is painted on a flat face and carried into the picture by a homography; its box
follows from the face's outline. The pixel noise is dealt last: the scene is the same at any side.

Not covered: the training, and equal bytes of JPEG files from different builds of OpenCV.
"""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from relume.draws import draw_uniforms
from relume.errors import StorageError

CLASS_NAMES = ("stop", "warning", "limit")

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Colour = tuple[float, float, float]  # blue, green, red in 0 … 255
_Thing = tuple[float, int, float, float]  # size, kind, x, y (rel); classes are the first kinds

_SCENE_NUMBERS = 20_000  # dealt before the pixel noise; a picture takes fewer than 19,000
_FACE = 256  # side of a painted face in px
_FINE = 4  # a face is drawn this much finer than the picture, then shrunk

_RED, _WHITE, _BLACK = (38.0, 28.0, 196.0), (240.0, 242.0, 242.0), (28.0, 26.0, 26.0)
_YELLOW, _BLUE, _GREY = (40.0, 196.0, 244.0), (168.0, 84.0, 20.0), (150.0, 148.0, 144.0)
_DRY, _DIRT, _BARK = (70.0, 120.0, 140.0), (90.0, 128.0, 156.0), (50.0, 62.0, 78.0)

# Kinds of day: zenith, haze, grass, leaves, and a gain on the finished picture.
_MOODS: tuple[tuple[Colour, Colour, Colour, Colour, Colour], ...] = (
    ((214, 150, 84), (236, 222, 200), (62, 132, 96), (44, 96, 58), (1, 1, 1)),
    ((190, 178, 166), (214, 212, 208), (70, 112, 96), (52, 84, 62), (1, 1, 1)),
    ((168, 116, 92), (120, 176, 244), (52, 104, 112), (38, 70, 66), (0.86, 0.95, 1.04)),
    ((226, 172, 110), (232, 220, 206), (92, 164, 186), (40, 108, 150), (0.96, 1, 1.03)),
    ((120, 84, 58), (170, 140, 128), (66, 92, 72), (48, 64, 44), (0.86, 0.76, 0.72)),
    ((206, 186, 168), (232, 228, 224), (226, 222, 218), (84, 92, 80), (1.02, 1, 0.97)),
)


def _points(*corners: tuple[float, float]) -> Floats:
    return np.array(corners, np.float32)


def _ring(corners: int, radius: float) -> Floats:
    """Return a regular polygon around (0, 0); four corners stand on a tip, eight on a side."""
    turns = (np.arange(corners) + (0.5 if corners == 8 else 0)) * (2 * np.pi / corners)
    return (radius * np.stack((np.sin(turns), -np.cos(turns)), 1)).astype(np.float32)


# Shapes on a face, in px from its middle, and the width and height of texts.
_TIPS = np.concatenate([_ring(24, 18) + _points(at) for at in ((0, -92), (106, 90), (-106, 90))])
_TRIANGLE: Floats = cv2.convexHull(_TIPS)[:, 0]
_INNER = _TRIANGLE * 0.64 + _points((0, 12))
_BAR, _DOT = _points((-14, -34), (14, -34), (8, 30), (-8, 30)), _ring(16, 12) + _points((0, 52))
_SQUARE = _points((-1, -1), (1, -1), (1, 1), (-1, 1))
_BOARD = _SQUARE * _points((124, 58))
_ARROW = _points((0, -84), (64, -8), (22, -8), (22, 80), (-22, 80), (-22, -8), (-64, -8))
_LANTERN = _points((-24, -120), (24, -120), (72, -72), (42, 120), (-42, 120), (-72, -72))
_TEXT_BOXES = {"STOP": (182, 84), "P": (92, 140), "NORTH": (190, 50)}


class _Supply:
    """The numbers of one picture, dealt in the order they are asked for."""

    def __init__(self, numbers: Floats) -> None:
        self._numbers, self._dealt = numbers, 0

    def field(self, rows: int, columns: int) -> Floats:
        start, self._dealt = self._dealt, self._dealt + rows * columns
        return self._numbers[start : self._dealt].reshape(rows, columns)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.field(1, 1)[0, 0])

    def choose(self, count: int) -> int:
        return int(self.between(0, count))


def draw_picture(seed: int, index: int, side_px: int) -> tuple[Bytes, Floats]:
    """Draw one picture and its truths.

    Args:
        seed, index: any integer, and the picture's number in the seed's endless series, from 0.
        side_px: width and height of the picture in px.
    Returns:
        The picture, uint8 BGR [side_px, side_px, 3], and float32 [N, 5] with N = 1 … 3 rows of
        class, x, y, w, h (rel): the smallest box around each labelled plate, without its pole.
    """
    numbers = draw_uniforms(seed, "demo", (index,), _SCENE_NUMBERS + side_px * side_px)
    supply = _Supply(numbers[:_SCENE_NUMBERS])
    zenith, haze, grass, leaves, gain = _MOODS[supply.choose(len(_MOODS))]
    horizon, size = supply.between(0.42, 0.62), 2 * side_px
    scene, edge = np.empty((size, size, 3), np.float32), int(horizon * size)
    _draw_sky(scene[:edge], supply, zenith, haze, leaves)
    road = _draw_ground(scene[edge:], supply, haze, grass)
    _draw_trees(scene, supply, haze, leaves, road)
    scene = cv2.GaussianBlur(scene, (0, 0), size / 512 * supply.between(0.8, 2.6))
    picture = cv2.resize(scene, (side_px, side_px), None, 0, 0, cv2.INTER_AREA)
    truths: list[tuple[float, ...]] = []
    for thing in _place_things(supply):
        box_rel = _draw_thing(picture, supply, thing, horizon) / np.float32(side_px)
        if thing[1] < len(CLASS_NAMES):
            truths.append((thing[1], *box_rel))
    noise = numbers[_SCENE_NUMBERS:].reshape(side_px, side_px) - np.float32(0.5)
    return _develop(picture, supply, gain, noise), np.array(truths, dtype=np.float32)


def write_data_set(folder: Path, seed: int, train: int, valid: int, side_px: int = 256) -> None:
    """Write pictures, labels, lists, obj.names and obj.data; paths are relative to `folder`.

    Args:
        folder: is made if missing; files of the same names are replaced.
        seed: any integer; the same seed writes the same bytes.
        train, valid: pictures in train.txt, the first of the series, and valid.txt, the next.
        side_px: width and height of the pictures in px.
    Raises:
        StorageError: the file system refused a write.
    """
    paths = [f"img/{index + 1:04d}.jpg" for index in range(train + valid)]
    files = {"train.txt": paths[:train], "valid.txt": paths[train:], "obj.names": CLASS_NAMES}
    keys = ("train = train.txt", "valid = valid.txt", "names = obj.names", "backup = backup")
    files["obj.data"] = (f"classes = {len(CLASS_NAMES)}", *keys)
    try:
        (folder / "img").mkdir(parents=True, exist_ok=True)
        for index, path in enumerate(paths):
            picture, truths = draw_picture(seed, index, side_px)
            jpeg = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, 92))[1]
            (folder / path).write_bytes(jpeg.tobytes())
            rows = [(int(kind), *(f"{v:.6f}" for v in box)) for kind, *box in truths]
            files[path.replace(".jpg", ".txt")] = [" ".join(map(str, row)) for row in rows]
        for name, lines in files.items():
            (folder / name).write_bytes("".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise StorageError(folder, f"the demo data set cannot be written ({error})") from error


def _draw_sky(sky: Floats, supply: _Supply, zenith: Colour, haze: Colour, leaves: Colour) -> None:
    """Draw the sky with clouds and three ranges of hills, the farther the hazier."""
    y = np.linspace(0, 1, len(sky), dtype=np.float32)[:, None]
    height = y ** np.float32(supply.between(0.7, 1.6))
    sky[:] = zenith
    _mix(sky, haze, height)
    clouds = _noise(supply, 3, 2, sky.shape[:2]) - np.float32(supply.between(0.4, 0.66))
    _mix(sky, _between(haze, _WHITE, 0.7), np.clip(clouds * 4, 0, 0.9) * (1 - 0.7 * height))
    for distance in (0.75, 0.5, 0.25):
        peaks = supply.field(1, 2 + supply.choose(5))
        ridge = cv2.resize(peaks, (sky.shape[1], 1), None, 0, 0, cv2.INTER_CUBIC)
        top = 1 - np.float32(supply.between(0.04, 0.32) * (0.3 + 0.7 * distance)) * ridge
        colour = _between(leaves, haze, distance * supply.between(0.8, 1.15))
        _mix(sky, colour, np.clip((y - top) * len(sky), 0, 1))


def _draw_ground(ground: Floats, supply: _Supply, haze: Colour, grass: Colour) -> Floats:
    """Draw meadow and road; return each pixel's distance to the road's middle in half widths."""
    x = np.linspace(0, 1, ground.shape[1], dtype=np.float32)[None]
    near = np.linspace(0.004, 1, len(ground), dtype=np.float32)[:, None]
    # A tile laid flat: one coordinate of the texture goes with x/near, the other with 1/near.
    across, along = (x - 0.5) / near * 24 % 48, 40 / near % 48 + 0 * x
    flat = cv2.remap(np.tile(supply.field(48, 48), (2, 2)) - 0.5, across, along, cv2.INTER_LINEAR)
    rough = flat * np.sqrt(near) + (_noise(supply, 5, 24, across.shape) - 0.5) * (near + 0.4)
    vanish, foot, bend = (supply.between(*ends) for ends in ((0.2, 0.8), (0, 1), (-0.3, 0.3)))
    centre = vanish + (foot - vanish) * near + bend * near * (1 - near) ** 2
    half = 0.006 + supply.between(0.22, 0.42) * near
    offset, sharp = np.abs(x - centre) / half, half * ground.shape[1]
    grey, dirt = supply.between(84, 150), supply.choose(5) == 0
    ground[:] = _between(grass, _DRY, supply.between(0, 0.35))
    _mix(ground, _DIRT if dirt else (grey, grey, grey), np.clip((1 - offset) * sharp, 0, 1))
    ground *= cv2.merge((1 + rough * np.where(offset < 1, 0.2, 0.42),) * 3)
    if not dirt:
        edges = np.clip((0.025 - np.abs(offset - 0.9)) * sharp + 0.5, 0, 1)
        dashes = np.clip((0.025 - offset) * sharp + 0.5, 0, 1) * (1.1 / near % 1 < 0.5)
        _mix(ground, _WHITE, (edges + dashes) * np.clip(near * 8 - 0.3, 0, 0.85))
    _mix(ground, haze, 0.5 * (1 - near) ** 4)
    return np.asarray(offset, np.float32)


def _draw_trees(scene: Floats, supply: _Supply, haze: Colour, leaves: Colour, road: Floats) -> None:
    size = len(scene)
    for near in sorted(u * u for u in supply.field(1, 5 + supply.choose(14))[0].tolist()):
        x, fir, row = supply.choose(size), supply.choose(3) == 0, int((0.005 + 0.12 * near) * size)
        base, tall = size - len(road) + row, supply.between(0.06, 0.13) * (1 + 2 * near) * size
        crown = _between(_between(leaves, _DRY, supply.between(0, 0.3)), haze, 0.45 * (1 - near))
        if road[row, x] < 1.3:
            continue
        cv2.line(scene, (x, base), (x, base - int(tall / 2)), _BARK, 1 + int(tall / 24))
        for v, u, r, shade in sorted(supply.field(44, 4).tolist()):
            wide, high, leaf = (0.42 - 0.4 * v, 0.9, 0.09 - 0.06 * v) if fir else (0.5, 0.5, 0.08)
            spot = (int(x + tall * wide * (u - 0.5)), int(base - tall * (0.95 - high * (1 - v))))
            # Leaves higher up and on the left get more light.
            colour = _between(_BLACK, crown, 0.75 + 0.3 * v - 0.2 * u + 0.25 * shade)
            cv2.circle(scene, spot, int(tall * leaf * (1 + r)), colour, -1)


def _noise(supply: _Supply, rows: int, columns: int, shape: tuple[int, ...]) -> Floats:
    """Return smooth noise of `shape` around 0.5: four octaves of random grids."""
    total = np.zeros(shape, np.float32)
    for octave in range(4):
        grid = supply.field(rows << octave, columns << octave) * np.float32(0.5**octave / 1.875)
        total += cv2.resize(grid, shape[::-1], None, 0, 0, cv2.INTER_LINEAR)
    return total


def _mix(under: Floats, over: Floats | Colour, share: Floats) -> None:
    """Lay `over` on `under` [H, W, 3] in place, where and as much as `share` says."""
    # OpenCV spreads a share over the channels many times faster than NumPy broadcasts it.
    share = np.ascontiguousarray(np.broadcast_to(share, under.shape[:2]), np.float32)
    under *= cv2.merge((1 - share,) * 3)
    channels = over if isinstance(over, tuple) else cv2.split(over)
    under += cv2.merge([share * channel for channel in channels])


def _between(first: Colour, second: Colour, share: float) -> Colour:
    blue, green, red = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return blue, green, red


def _place_things(supply: _Supply) -> list[_Thing]:
    """Return up to three signs and two other things, far (small) to near, hardly overlapping."""
    things: list[_Thing] = []
    signs, others = 1 + supply.choose(3), supply.choose(3)
    for number in range(signs + others):
        for _ in range(12):
            kind = supply.choose(3) if number < signs else 3 + supply.choose(5)
            size = supply.between(0.14, 0.43 - 0.03 * (signs + others))
            x = supply.between(0.54 * size + 0.01, 0.99 - 0.54 * size)
            y = supply.between(0.54 * size + 0.01, 0.72 - 0.54 * size)
            if not any(_collide((size, kind, x, y), other) for other in things):
                things.append((size, kind, x, y))
                break
    return sorted(things)


def _collide(one: _Thing, two: _Thing) -> bool:
    """Say whether plates overlap by more than 8 %, or the nearer's pole crosses the other."""
    (size, _, x, y), (near_size, _, near_x, near_y) = sorted((one, two))
    wide, tall = ((size + near_size) / 2 - abs(apart) for apart in (x - near_x, y - near_y))
    overlap = max(0, wide) * max(0, tall) / size**2
    return overlap > 0.08 or (near_y < y and abs(x - near_x) < size / 2 + 0.03)


def _draw_thing(picture: Floats, supply: _Supply, thing: _Thing, horizon: float) -> Floats:
    """Draw pole and plate in place; return the plate's box as x, y, w, h (px)."""
    side, (size, kind, x, y) = len(picture), thing
    foot = max(horizon + 0.08, y + size * supply.between(1.6, 2.4))
    middle, half = x + supply.between(-0.02, 0.02) * size, max(0.9, 0.032 * size * side)
    across = (np.arange(side, dtype=np.float32) + np.float32(0.5 - middle * side)) / half
    shine = np.multiply.outer(1.05 - 0.4 * np.abs(across + 0.3), np.array(_GREY, np.float32))
    share = np.clip((1 - np.abs(across)) * half + 0.5, 0, 1)
    pole = picture[int(y * side) : int(foot * side)]
    _mix(pole, np.broadcast_to(shine, pole.shape), share)
    face, outline = _paint_face(supply, kind)
    turn = np.deg2rad(supply.between(-8, 8))
    turned = _points((np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn)))
    corners = _SQUARE * _points((supply.between(0.84, 1), 1)) + (supply.field(4, 2) - 0.5) * 0.12
    corners = (corners @ turned * (size / 2) + _points((x, y))) * side
    to_picture = cv2.getPerspectiveTransform(_SQUARE * (_FACE / 2), corners.astype(np.float32))
    outline_px = cv2.perspectiveTransform(outline[None], to_picture)[0]
    low, high = outline_px.min(0), outline_px.max(0)
    (left, top), (right, bottom) = np.floor(low).astype(int), np.ceil(high).astype(int)
    spot = picture[top:bottom, left:right]
    fine = (spot.shape[1] * _FINE, spot.shape[0] * _FINE)
    # OpenCV counts centres of pixels; face and outline are measured from corners of pixels.
    to_face = np.array([[1, 0, 0.5 - _FACE / 2], [0, 1, 0.5 - _FACE / 2], [0, 0, 1]])
    to_fine = np.array([[_FINE, 0, -_FINE * left - 0.5], [0, _FINE, -_FINE * top - 0.5], [0, 0, 1]])
    carry, mask = to_fine @ to_picture @ to_face, np.zeros(fine[::-1], np.float32)
    colour = cv2.warpPerspective(face, carry, fine, None, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
    points = np.rint((outline_px - (left, top)) * _FINE * 16 - 8).astype(np.int32)
    cv2.fillConvexPoly(mask, points, 1, cv2.LINE_8, 4)
    shrink = (spot.shape[1::-1], None, 0, 0, cv2.INTER_AREA)
    _mix(spot, cv2.resize(colour, *shrink), cv2.resize(mask, *shrink))
    return np.concatenate(((low + high) / 2, high - low)).astype(np.float32)


def _paint_face(supply: _Supply, kind: int) -> tuple[Floats, Floats]:
    """Return a painted face and the outline of its lowest layer, [P, 2] in face px."""
    inside = _WHITE if supply.choose(2) else _YELLOW
    layers: tuple[tuple[Floats | str, Colour], ...] = (
        ((_ring(8, 126), _WHITE), (_ring(8, 114), _RED), ("STOP", _WHITE)),
        ((_TRIANGLE, _RED), (_INNER, inside), (_BAR, _BLACK), (_DOT, _BLACK)),
        ((_ring(64, 124), _RED), (_ring(64, 90), _WHITE), (f"{3 + supply.choose(6)}0", _BLACK)),
        ((_SQUARE * 112, _WHITE), (_SQUARE * 102, _BLUE), ("P", _WHITE)),
        ((_ring(64, 122), _WHITE), (_ring(64, 114), _BLUE), (_ARROW, _WHITE)),
        ((_ring(4, 126), _WHITE), (_ring(4, 92), _YELLOW)),
        ((_BOARD, _BLACK), (_BOARD * 0.94, inside), ("NORTH", _BLACK)),
        ((_LANTERN, _BLACK), (_LANTERN * 0.77, (190, 236, 255))),
    )[kind]
    face = np.full((_FACE, _FACE, 3), layers[0][1], np.float32)
    for shape, colour in layers:
        if isinstance(shape, str):
            _write_text(face, shape, colour)
        else:
            points = np.rint((shape + _FACE / 2) * 16 - 8).astype(np.int32)
            cv2.fillPoly(face, [points], colour, cv2.LINE_8, 4)
    _mix(face, _GREY, np.array([supply.between(0, 0.22)]))
    slope = np.linspace(-1, 1, _FACE, dtype=np.float32)
    light = slope[:, None] * supply.between(-0.14, 0.04) + slope * supply.between(-0.1, 0.1)
    light += supply.between(0.71, 0.99) + 0.14 * _noise(supply, 2, 2, face.shape[:2])
    face *= cv2.merge([light * np.float32(supply.between(0.94, 1.06)) for _ in range(3)])
    return face, np.asarray(layers[0][0], np.float32)


def _write_text(face: Floats, text: str, colour: Colour) -> None:
    """Write `text` in the middle of the face, stretched to its box."""
    stencil = np.zeros((160, 640), np.uint8)
    cv2.putText(stencil, text, (20, 120), cv2.FONT_HERSHEY_SIMPLEX, 3.5, 255, 19, cv2.LINE_AA)
    left, top, wide, tall = cv2.boundingRect(stencil)
    inked = stencil[top : top + tall, left : left + wide]
    wide, tall = _TEXT_BOXES.get(text, (116, 88))
    x, y = (_FACE - wide) // 2, (_FACE - tall) // 2
    share = cv2.resize(inked, (wide, tall), None, 0, 0, cv2.INTER_AREA) / 255
    _mix(face[y : y + tall, x : x + wide], colour, share)


def _develop(picture: Floats, supply: _Supply, gain: Colour, noise: Floats) -> Bytes:
    """Return the picture as a camera gives it: light, vignette, contrast, blur and noise."""
    line = np.linspace(-1, 1, len(picture), dtype=np.float32)
    side, corners = supply.between(-0.12, 0.12), supply.between(0, 0.18)
    dark = side * line + corners * (line**2 + line[:, None] ** 2)
    shown = picture * cv2.merge([(1 - dark) * channel for channel in gain])
    shown = supply.between(112, 140) + (shown - 128) * supply.between(0.85, 1.12)
    shown = cv2.GaussianBlur(shown, (0, 0), len(picture) / 256 * supply.between(0.3, 0.6))
    shown += cv2.merge((noise * supply.between(4, 22),) * 3)
    return np.asarray(np.clip(np.rint(shown), 0, 255), np.uint8)
