"""Every size to 5,000 is permuted: minutes, so in `make prove` only."""

import pytest

from relume.data.order import permuted_index


@pytest.mark.long
@pytest.mark.parametrize("hundreds", range(50))
def test_every_size_is_a_permutation(hundreds: int) -> None:
    for size in range(100 * hundreds + 1, 100 * hundreds + 101):
        found = {permuted_index(7, size % 5, size, i) for i in range(size)}
        assert len(found) == size
        assert max(found) == size - 1
        assert min(found) == 0
