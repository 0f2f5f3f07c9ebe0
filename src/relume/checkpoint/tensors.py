"""Named arrays <-> the bytes of a safetensors file, in parts that share the arrays' memory.

The library would copy everything twice; a test holds these bytes against its own.
"""

import json
import struct
from dataclasses import dataclass
from math import prod

import numpy as np

from relume.checkpoint.archive import Malformed
from relume.checkpoint.disk import Buffer
from relume.checkpoint.json_values import count_of, fields_of, list_of, parsed, text_of
from relume.checkpoint.state import Array, Arrays, as_stored

TENSOR_TYPES = {
    "<u8": "U64",
    "<i8": "I64",
    "<f8": "F64",
    "<f4": "F32",
    "<u4": "U32",
    "<i4": "I32",
    "<f2": "F16",
    "<u2": "U16",
    "<i2": "I16",
    "|i1": "I8",
    "|u1": "U8",
    "|b1": "BOOL",
}
"""NumPy's types and those of safetensors, in the order in which that puts tensors into a file."""
TYPES = {name: np.dtype(text) for text, name in TENSOR_TYPES.items()}
MOST_HEADER_BYTES = 64 << 20
"""Of a group's header. The group `partial` has 100 bytes for every layer and subdivision."""
MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class StoredTensor:
    """Where an array lies among the bytes of its group."""

    name: str
    begin: int
    end: int
    array: Array
    """A view of these bytes."""


def tensor_parts(arrays: Arrays) -> list[Buffer]:
    """Return the bytes of `safetensors.numpy.save(arrays)` in parts that share their memory."""
    order = list(TENSOR_TYPES)
    stored = {name: as_stored(array) for name, array in arrays.items()}
    names = sorted(stored, key=lambda name: (order.index(stored[name].dtype.str), name))
    header, offset = {}, 0
    for name in names:
        array = stored[name]
        header[name] = {
            "dtype": TENSOR_TYPES[array.dtype.str],
            "shape": array.shape,
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [struct.pack("<Q", len(text)) + text, *(bytes_of(stored[name]) for name in names)]


def tensors_in(data: memoryview) -> Arrays:
    """Return what `safetensors.numpy.load(data)` returns, as views of the same memory."""
    return {tensor.name: tensor.array for tensor in stored_tensors(data)}


def stored_tensors(data: memoryview) -> list[StoredTensor]:
    """Return the arrays of a group, in the order of their bytes, which fill it without a gap.

    Raises:
        Malformed: these are no bytes of `tensor_parts`.
    """
    if len(data) < 8:
        raise Malformed("too short for tensors")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(len(data) - 8, MOST_HEADER_BYTES):
        raise Malformed("the header of tensors does not end where it should")
    header = parsed(data[8 : 8 + length], MOST_HEADER_BYTES)
    if not isinstance(header, dict):
        raise Malformed("no header of tensors")
    tensors, offset = [], 8 + length
    for name, value in header.items():
        spec = fields_of(value, {"dtype", "shape", "data_offsets"})
        shape = tuple(count_of(side) for side in list_of(spec["shape"]))
        dtype = TYPES.get(text_of(spec["dtype"]))
        if dtype is None or len(shape) > MOST_DIMENSIONS:
            raise Malformed(f"tensor {name!a} has an unknown type or too many dimensions")
        if prod(side for side in shape if side) > len(data):  # NumPy refuses it even if empty
            raise Malformed(f"tensor {name!a} has too large a shape")
        end = offset + prod(shape) * dtype.itemsize
        if spec["data_offsets"] != [offset - 8 - length, end - 8 - length] or end > len(data):
            raise Malformed(f"tensor {name!a} does not lie where its shape and those before it say")
        array = np.frombuffer(data[offset:end], dtype).reshape(shape)
        tensors.append(StoredTensor(name, offset, end, array))
        offset = end
    if offset != len(data):
        raise Malformed("bytes follow the last tensor")
    return tensors


def bytes_of(array: Array) -> memoryview:
    """Return the bytes of an array as files hold it; a view where it is stored so already."""
    return as_stored(array).reshape(-1).view(np.uint8).data
