"""A head's gradient is Darknet's, for whatever is predicted and whatever is to be seen."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from relume.formats.sections import Yolo
from relume.model.loss import HeadLoss, Truths, head_loss
from tests.model.darknet_loops import yolo_delta

ANCHORS = ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0), (81.0, 82.0), (60.0, 40.0), (90.0, 90.0))
HEAD = Yolo(line=1, classes=3, num=6, mask=(3, 1, 4), anchors_px=ANCHORS, ignore_thresh=0.5, max=50)
NET = (160, 96)
GRID = (3, 5)
"""(H, W): stride 32."""


def random_case(seed: int, images: int, truths: int) -> tuple[Tensor, Truths]:
    """Return a raw output and truths; many truths share cells, some are padding."""
    generator = np.random.Generator(np.random.Philox(seed))
    channels = len(HEAD.mask) * (5 + HEAD.classes)
    raw = generator.normal(0, 1, (images, channels, *GRID)).astype(np.float32)
    sizes = generator.uniform(0.05, 0.9, (images, truths, 2))
    # A coarse raster of centres: cell borders, the right edge, and cells with several truths.
    centres = generator.integers(1, 11, (images, truths, 2)) / 10
    boxes = np.concatenate((centres, sizes), 2).astype(np.float32)
    classes = generator.integers(-1, HEAD.classes + 1, (images, truths))
    classes = np.where(np.arange(truths) < truths - 1, classes, -1)
    return torch.from_numpy(raw), Truths(torch.from_numpy(boxes), torch.from_numpy(classes))


def loss_of(raw: Tensor, truths: Truths, head: Yolo = HEAD) -> HeadLoss:
    """Return head_loss at the size of these tests."""
    return head_loss(raw, truths, head, *NET)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 3),
    truths=st.integers(1, 12),
    ignore_thresh=st.sampled_from([0.2, 0.5, 0.7]),
    truth_thresh=st.sampled_from([1.0, 0.4]),
    scale_x_y=st.sampled_from([1.0, 1.2]),
    iou_normalizer=st.sampled_from([1.0, 0.75]),
    obj_normalizer=st.sampled_from([1.0, 0.4]),
    channels_last=st.booleans(),
)
def test_the_gradient_is_that_of_darknets_loops(
    seed: int, images: int, truths: int, channels_last: bool, **keys: float
) -> None:
    head = replace(HEAD, **keys)  # type: ignore[arg-type]
    raw, seen = random_case(seed, images, truths)
    if channels_last:
        raw = raw.contiguous(memory_format=torch.channels_last)
    found = loss_of(raw, seen, head)
    shape = (len(head.mask), 5 + head.classes, *GRID)
    expected = np.stack(
        [
            yolo_delta(
                raw[b].numpy().reshape(shape),
                seen.boxes_xywh_rel[b].numpy(),
                seen.classes[b].numpy(),
                head,
                NET,
            ).reshape(raw.shape[1:])
            for b in range(images)
        ]
    )
    assert found.delta.shape == raw.shape
    # exp and log of two libraries differ in the last bit.
    np.testing.assert_allclose(found.delta.numpy(), expected, rtol=2e-5, atol=2e-6)


def test_the_three_losses_add_up_to_the_square_of_the_gradient() -> None:
    raw, truths = random_case(1, 3, 12)
    found = loss_of(raw, truths)
    total = found.box + found.objectness + found.classification
    # Sums in another order.
    torch.testing.assert_close(total, found.delta.square().sum(), rtol=1e-5, atol=0)
    assert found.box > 0
    assert found.classification > 0


def test_a_picture_without_truths_is_told_nothing_here_everywhere() -> None:
    raw, _ = random_case(2, 2, 1)
    found = loss_of(raw, Truths(torch.zeros(2, 1, 4), torch.full((2, 1), -1)))
    rows = found.delta.view(2, 3, 8, *GRID)
    objectness = torch.sigmoid(raw.view(2, 3, 8, *GRID)[:, :, 4])
    assert found.assigned == 0
    assert torch.equal(rows[:, :, 4], -objectness)
    assert not rows[:, :, :4].any()
    assert not rows[:, :, 5:].any()


def test_padding_changes_nothing() -> None:
    raw, truths = random_case(3, 2, 8)
    padded = Truths(
        torch.cat((truths.boxes_xywh_rel, torch.full((2, 5, 4), 0.5)), 1),
        torch.cat((truths.classes, torch.full((2, 5), -1)), 1),
    )
    assert torch.equal(loss_of(raw, truths).delta, loss_of(raw, padded).delta)


def test_an_image_never_depends_on_its_neighbours() -> None:
    raw, truths = random_case(4, 3, 8)
    together = loss_of(raw, truths).delta
    for b in range(3):
        one = Truths(truths.boxes_xywh_rel[b : b + 1], truths.classes[b : b + 1])
        assert torch.equal(loss_of(raw[b : b + 1], one).delta[0], together[b])


def test_of_two_truths_on_one_row_the_last_gives_the_box_and_both_their_class() -> None:
    raw, _ = random_case(5, 1, 1)
    first, last = [0.5, 0.5, 0.51, 0.85], [0.51, 0.52, 0.5, 0.86]
    both = loss_of(raw, Truths(torch.tensor([[first, last]]), torch.tensor([[0, 2]])))
    alone = loss_of(raw, Truths(torch.tensor([[last]]), torch.tensor([[2]])))
    ours = both.delta.view(3, 8, *GRID)[0, :, 1, 2]
    theirs = alone.delta.view(3, 8, *GRID)[0, :, 1, 2]
    assert (both.assigned, alone.assigned) == (2, 1)
    assert torch.equal(ours[:5], theirs[:5])
    assert ours[5] > 0
    assert ours[6] < 0
    assert ours[7] > 0


def test_a_truth_on_a_cell_border_belongs_to_the_cell_that_float32_says() -> None:
    raw, _ = random_case(6, 1, 1)
    # 0.6 in float32 is above six tenths: times five it is exactly 3.
    found = loss_of(raw, Truths(torch.tensor([[[0.6, 1.0, 0.5, 0.85]]]), torch.tensor([[1]])))
    positive = (found.delta.view(3, 8, *GRID)[:, 4] > 0).nonzero().tolist()
    assert positive == [[0, 2, 3]]


def test_a_truth_whose_anchor_belongs_to_another_head_is_not_assigned() -> None:
    raw, _ = random_case(7, 1, 1)
    small = [0.5, 0.5, ANCHORS[0][0] / NET[0], ANCHORS[0][1] / NET[1]]
    found = loss_of(raw, Truths(torch.tensor([[small]]), torch.tensor([[1]])))
    assert found.assigned == 0


def test_of_equally_shaped_anchors_the_first_is_taken() -> None:
    head = replace(HEAD, num=3, mask=(0, 1, 2), anchors_px=(ANCHORS[3],) * 3)
    raw, _ = random_case(8, 1, 1)
    found = loss_of(raw, Truths(torch.tensor([[[0.5, 0.5, 0.5, 0.8]]]), torch.tensor([[1]])), head)
    positive = (found.delta.view(3, 8, *GRID)[:, 4] > 0).nonzero()[:, 0].tolist()
    assert positive == [0]


def test_an_infinite_prediction_overlaps_nothing_and_raises_no_error() -> None:
    raw, truths = random_case(9, 1, 4)
    raw[:, 2:4] = 200.0
    found = loss_of(raw, truths)
    assert found.delta.shape == raw.shape
    assert found.objectness.isfinite()


def test_a_head_that_says_what_it_should_gets_no_gradient_where_the_object_is() -> None:
    raw, _ = random_case(10, 1, 1)
    box = torch.tensor([0.5, 0.5, 0.5, 0.85])
    rows = raw.view(3, 8, *GRID)
    anchor = torch.tensor(ANCHORS[3])
    rows[0, :2, 1, 2] = 0.0
    rows[0, 2:4, 1, 2] = (box[2:] * torch.tensor(NET) / anchor).log()
    rows[0, 4:, 1, 2] = torch.tensor([40.0, -40.0, 40.0, -40.0])
    found = loss_of(raw, Truths(box.view(1, 1, 4), torch.tensor([[1]])))
    # logistic(-40) is not quite 0.
    assert float(found.delta.view(3, 8, *GRID)[0, :, 1, 2].abs().max()) < 1e-6
