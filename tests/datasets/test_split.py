"""The rule of the split: no side ever changes, and every class has its fraction."""

from collections import Counter

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from relume.datasets.split import Classes, Digest, split_contents

CONTENTS = st.dictionaries(
    st.integers(0, 2**128 - 1), st.frozensets(st.integers(0, 4), max_size=3), max_size=60
)
FRACTIONS = st.floats(0.05, 0.95)


def test_of_every_class_the_lowest_hashes_are_valid() -> None:
    contents = {digest: frozenset({digest % 2}) for digest in range(20)}

    sides = split_contents(contents, {}, 0.2)

    assert {digest for digest, side in sides.items() if side} == {0, 2, 1, 3}


def test_a_picture_counts_for_its_rarest_class() -> None:
    common, both, empty = frozenset({0}), frozenset({0, 1}), frozenset[int]()
    contents = dict(enumerate([common] * 10 + [both] * 5 + [empty] * 5))

    sides = split_contents(contents, {}, 0.4)

    assert [sum(sides[n] for n in part) for part in (range(10), range(10, 15), range(15, 20))] == [
        *(4, 2, 2)
    ]


@settings(max_examples=100, deadline=None)
@given(start=CONTENTS, added=CONTENTS, again=CONTENTS, fractions=st.tuples(*[FRACTIONS] * 3))
def test_adding_pictures_moves_none_however_often_and_with_whatever_fraction(
    start: dict[Digest, Classes],
    added: dict[Digest, Classes],
    again: dict[Digest, Classes],
    fractions: tuple[float, float, float],
) -> None:
    sides: dict[Digest, bool] = {}
    contents: dict[Digest, Classes] = {}
    for more, fraction in zip((start, added, again), fractions, strict=True):
        contents = contents | more  # labels of old pictures may have changed, too
        grown = split_contents(contents, sides, fraction)

        assert grown.keys() == contents.keys()
        assert {digest: grown[digest] for digest in sides} == sides
        sides = grown


@settings(max_examples=100, deadline=None)
@given(contents=CONTENTS, fraction=FRACTIONS)
def test_a_first_split_gives_every_class_its_fraction_to_half_a_picture(
    contents: dict[Digest, Classes], fraction: float
) -> None:
    sides = split_contents(contents, {}, fraction)

    pictures = Counter(kind for classes in contents.values() for kind in classes)
    rarest = {
        digest: min(classes, key=lambda kind: (pictures[kind], kind), default=-1)
        for digest, classes in contents.items()
    }
    for kind in set(rarest.values()):
        own = [digest for digest in contents if rarest[digest] == kind]
        valid = [digest for digest in own if sides[digest]]
        assert abs(len(valid) - fraction * len(own)) <= 0.5 + 1e-9  # rounding of the product
        assert max(valid, default=-1) < min(set(own) - set(valid), default=2**128)


@settings(max_examples=100, deadline=None)
@given(contents=CONTENTS, added=CONTENTS, fraction=FRACTIONS)
def test_pictures_that_are_added_bring_a_class_back_to_its_fraction(
    contents: dict[Digest, Classes], added: dict[Digest, Classes], fraction: float
) -> None:
    one_class = {digest: frozenset({0}) for digest in contents}
    grown = one_class | {digest: frozenset({0}) for digest in added}
    assume(grown)

    sides = split_contents(grown, split_contents(one_class, {}, fraction), fraction)

    assert abs(sum(sides.values()) - fraction * len(grown)) <= 0.5 + 1e-9


def test_a_lost_list_moves_only_what_lies_at_a_threshold() -> None:
    digests = [(n * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128 for n in range(1, 1101)]
    contents = {digest: frozenset({digest % 3}) for digest in digests}
    before = split_contents({d: contents[d] for d in digests[:1000]}, {}, 0.2)

    after = split_contents(contents, {}, 0.2)

    moved = sum(before[digest] != after[digest] for digest in before)
    assert moved <= 20  # of 1000; all would be 320 if the sides were drawn anew
