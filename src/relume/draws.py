"""Addressed randomness: every draw is a function of (seed, purpose, address), never of history.

A draw names its purpose ("augment", "dropout", ...) and an address within it (a position,
a layer, a filter). The pair becomes key and counter of NumPy's Philox bit generator, whose
stream NumPy promises to keep; its raw words are mapped to numbers here, because the
distributions of `numpy.random.Generator` carry no such promise.

Not covered: which draws exist. They stand where they are used.
"""

import numpy as np
import numpy.typing as npt
import xxhash

Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]


def draw_words(seed: int, purpose: str, address: tuple[int, ...], count: int) -> Words:
    """Return `count` 64-bit words that belong to (seed, purpose, address).

    Args:
        seed: the run's seed, any Python integer.
        purpose: a constant of the calling code; two purposes never share a stream.
        address: up to three integers of 0 <= n < 2**64; the fourth counter word counts blocks.
        count: words to return; a longer draw begins with the words of a shorter one.
    """
    counter = np.zeros(4, dtype=np.uint64)
    # NumPy increments the low word first, so the address goes above it.
    counter[1 : 1 + len(address)] = address
    bits = np.random.Philox(key=_key(seed, purpose), counter=counter)
    words: Words = bits.random_raw(count)
    return words


def draw_uniforms(seed: int, purpose: str, address: tuple[int, ...], count: int) -> Floats:
    """Return `count` float32 numbers, uniform over multiples of 2**-24 in [0, 1)."""
    return uniforms_from_words(draw_words(seed, purpose, address, count))


def uniforms_from_words(words: Words) -> Floats:
    """Map 64-bit words to float32 in [0, 1): the top 24 bits, exactly representable."""
    top: Floats = (words >> np.uint64(40)).astype(np.float32)
    return top * np.float32(2.0**-24)


def _key(seed: int, purpose: str) -> int:
    return xxhash.xxh3_128_intdigest(f"relume/1 {purpose} {seed}".encode())
