"""How much of a large picture is needed: JPEGs are decoded at a part of their size.

Darknet decodes every picture whole and then takes single pixels of it, of a large photograph
one in a hundred. Decoded at a half, a quarter or an eighth, where every pixel is the mean of
those it stands for, it takes a fraction of the time and shows more. The plan stays one in pixels
of the whole picture, and so do the truths; what is cut out is moved by less than half a
pixel of the net's input.
"""

from dataclasses import replace

from relume.data.augment import Plan
from relume.data.image import Pixels

REDUCTIONS = (8, 4, 2)
"""What a JPEG can be divided by while it is decoded."""


def reduction_for(plan: Plan, picture_px: tuple[int, int], input_px: tuple[int, int]) -> int:
    """Return the largest part at which what `plan` cuts out is not smaller than the net's input.

    Args:
        plan: in pixels of the whole picture.
        picture_px: width and height of the whole picture.
        input_px: of the net's input.
    """
    cut_width_px = picture_px[0] - plan.pleft - plan.pright
    cut_height_px = picture_px[1] - plan.ptop - plan.pbot
    for reduction in REDUCTIONS:
        if cut_width_px >= reduction * input_px[0] and cut_height_px >= reduction * input_px[1]:
            return reduction
    return 1


def reduced_plan(plan: Plan, picture_px: tuple[int, int], pixels: Pixels) -> Plan:
    """Return the plan in pixels of a picture as it was decoded.

    Args:
        plan: in pixels of the whole picture.
        picture_px: width and height of the whole picture.
        pixels: all of it, or a part of its size.
    """
    height_px, width_px = pixels.shape[:2]
    if picture_px == (width_px, height_px):
        return plan
    pleft, pright = _reduced(plan.pleft, plan.pright, picture_px[0], width_px)
    ptop, pbot = _reduced(plan.ptop, plan.pbot, picture_px[1], height_px)
    return replace(plan, pleft=pleft, pright=pright, ptop=ptop, pbot=pbot)


def _reduced(start_cut_px: int, end_cut_px: int, whole_px: int, reduced_px: int) -> tuple[int, int]:
    """Return both cuts of a side, each to the nearest pixel, with something left between them.

    In whole numbers, so that every machine rounds alike.
    """
    start = (2 * start_cut_px * reduced_px + whole_px) // (2 * whole_px)
    end = (2 * end_cut_px * reduced_px + whole_px) // (2 * whole_px)
    if max(start, 0) + max(end, 0) < reduced_px:
        return start, end
    start = min(max(start, 0), reduced_px - 1)
    return start, reduced_px - 1 - start
