"""Named arrays <-> the bytes of a safetensors file, in parts that share the arrays' memory.

The library would copy everything twice; a test holds these bytes against its own.
"""

import json
import struct

import numpy as np

from relume.checkpoint.disk import Buffer
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
    (length,) = struct.unpack_from("<Q", data)
    types = {name: np.dtype(text) for text, name in TENSOR_TYPES.items()}
    arrays = {}
    for name, spec in json.loads(bytes(data[8 : 8 + length])).items():
        begin, end = spec["data_offsets"]
        values = data[8 + length + begin : 8 + length + end]
        arrays[name] = np.frombuffer(values, types[spec["dtype"]]).reshape(spec["shape"])
    return arrays


def bytes_of(array: Array) -> memoryview:
    """Return the bytes of an array as files hold it; a view where it is stored so already."""
    return as_stored(array).reshape(-1).view(np.uint8).data
