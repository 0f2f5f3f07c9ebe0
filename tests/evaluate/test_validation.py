"""A network is measured without a trace, the same whatever reads its pictures."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from relume.data.loaders import Loaders
from relume.errors import DataFileError, ImageError
from relume.evaluate import detected
from relume.evaluate.detected import Detected, Settings, detect_pictures
from relume.evaluate.validation import evaluate_network
from relume.formats.cfg import parse_cfg
from relume.formats.data_files import read_data_file
from relume.model.detect import detect_image
from relume.model.network import Network
from relume.validation_set import LabelledPicture, read_validation_set
from tests.cfg_texts import small_cfg
from tests.model.darknet_loops import F


@pytest.fixture(scope="module")
def network() -> Network:
    """Return a network in the middle of a training, which finds boxes everywhere."""
    made = Network(parse_cfg(small_cfg(), "net.cfg", purpose="detect"), seed=3)
    made.train()
    made(torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(1)))
    made.fold_statistics([made.take_statistics()] * 300)
    return made


@pytest.fixture
def pictures(network: Network, tmp_path: Path) -> tuple[LabelledPicture, ...]:
    """Return nine pictures of several sizes with, as truths, some of what is found in them."""
    generator = np.random.Generator(np.random.Philox(2))
    listed = []
    network.eval()
    for number in range(9):
        path = tmp_path / f"{number}.png"
        size = (40 + 8 * number, 90 - 6 * number)
        cv2.imwrite(str(path), generator.integers(0, 256, (*size, 3), np.uint8))
        pixels = cv2.imread(str(path))
        assert pixels is not None
        found = detect_image(network, np.ascontiguousarray(pixels[..., ::-1], np.uint8), 0.005)
        kinds = found.probabilities.argmax(1)[:, None].astype(F)
        truths = np.concatenate((kinds, found.boxes_xywh_rel), axis=1)[::5]
        listed.append(LabelledPicture(path, f"valid.txt:{number + 1}", truths))
    network.train()
    return tuple(listed)


def test_the_result_does_not_depend_on_who_reads(
    network: Network, pictures: tuple[LabelledPicture, ...]
) -> None:
    first = evaluate_network(network, pictures, batch=4, workers=0)
    assert first is not None
    assert 0 < first.mean_average_precision < 1
    assert first.counts.truths == sum(len(picture.truths) for picture in pictures)
    for workers in (1, 3):
        assert evaluate_network(network, pictures, batch=4, workers=workers) == first


def test_a_network_in_training_is_left_as_it_was(
    network: Network, pictures: tuple[LabelledPicture, ...]
) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]

    for batches in (99, 1):
        calls = iter([False] * batches + [True] * 99)
        evaluate_network(network, pictures, batch=4, stop=lambda calls=calls: next(calls))  # type: ignore[misc]
        assert [module.training for module in network.modules()] == modes
        assert all(modes)
        after = network.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert all(layer.batch_statistics is None for _, layer in network.batch_norms())
        assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.is_grad_enabled()


def test_a_stop_ends_it_without_a_result(
    network: Network, pictures: tuple[LabelledPicture, ...]
) -> None:
    done: list[int] = []
    for workers in (0, 2):
        done.clear()
        result = evaluate_network(
            network,
            pictures,
            batch=2,
            workers=workers,
            stop=lambda: len(done) >= 2,
            on_progress=done.append,
        )
        assert result is None
        assert done == [2, 4]


def test_progress_counts_pictures(network: Network, pictures: tuple[LabelledPicture, ...]) -> None:
    done: list[int] = []
    evaluate_network(network, pictures, batch=4, on_progress=done.append)
    assert done == [4, 8, 9]


@pytest.mark.parametrize("letter_box", [False, True])
def test_a_batch_finds_what_one_picture_after_the_other_finds(
    network: Network, pictures: tuple[LabelledPicture, ...], letter_box: bool
) -> None:
    named = [(picture.path, picture.place) for picture in pictures]
    settings = Settings(thresh=0.3, letter_box=letter_box, batch=4)
    batches = list(detect_pictures(network, named, settings, workers=2, stop=lambda: False))
    network.eval()
    found = [item for batch in batches for item in batch]
    assert [len(batch) for batch in batches] == [4, 4, 1]
    for index, item in enumerate(found):
        assert isinstance(item, Detected)
        pixels = cv2.imread(str(pictures[index].path))
        assert pixels is not None
        picture = np.ascontiguousarray(pixels[..., ::-1], np.uint8)
        alone = detect_image(network, picture, 0.3, letter_box=letter_box)
        assert item.index == index
        assert item.size_px == (picture.shape[1], picture.shape[0])
        # Convolutions of other batch sizes may add in another order.
        for name in ("boxes_xywh_rel", "probabilities"):
            ours, theirs = getattr(item.detections, name), getattr(alone, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    network.train()


def test_a_bad_picture_is_an_error_or_left_out_with_its_truths(
    network: Network, pictures: tuple[LabelledPicture, ...]
) -> None:
    pictures[5].path.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"valid\.txt:6"):
        evaluate_network(network, pictures, batch=4)
    bad: list[ImageError] = []

    left = evaluate_network(network, pictures, batch=4, on_bad=bad.append)

    assert left is not None
    assert [error.place for error in bad] == ["valid.txt:6"]
    others = sum(len(picture.truths) for picture in pictures) - len(pictures[5].truths)
    assert left.counts.truths == others


def test_pictures_come_with_their_labels_and_difficult_boxes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((4, 4, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "d.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "a.txt").write_text("1 .5 .5 .25 .25\n")
    (tmp_path / "d.txt").write_text("0 .5 .5 .5 .5\n0 .25 .25 .5 .5\n")
    (tmp_path / "valid.txt").write_text("a.png\n\nb.png\n")
    (tmp_path / "difficult.txt").write_text("d.png\nb.png\n")
    (tmp_path / "obj.data").write_text("valid = valid.txt\ndifficult = difficult.txt\n")
    said: list[str] = []

    def read() -> tuple[LabelledPicture, ...]:
        data_file = read_data_file(tmp_path / "obj.data")
        return read_validation_set(
            data_file, "valid", 2, tmp_path / "cache", 1, said.append
        ).pictures

    a, b = read()

    assert a.truths.tolist() == [[1, 0.5, 0.5, 0.25, 0.25]]
    assert (len(a.difficult), len(b.truths), len(b.difficult)) == (2, 0, 0)
    assert (Path(a.path).name, a.place.rpartition(":")[2], b.place.rpartition(":")[2]) == (
        *("a.png", "1", "3"),
    )
    assert len(said) == 1
    assert "pictures without a label file: 1 of 2" in said[0]
    (tmp_path / "difficult.txt").write_text("d.png\n")
    with pytest.raises(DataFileError, match="as many as in"):
        read()


def test_no_more_threads_are_started_than_have_something_to_do(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    class Noted(Loaders):
        def __init__(self, number: int) -> None:
            begun.append(number)
            super().__init__(min(number, 1))

    monkeypatch.setattr(detected, "Loaders", Noted)

    assert list(detect_pictures(network, [], Settings(batch=4), workers=1_000_000)) == []
    assert begun == [12]
