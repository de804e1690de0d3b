"""Object arrays of numeric arrays, read from a pickle without running it.

NumPy saves an array of arrays as a pickle, and unpickling calls what the file names. Here a first
pass over the opcodes refuses what array pickles lack, and floods. Then the file may name only what
NumPy's own array pickles name, and each name leads to an inert stand-in; what those were told is
checked, and arrays are built from the bytes.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mdn_dist.data.text import shown

NumericArray = npt.NDArray[np.number[Any]]

_NUMERIC = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8"}

# The opcodes of array pickles, protocols 2 to 4. No DUP, dict or set (nested keys hash in
# exponential time), no BYTEARRAY8 (it allocates what the file asks for), no EXT or persistent id,
# no INST, OBJ or NEWOBJ.
_OPCODES = set(
    """
    PROTO FRAME STOP GLOBAL STACK_GLOBAL BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 SHORT_BINSTRING BINSTRING
    SHORT_BINUNICODE BINUNICODE SHORT_BINBYTES BINBYTES
    MARK EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS REDUCE BUILD
    """.split()  # noqa: SIM905  # a list would take a line for each
)

# What a pickle may spend. NumPy takes up to some thirty opcodes for a BUILD, of which an array has
# one, or two with a dtype of its own, and one opcode to name an array again. A BUILD earns the
# opcodes of the next, so that a stream of anything else ends at once. An opcode may leave up to a
# hundred bytes in memory.
_OPCODES_OF_FILE = 256
_OPCODES_OF_NAME = 2
_OPCODES_OF_BUILD = 32
_MAX_BUILDS = 500_000

_NDARRAY = "ndarray"


class _Inert:
    """What the stream says of an array or a dtype: its first argument and its state."""

    __slots__ = ("first", "state")

    # Three arguments, as NumPy gives: a tuple of any length would be copied at every call.
    def __init__(self, first: object, _second: object, _third: object) -> None:
        self.first = first
        self.state: tuple[object, ...] = ()

    def __setstate__(self, state: object) -> None:
        if type(state) is not tuple:
            raise ValueError("a state that is not a tuple")
        self.state = state


class _Array(_Inert):
    __slots__ = ()


class _Dtype(_Inert):
    __slots__ = ()


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, text_budget: int) -> None:
        # Python 2 wrote an array's bytes as text, which stays bytes here.
        super().__init__(stream, encoding="bytes")
        self._text_budget = text_budget

    def find_class(self, module: str, name: str, /) -> object:
        match module, name:
            case "numpy", "ndarray":
                return _NDARRAY
            case "numpy", "dtype":
                return _Dtype
            case "numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct":
                return _Array
            case "_codecs", "encode":
                return self._encode
        raise ValueError(f"refuses to unpickle {shown(f'{module}.{name}')}")

    def _encode(self, text: object, encoding: object) -> bytes:
        if type(text) is not str or encoding != "latin1":
            raise ValueError("an encoding other than latin1")
        # One memoized text encoded again and again would take memory without end.
        self._text_budget -= len(text)
        if self._text_budget < 0:
            raise ValueError("more encoded text than the stream holds")
        return text.encode("latin1")


class _ShortLines(io.BytesIO):
    """Bytes read in short lines, so that an error which shows one, as a name, stays short."""

    def readline(self, _size: int | None = -1, /) -> bytes:
        return super().readline(1000)


def _check_opcodes(stream: io.BytesIO, length: int) -> None:
    """Raise unless the opcodes are those of ``length`` arrays; set the sizes of frames to 0."""
    left = _OPCODES_OF_FILE + _OPCODES_OF_NAME * length
    builds = min(2 * length, _MAX_BUILDS)
    frames = []
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        left -= 1
        if left < 0:
            raise ValueError("more opcodes than arrays of this number take")
        if opcode.name not in _OPCODES:
            raise ValueError(f"opcode {opcode.name} is not one of an array's pickle")
        if opcode.name == "BUILD" and builds > 0:
            builds -= 1
            left += _OPCODES_OF_BUILD
        # The unpickler's memo is an array that grows to the index.
        if opcode.name == "LONG_BINPUT" and (argument or 0) > count:
            raise ValueError(f"memo index {argument} at opcode {count}")
        if opcode.name == "FRAME":
            frames.append(stream.tell() - 8)
    # Where an opcode crosses the end of a frame, the unpickler drops what the frame still held, and
    # would go on with other opcodes than those seen here.
    for position in frames:
        stream.getbuffer()[position : position + 8] = bytes(8)


def unpickle_arrays(content: bytes, length: int) -> Iterator[Callable[[], NumericArray]]:
    """Yield, for each of ``length`` arrays in a pickle, a function that checks and returns it."""
    stream = _ShortLines(content)
    try:
        _check_opcodes(stream, length)
        stream.seek(0)
        items = _outer_items(_Unpickler(stream, len(content)).load())
    except Exception as error:  # pickle names no end of what a damaged stream raises
        raise ValueError(f"not a pickle of arrays: {type(error).__name__}: {error}") from error
    if len(items) != length:
        raise ValueError(f"expected {length} arrays in the pickle, got {len(items)}")
    for item in items:
        yield partial(_numeric_array, item)


def numeric_array(
    content: bytes | memoryview, descr: str, shape: tuple[int, ...], *, is_fortran: bool
) -> NumericArray:
    """Return bytes as the read-only array that they are, of dtype ``descr``, as ``<i2``."""
    if descr[1:] not in _NUMERIC:
        raise ValueError(f"expected a numeric dtype, integer or floating, got {shown(repr(descr))}")
    dtype = np.dtype(descr)
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"expected the bytes of {descr} {shape}, got {len(content)} bytes")
    return np.ndarray(shape, dtype, buffer=content, order="F" if is_fortran else "C")


def _outer_items(item: object) -> list[object]:
    _, descr, _, data = _array_state(item)
    if descr[1:] not in ("O4", "O8") or type(data) is not list:
        raise ValueError(f"expected an array of objects, got {type(data).__name__} of {descr}")
    return data


def _numeric_array(item: object) -> NumericArray:
    shape, descr, is_fortran, data = _array_state(item)
    if type(data) is not bytes:
        raise ValueError(f"expected array data as bytes, got {type(data).__name__}")
    return numeric_array(data, descr, shape, is_fortran=is_fortran)


def _array_state(item: object) -> tuple[tuple[int, ...], str, bool, object]:
    """Return shape, dtype, memory order and data of an array, all checked but data."""
    if type(item) is not _Array or item.first != _NDARRAY:
        raise ValueError(f"expected an array, got {type(item).__name__}")
    if len(item.state) != 5:
        raise ValueError(f"expected an array's state of 5 values, got {len(item.state)}")
    _, shape, dtype, is_fortran, data = item.state
    if (
        type(shape) is not tuple
        or len(shape) > 4
        or not all(type(size) is int and 0 <= size < 2**40 for size in shape)
    ):
        raise ValueError("expected a shape of up to 4 sizes")
    return shape, _descr(dtype), is_fortran == 1, data


def _descr(item: object) -> str:
    """Return a dtype's byte order and code, as ``<i2``."""
    if type(item) is not _Dtype:
        raise ValueError(f"expected a dtype, got {type(item).__name__}")
    # (version, byte order, subarray, names, fields, ...): the middle three would make it a
    # structured dtype.
    if len(item.state) < 5 or any(part is not None for part in item.state[2:5]):
        raise ValueError("expected a plain dtype, got a structured one or one without a state")
    order, code = _text(item.state[1]), _text(item.first)
    if order not in ("<", ">", "=", "|"):
        raise ValueError("expected a dtype with a byte order")
    return order + code


def _text(item: object) -> str:
    """Return the few letters of a dtype, which Python 2 wrote as bytes."""
    if not isinstance(item, bytes | str) or len(item) > 8:
        raise ValueError("expected a dtype of a few letters")
    return item.decode("ascii") if isinstance(item, bytes) else item
