"""Which pictures train and which are kept for validation: by content, by class, and for good.

The rule has two halves, because one alone cannot do both. A side that depends on the picture
alone never changes, but then chance decides how the classes fall. A side that balances the
classes depends on the other pictures, and adding some would move others. So:

- Whoever has a side keeps it: an earlier split, read from its lists, is binding. Copies of a
  picture (the same bytes) share its side, whatever they are called.
- The others are shared out among the pictures of their rarest class: those with the lowest
  content hash become valid, until the class has its fraction.

So adding pictures moves none, and of every class the fraction is as exact as whole pictures and
the sides that are kept allow. Should the lists be lost, a new split of the grown set differs only
where a threshold among the hashes has shifted.

Not covered: pictures that look alike but differ in a byte.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

Digest = int
"""XXH3-128 of a picture file."""
Classes = frozenset[int]

NO_OBJECT = -1
"""The class of pictures without a box."""


def split_contents(
    contents: Mapping[Digest, Classes], kept: Mapping[Digest, bool], fraction: float
) -> dict[Digest, bool]:
    """Return for every content whether it is kept for validation.

    Args:
        contents: the classes that occur in each of them.
        kept: the side of those that have one already.
        fraction: of each class's pictures that is to be valid, between 0 and 1.
    """
    pictures = Counter(kind for classes in contents.values() for kind in classes)
    members: dict[int, list[Digest]] = defaultdict(list)
    for digest in sorted(contents):
        rarest = min(contents[digest], key=lambda kind: (pictures[kind], kind), default=NO_OBJECT)
        members[rarest].append(digest)
    sides = {digest: side for digest, side in kept.items() if digest in contents}
    for digests in members.values():
        free = [digest for digest in digests if digest not in kept]
        held = sum(sides.get(digest, False) for digest in digests)
        wanted = int(fraction * len(digests) + 0.5) - held
        sides |= {digest: place < wanted for place, digest in enumerate(free)}
    return sides
