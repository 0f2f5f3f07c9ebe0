import errno
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from relume.data import batch, loaders
from relume.data.augment import apply_to_pixels, apply_to_truths, draw_plan
from relume.data.batch import MiniBatch, load_mini_batch, mini_batches
from relume.data.image import read_picture
from relume.data.mixing import most_pictures
from relume.data.order import drawn_index
from relume.data.patience import Patience
from relume.data.sample import Source, load_sample
from relume.draws import draw_words
from relume.errors import ImageError, Unavailable
from relume.formats.places import read_file
from relume.formats.sections import Net, Yolo
from tests.shared import SHARED, needs_shared

NET = Net(
    line=1,
    batch=8,
    written_batch=8,
    subdivisions=2,
    width=64,
    height=64,
    channels=3,
    hue=0.1,
    saturation=1.5,
    exposure=1.5,
)
HEAD = Yolo(line=2, jitter=0.3, resize=1.2)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Ten pictures of different sizes, the i-th with i boxes of class i."""
    paths, labels = [], []
    for i in range(10):
        height, width = 40 + 3 * i, 70 - 2 * i
        words = draw_words(i, "test", (), height * width * 3)
        pixels = (words >> np.uint64(56)).astype(np.uint8).reshape(height, width, 3)
        paths.append(tmp_path / f"{i}.png")
        assert cv2.imwrite(str(paths[-1]), pixels)
        labels.append(np.array([[i, 0.5, 0.5, 0.5, 0.5]] * i, dtype=np.float32).reshape(-1, 5))
    places = [f"train.txt:{i + 1}" for i in range(10)]
    return Source(NET, HEAD, 3, paths, places, labels)


def size_of(position: int) -> tuple[int, int]:
    return ((64, 64), (96, 32), (32, 96))[position // 16 % 3]


def assert_same(left: MiniBatch, right: MiniBatch) -> None:
    for field in fields(MiniBatch):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("relume-load")]


def close(batches: Iterator[MiniBatch]) -> None:
    batches.close()  # type: ignore[attr-defined]
    for thread in loader_threads():
        thread.join(timeout=10)
    assert loader_threads() == []


def test_workers_and_read_ahead_change_no_byte(source: Source) -> None:
    expected = list(mini_batches(source, range(0, 64, 4), size_of, 0, 0))
    assert len(expected) == 16
    for workers, read_ahead in ((1, 0), (1, 3), (2, 1), (3, 2), (5, 40)):
        loaded = list(mini_batches(source, range(0, 64, 4), size_of, workers, read_ahead))
        assert len(loaded) == 16
        for left, right in zip(loaded, expected, strict=True):
            assert_same(left, right)


def test_no_more_threads_are_started_than_have_something_to_do(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    class Noted(loaders.Loaders):
        def __init__(self, number: int) -> None:
            begun.append(number)
            super().__init__(min(number, 1))

    monkeypatch.setattr(batch, "Loaders", Noted)

    assert list(mini_batches(source, (), size_of, 1_000_000, 2)) == []
    assert begun == [3 * source.net.mini_batch]


def test_starting_later_gives_the_same_mini_batches(source: Source) -> None:
    whole = list(mini_batches(source, range(0, 48, 4), size_of, 2, 2))
    for left, right in zip(
        mini_batches(source, range(24, 48, 4), size_of, 2, 2), whole[6:], strict=True
    ):
        assert_same(left, right)


def test_a_sample_does_not_depend_on_its_neighbours(source: Source) -> None:
    together = load_mini_batch(source, 20, 64, 64)
    for row, position in enumerate(range(20, 24)):
        alone = replace(source, net=replace(NET, batch=1, subdivisions=1))
        mini_batch = load_mini_batch(alone, position, 64, 64)
        np.testing.assert_array_equal(mini_batch.images[0], together.images[row])
        count = mini_batch.boxes_xywh_rel.shape[1]
        np.testing.assert_array_equal(
            mini_batch.boxes_xywh_rel[0], together.boxes_xywh_rel[row, :count]
        )
        assert mini_batch.indices[0] == together.indices[row]


MIXED = {
    "mixup": replace(NET, mixup=True, letter_box=True, blur=3, gaussian_noise=20),
    "mosaic": replace(NET, mosaic=True, mosaic_bound=True, blur=1),
    "mosaic without bound": replace(NET, mosaic=True, flip=False, gaussian_noise=9),
}


@pytest.fixture(params=MIXED)
def mixed(request: pytest.FixtureRequest, source: Source) -> Source:
    """The same pictures, several in half of the samples."""
    return replace(source, net=MIXED[request.param])


def test_workers_and_neighbours_change_no_byte_of_mixed_samples(mixed: Source) -> None:
    expected = list(mini_batches(mixed, range(0, 64, 4), size_of, 0, 0))
    for left, right in zip(
        mini_batches(mixed, range(0, 64, 4), size_of, 3, 5), expected, strict=True
    ):
        assert_same(left, right)
    for left, right in zip(
        mini_batches(mixed, range(24, 48, 4), size_of, 2, 2), expected[6:12], strict=True
    ):
        assert_same(left, right)
    for position in range(8):
        sample = load_sample(mixed, position, *size_of(position))
        row = position % 4
        np.testing.assert_array_equal(expected[position // 4].images[row], sample.image)


@settings(
    deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 4), st.integers(0, 6), st.integers(0, 2**40), st.sampled_from([1, 2, 3]))
def test_a_sample_depends_on_its_position_alone(
    mixed: Source, workers: int, read_ahead: int, first: int, size: int
) -> None:
    """Whatever threads load it, how far ahead they are, and which samples stand beside it."""
    net = replace(mixed.net, batch=size, written_batch=size, subdivisions=1)
    firsts = (first, first + size)
    loaded = mini_batches(replace(mixed, net=net), firsts, lambda _: (96, 64), workers, read_ahead)
    for mini_batch in loaded:
        for row, position in enumerate(mini_batch.positions):
            alone = load_sample(mixed, position, 96, 64)
            np.testing.assert_array_equal(mini_batch.images[row], alone.image)
            assert mini_batch.indices[mini_batch.pictures_of(row)] == alone.indices
            is_truth = mini_batch.classes[row] >= 0
            boxes = mini_batch.boxes_xywh_rel[row, is_truth]
            np.testing.assert_array_equal(boxes, alone.truths[:, 1:])


def test_every_picture_of_a_sample_is_told(mixed: Source) -> None:
    samples = [load_sample(mixed, position, 64, 64) for position in range(40)]

    counts = {len(sample.indices) for sample in samples}
    assert counts == {1, most_pictures(mixed.net)}
    for sample in samples:
        files = [mixed.image_paths[index].read_bytes() for index in sample.indices]
        assert list(sample.digests) == [xxh3_64_intdigest(content) for content in files]
        classes = set(sample.truths[:, 0].tolist())  # the class is the row
        assert classes <= set(sample.indices)
    mini_batch = load_mini_batch(mixed, 8, 64, 64)
    for row, sample in enumerate(samples[8:12]):
        pictures = mini_batch.pictures_of(row)
        assert mini_batch.indices[pictures] == sample.indices
        assert tuple(mini_batch.digests[pictures].tolist()) == sample.digests
    assert sum(mini_batch.pictures) == len(mini_batch.indices) == len(mini_batch.digests)


def test_a_mixed_up_sample_is_two_augmented_pictures(source: Source) -> None:
    mixed = replace(source, net=replace(NET, mixup=True))
    assert isinstance(source.labels, list)
    for position in range(20):
        sample = load_sample(mixed, position, 96, 64)
        parts = []
        for number, index in enumerate(sample.indices):
            picture = read_picture(source.image_paths[index], 3).pixels
            size_px = (picture.shape[1], picture.shape[0])
            plan = draw_plan(NET, HEAD, size_px, (96, 64), source.seed, position, number)
            truths = apply_to_truths(source.labels[index], plan, *size_px, 96, 64, HEAD.max)
            parts.append((apply_to_pixels(picture, plan, 96, 64).astype(np.float64), truths))
        image = np.rint(sum(pixels for pixels, _ in parts) / len(parts))
        np.testing.assert_array_equal(sample.image, image)
        np.testing.assert_array_equal(sample.truths, np.concatenate([t for _, t in parts]))


def test_a_mini_batch_is_laid_out_as_described(source: Source) -> None:
    mini_batch = load_mini_batch(source, 4, 96, 32)
    assert mini_batch.images.shape == (4, 32, 96, 3)
    assert mini_batch.images.flags.c_contiguous
    assert mini_batch.positions == (4, 5, 6, 7)
    assert mini_batch.digests.dtype == np.uint64
    assert mini_batch.classes.shape[1] == max(
        len(load_sample(source, p, 96, 32).truths) for p in range(4, 8)
    )
    for row, index in enumerate(mini_batch.indices):
        sample = load_sample(source, 4 + row, 96, 32)
        count = len(sample.truths)
        assert mini_batch.classes[row, :count].tolist() == [index] * count
        assert (mini_batch.classes[row, count:] == -1).all()
        assert not mini_batch.boxes_xywh_rel[row, count:].any()
        assert (int(mini_batch.digests[row]),) == sample.digests


def test_a_mini_batch_without_truths_has_one_padding_column(source: Source) -> None:
    bare = replace(source, labels=[np.zeros((0, 5), dtype=np.float32)] * 10)
    mini_batch = load_mini_batch(bare, 0, 32, 32)
    assert mini_batch.boxes_xywh_rel.shape == (4, 1, 4)
    assert (mini_batch.classes == -1).all()


def test_with_replacement_a_sample_is_the_picture_drawn_for_it(source: Source) -> None:
    drawing = replace(source, with_replacement=True, net=replace(NET, mixup=True))
    expected = list(mini_batches(drawing, range(0, 40, 4), size_of, 0, 0))
    for left, right in zip(
        mini_batches(drawing, range(0, 40, 4), size_of, 2, 3), expected, strict=True
    ):
        assert_same(left, right)
    for position in range(40):
        sample = load_sample(drawing, position, 64, 64)
        assert list(sample.indices) == [
            drawn_index(source.seed, position, 10, number) for number in range(len(sample.indices))
        ]


def test_an_epoch_shows_every_picture_once(source: Source) -> None:
    seen = [
        i for batch in mini_batches(source, range(0, 20, 4), size_of, 2, 1) for i in batch.indices
    ]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_stops_its_own_mini_batch(source: Source, workers: int) -> None:
    bad = load_sample(source, 9, 64, 64).indices[0]
    source.image_paths[bad].write_bytes(b"broken")
    # Picture `bad` stands at position 9 of the first ten, so in the third mini-batch.
    batches = mini_batches(source, range(0, 64, 4), size_of, workers, 5)
    assert [next(batches).positions[0], next(batches).positions[0]] == [0, 4]
    with pytest.raises(ImageError, match=rf"^train\.txt:{bad + 1}: .*{bad}\.png cannot be decoded"):
        next(batches)
    close(batches)


def test_no_more_is_read_ahead_than_asked(source: Source) -> None:
    asked: list[int] = []

    def counted(position: int) -> tuple[int, int]:
        asked.append(position)
        return 32, 32

    batches = mini_batches(source, range(0, 4000, 4), counted, 1, 3)
    assert asked == []
    next(batches)
    assert asked == [0, 4, 8, 12]
    next(batches)
    assert asked == [0, 4, 8, 12, 16]
    close(batches)


class CountedPaths(list[Path]):
    """A list of paths that counts how often one is taken out."""

    taken = 0

    def __getitem__(self, index: Any) -> Any:
        self.taken += 1
        return super().__getitem__(index)


def test_closing_drops_what_is_waiting(source: Source) -> None:
    paths = CountedPaths(source.image_paths)
    batches = mini_batches(replace(source, image_paths=paths), range(0, 4000, 4), size_of, 2, 1000)
    next(batches)
    close(batches)
    assert paths.taken < 2000


def test_nothing_is_loaded_behind_the_end(source: Source) -> None:
    assert list(mini_batches(source, range(8, 8, 4), size_of, 2, 2)) == []
    assert [b.positions[0] for b in mini_batches(source, range(8, 16, 4), size_of, 2, 9)] == [8, 12]


@needs_shared
def test_real_pictures_keep_nearly_all_their_boxes() -> None:
    folder = SHARED / "data" / "bccd"
    lines = (folder / "train.txt").read_text().split()[:40]
    paths = [folder / line for line in lines]
    labels = [
        np.loadtxt(path.with_suffix(".txt"), dtype=np.float32, ndmin=2).reshape(-1, 5)
        for path in paths
    ]
    source = Source(NET, Yolo(line=2, jitter=0.3), 1, paths, lines, labels)
    batches = list(mini_batches(source, range(0, 40, 4), lambda _: (416, 416), 2, 2))
    kept = sum(int((batch.classes >= 0).sum()) for batch in batches)
    written = sum(map(len, labels))
    # Either end of a side loses .075 of it on average, so 28 % of the area is cut off; boxes on
    # the border of the rest stay.
    assert 0.7 * written < kept < written
    boxes = np.concatenate([batch.boxes_xywh_rel[batch.classes >= 0] for batch in batches])
    assert (boxes[:, :2] - boxes[:, 2:] / 2 >= -1e-6).all()  # rounding of centre and size
    assert (boxes[:, :2] + boxes[:, 2:] / 2 <= 1 + 1e-6).all()


# What must not hold up a run


def test_a_read_that_hangs_does_not_keep_a_stop_from_being_noticed(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, let_go, asked = threading.Event(), threading.Event(), threading.Event()
    whole = load_sample

    def load(source: Source, position: int, *args: Any) -> Any:
        if position == 6:
            hangs.set()
            let_go.wait()
        return whole(source, position, *args)

    def stopped() -> bool:
        asked.set()
        return hangs.is_set()

    monkeypatch.setattr(batch, "load_sample", load)
    monkeypatch.setattr(loaders, "LONGEST_FAREWELL_S", 0.0)
    loaded = list(mini_batches(source, range(0, 64, 4), size_of, 1, 3, Patience(stopped=stopped)))

    assert asked.is_set()
    assert [mini_batch.positions[0] for mini_batch in loaded] == [0]
    assert all(thread.daemon for thread in loader_threads())  # keeps no process alive
    let_go.set()
    for thread in loader_threads():
        thread.join(timeout=10)


def test_without_threads_a_stop_is_noticed_between_two_pictures(source: Source) -> None:
    asked = iter([False] * 6 + [True])

    loaded = list(
        mini_batches(source, range(0, 64, 4), size_of, 0, 0, Patience(stopped=lambda: next(asked)))
    )

    assert [mini_batch.positions[0] for mini_batch in loaded] == [0]
    assert list(asked) == []


@pytest.mark.parametrize("error", [MemoryError("none left"), SystemExit(3), KeyError("ours")])
def test_whatever_a_thread_raises_is_raised_where_the_picture_would_have_come(
    source: Source, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    whole = load_sample

    def load(source: Source, position: int, *args: Any) -> Any:
        if position == 5:
            raise error
        return whole(source, position, *args)

    monkeypatch.setattr(batch, "load_sample", load)
    batches = mini_batches(source, range(0, 64, 4), size_of, 2, 3)
    assert next(batches).positions[0] == 0

    with pytest.raises(type(error)):
        next(batches)


@pytest.mark.parametrize("deaths", [1, 2, 5])
def test_threads_that_die_are_replaced_and_change_no_byte(
    source: Source, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    """None can be killed alone; if one ends all the same, its task is done by another."""
    expected = list(mini_batches(source, range(0, 32, 4), size_of, 0, 0))
    left = list(range(deaths))
    work = loaders.Loaders._work

    def dying(pool: loaders.Loaders) -> None:
        try:
            left.pop()
        except IndexError:
            work(pool)
        else:
            pool._tasks.get()  # and takes the task along

    monkeypatch.setattr(loaders.Loaders, "_work", dying)
    loaded = list(mini_batches(source, range(0, 32, 4), size_of, 2, 2))

    assert left == []
    for one, other in zip(loaded, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_the_disk_does_not_give_ends_the_loading_soon(
    source: Source, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    lost = source.image_paths[load_sample(source, 9, 64, 64).indices[0]]
    whole = read_file

    def read(path: Path) -> bytes:
        if path == lost:
            raise OSError(errno.EIO, "Input/output error")
        return whole(path)

    monkeypatch.setattr("relume.data.patience.read_file", read)
    slept: list[float] = []
    patience = Patience((0.1, 0.2), sleep=slept.append)
    batches = mini_batches(source, range(0, 64, 4), size_of, workers, 0, patience)
    assert [next(batches).positions[0], next(batches).positions[0]] == [0, 4]

    with pytest.raises(Unavailable, match="cannot be read: Input/output error"):
        next(batches)

    assert sum(slept) == pytest.approx(0.3)
    assert patience.is_over() or workers == 0  # no thread goes on waiting
