"""Arrays from an .npz of a stranger: no pickles, and no memory that the file's own bytes do not fill."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.archive import MAX_FILE_BYTES, ZipSource
from trudi.runtime.errors import BundleError, quoted

MAX_HEADER = 512
MAX_DIMENSIONS = 8
HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>\|b1|[<>|][iu](?:1|2|4|8)|[<>]f(?:2|4|8))', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,12}, ?)*(?:\d{1,12})?)\), \} *\n"
)
MAGIC = b"\x93NUMPY\x01\x00"


def read_npz(data: bytes, where: str = "npz") -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by name: booleans, integers and floats of up to 8 bytes. BundleError on anything else."""
    if len(data) > MAX_FILE_BYTES:
        raise BundleError(f"{where} has {len(data)} bytes; at most {MAX_FILE_BYTES} are read")
    source = ZipSource(io.BytesIO(data), where)
    try:
        if other := [name for name in source.sizes if not name.endswith(".npy")]:
            raise BundleError(f"{where}: {quoted(other[0])} is not an array; an .npz holds .npy files only")
        return {name[:-4]: _read_npy(b"".join(source.chunks(name)), f"{where}: {name}") for name in source.sizes}
    finally:
        source.close()


def _read_npy(data: bytes, where: str) -> NDArray[Any]:
    if not data.startswith(MAGIC):
        raise BundleError(f"{where} is not an array in .npy format 1.0")
    header_end = 10 + int.from_bytes(data[8:10], "little")
    header = HEADER.fullmatch(data, 10, header_end) if header_end <= min(len(data), MAX_HEADER) else None
    if header is None:
        raise BundleError(f"{where}: its header is none that numpy writes for booleans, integers or floats")
    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    dtype = np.dtype(header["dtype"].decode())
    if len(shape) > MAX_DIMENSIONS or math.prod(shape) * dtype.itemsize != len(data) - header_end:
        raise BundleError(f"{where}: its shape {shape} of {dtype} does not fit its {len(data) - header_end} bytes")
    order = "F" if header["fortran"] == b"True" else "C"
    return np.frombuffer(data, dtype, offset=header_end).reshape(shape, order=order)
