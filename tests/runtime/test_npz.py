"""Arrays from a stranger: exact, without pickles, and without memory that the file does not fill."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trudi.runtime.errors import BundleError
from trudi.runtime.npz import read_npz


def saved(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@settings(deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0),
    )
)
def test_arrays_survive_exactly(array):
    for order in ("C", "F"):
        read = read_npz(saved(a=np.asarray(array, order=order), b=array))
        np.testing.assert_array_equal(read["a"], array)
        assert read["a"].dtype == array.dtype and read["a"].shape == array.shape


def test_compressed_arrays_are_read():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros(100_000))
    assert read_npz(buffer.getvalue())["x"].shape == (100_000,)


def npy(header: bytes, body: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body)
    return buffer.getvalue()


HEADERS = {
    "a pickle": b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
    "terabytes": b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999, 999999999999), }\n",
    "too short": b"{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }\n",
    "code": b"{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (1,), }\n",
    "nesting": b"(" * 60000,
    "negative": b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }\n",
    "nonsense": b"\xff" * 100,
}


@pytest.mark.parametrize("case", HEADERS)
def test_an_array_that_numpy_would_take_memory_or_run_code_for(case):
    with pytest.raises(BundleError, match=r"its header is none|does not fit its 8 bytes"):
        read_npz(npy(HEADERS[case], bytes(8)))


def test_pickled_objects_and_other_files_in_an_npz():
    with pytest.raises(BundleError, match="header"):
        read_npz(saved(x=np.array([{}], dtype=object)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.py", b"print()")
    with pytest.raises(BundleError, match="is not an array"):
        read_npz(buffer.getvalue())
    with pytest.raises(BundleError, match="is not a zip"):
        read_npz(b"\x93NUMPY")
