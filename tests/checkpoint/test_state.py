"""TrainState: digests, differences, and the one meaning of an array's bytes."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from relume.checkpoint.state import (
    Array,
    Arrays,
    RecordBuffer,
    as_stored,
    digest_of_groups,
    first_difference,
    first_difference_of_arrays,
)
from tests.checkpoint.states import history_of, tiny_state


def test_equal_states_have_equal_digests_whatever_the_order_of_their_names() -> None:
    state = tiny_state()
    turned = replace(
        state,
        weights=dict(reversed(list(state.weights.items()))),
        groups={
            k: dict(reversed(list(v.items()))) for k, v in reversed(list(state.groups.items()))
        },
    )

    assert turned.digest() == state.digest()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
        np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        np.zeros((0, 3), np.float32),
        np.array(3.5, np.float32),
        np.array([True, False]),
    ],
    ids=["big-endian", "view", "column order", "empty", "scalar", "bool"],
)
def test_an_array_has_the_digest_of_its_values(array: Array) -> None:
    plain = np.array(array.tolist(), array.dtype.newbyteorder("=")).reshape(array.shape)

    assert digest_of_groups({"g": {"a": array}}) == digest_of_groups({"g": {"a": plain}})
    assert as_stored(array).tobytes() == plain.astype(array.dtype.newbyteorder("<")).tobytes()
    assert as_stored(array).shape == array.shape


def test_name_type_shape_and_every_bit_enter_the_digest() -> None:
    array = np.zeros(4, np.float32)
    negative = np.array([0, 0, -0.0, 0], np.float32)
    variants: list[Mapping[str, Arrays]] = [
        {"g": {"a": array}},
        {"g": {"b": array}},
        {"h": {"a": array}},
        {"g": {"a": array.reshape(2, 2)}},
        {"g": {"a": array.view(np.int32)}},
        {"g": {"a": negative}},
        {"g": {"a": array, "b": array}},
    ]

    assert len({digest_of_groups(groups) for groups in variants}) == len(variants)


def test_the_first_difference_names_tensor_index_and_both_values() -> None:
    one = tiny_state()
    weights = {name: np.array(array) for name, array in one.weights.items()}
    weights["1.weights"][2, 1, 0, 2] = 0.5
    other = replace(one, weights=weights)

    text = first_difference(one, other)

    before = one.weights["1.weights"][2, 1, 0, 2]
    assert text == f"weights/1.weights[2,1,0,2]: {before!s}, 0.5"
    assert first_difference(one, one) is None


def test_the_first_difference_names_what_one_state_lacks() -> None:
    one = tiny_state()
    other = replace(one, groups={"pictures": one.groups["pictures"]})

    assert first_difference(one, other) == "momentum/0.biases is in the first only"
    assert first_difference(other, one) == "momentum/0.biases is in the second only"


def test_differences_are_of_bits_not_of_values() -> None:
    zero, negative = np.zeros(2, np.float32), np.array([0, -0.0], np.float32)
    nan = np.array([np.nan], np.float32)

    assert first_difference_of_arrays(zero, negative) == "[1]: 0.0, -0.0"
    assert first_difference_of_arrays(nan, nan.copy()) is None
    assert first_difference_of_arrays(zero, zero[:1]) == ": float32[2], float32[1]"
    assert first_difference_of_arrays(zero[:0], zero[:0]) is None


def test_records_grow_without_touching_what_was_returned_before() -> None:
    whole = history_of(3000).records
    buffer = RecordBuffer(whole[:5])
    returned = [buffer.append(whole[number : number + 1]) for number in range(5, 3000)]

    for count in (6, 1024, 1025, 2500, 3000):
        assert returned[count - 6].tobytes() == whole[:count].tobytes()
    # In place for the most part, or a run of a million iterations would copy 48 MB at each.
    assert len({records.ctypes.data for records in returned}) <= 3
