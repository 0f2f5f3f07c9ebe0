"""Which picture stands at which position: a permutation of the image list for every epoch.

Or, as in Darknet, a row drawn with replacement, so that of n pictures about n/e go unseen in an
epoch.

The permutation is a swap-or-not shuffle (Hoang, Morris, Rogaway: "An enciphering scheme based
on a card shuffle", CRYPTO 2012). A round pairs index x with (key - x) mod size and swaps the
two if a hash of the pair says so. Each round is its own inverse, so the whole is a bijection
for every size, not only for powers of two. Any position is found in O(log size) time and no
memory: seeking to image 10**9 costs as much as seeking to the first.
"""

from collections.abc import Iterator
from functools import lru_cache

from xxhash import xxh3_64_intdigest

from relume.draws import draw_words

ROUNDS_PER_BIT = 6
"""Rounds per bit of `size`. A shuffle of this kind mixes in a constant times log(size) rounds;
6 is ample for statistics (the tests count pairs), and we need no secrecy. Finding a row among
a million takes 30 µs, a hundredth of decoding its picture."""


def index_at(seed: int, position: int, size: int, picture: int = 0) -> int:
    """Return the row of the image list (0 <= row < size) that stands at `position` >= 0.

    Args:
        seed: of the run.
        position: of the sample.
        size: rows of the list.
        picture: number of the picture in its sample; each number has an order of its own.
    """
    epoch, i = divmod(position, size)
    return permuted_index(seed, epoch, size, i, picture)


def drawn_index(seed: int, position: int, size: int, picture: int = 0) -> int:
    """Return a row that is drawn for `position` alone, each equally likely.

    Source:
        AlexeyAB/darknet 59596d78 src/data.c get_random_paths_custom.
    """
    return int(draw_words(seed, "sampling", (position, picture), 1)[0]) % size


def rows_for(
    seed: int, position: int, size: int, picture: int = 0, with_replacement: bool = False
) -> Iterator[int]:
    """Yield the row of `index_at`, then, each once, all others that may take its place.

    They follow in the order of another permutation, from the position's own place in it, so
    that the pictures that stand in for others are spread evenly too.
    """
    row_at = drawn_index if with_replacement else index_at
    first = row_at(seed, position, size, picture)
    yield first
    epoch, i = divmod(position, size)
    other_seed = int(draw_words(seed, "replacement", (), 1)[0])
    for k in range(size):
        row = permuted_index(other_seed, epoch, size, (i + k) % size, picture)
        if row != first:
            yield row


def permuted_index(seed: int, epoch: int, size: int, i: int, picture: int = 0) -> int:
    """Return where the permutation of (seed, epoch, size, picture) sends `i`, 0 <= i < size."""
    for offset, hash_seed in _round_keys(seed, epoch, size, picture):
        partner = offset - i
        if partner < 0:
            partner += size
        # The larger one names the pair, so that both members get the same answer.
        pair = i if i > partner else partner
        if xxh3_64_intdigest(pair.to_bytes(8, "little"), hash_seed) & 1:
            i = partner
    return i


@lru_cache(maxsize=16)
def _round_keys(seed: int, epoch: int, size: int, picture: int) -> tuple[tuple[int, int], ...]:
    """Return (offset, hash seed) of every round; 0 <= offset < size."""
    rounds = ROUNDS_PER_BIT * size.bit_length()
    words = [int(word) for word in draw_words(seed, "order", (epoch, picture), 2 * rounds)]
    # The remainder prefers small offsets by less than size / 2**64.
    return tuple((words[r] % size, words[rounds + r]) for r in range(rounds))
