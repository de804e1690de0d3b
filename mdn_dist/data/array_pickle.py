"""Object arrays of numeric arrays, read from a pickle without running it.

NumPy saves an array of arrays as a pickle, and unpickling calls what the file names. Here the file
may name only what NumPy's own array pickles name, and each name leads to an inert stand-in that
stores its arguments; afterwards they are checked, and arrays are built from the bytes.
"""

import io
import math
import pickle
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mdn_dist.data.text import shown

NumericArray = npt.NDArray[np.number[Any]]

_NUMERIC = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8"}

# What a pickle may spend: NumPy takes up to some forty opcodes for an array, and one to name it
# again. Each may leave up to a hundred bytes in memory.
_OPCODES_OF_ARRAY = 64
_OPCODES_OF_NAME = 2
_OPCODES_OF_FILE = 4 * _OPCODES_OF_ARRAY
_MAX_OPCODES = 16_000_000

# What the pure-Python unpickler raises on damaged or hostile streams.
_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)

# The opcodes of array pickles, protocols 2 to 4. No DUP, dict or set (nested keys hash in
# exponential time), no BYTEARRAY8 (it allocates what the file asks for), no EXT or persistent id,
# no INST, OBJ or NEWOBJ.
_OPCODES = (
    pickle.PROTO,
    pickle.FRAME,
    pickle.STOP,
    pickle.GLOBAL,
    pickle.STACK_GLOBAL,
    pickle.BINPUT,
    pickle.LONG_BINPUT,
    pickle.MEMOIZE,
    pickle.BINGET,
    pickle.LONG_BINGET,
    pickle.MARK,
    pickle.NONE,
    pickle.NEWTRUE,
    pickle.NEWFALSE,
    pickle.BININT,
    pickle.BININT1,
    pickle.BININT2,
    pickle.LONG1,
    pickle.SHORT_BINSTRING,
    pickle.BINSTRING,
    pickle.SHORT_BINUNICODE,
    pickle.BINUNICODE,
    pickle.SHORT_BINBYTES,
    pickle.BINBYTES,
    pickle.EMPTY_TUPLE,
    pickle.TUPLE,
    pickle.TUPLE1,
    pickle.TUPLE2,
    pickle.TUPLE3,
    pickle.EMPTY_LIST,
    pickle.APPEND,
    pickle.APPENDS,
    pickle.REDUCE,
    pickle.BUILD,
)


class _Inert:
    """Stands for a `numpy.dtype` or `numpy.ndarray`; holds what the stream says of it."""

    def __init__(self, kind: str, arguments: tuple[object, ...]) -> None:
        self.kind = kind
        self.arguments = arguments
        self.state: object = None


_NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",
    ("_codecs", "encode"): "encode",
}


class _Name(str):
    """A global of the stream, as one of the values of `_NAMES`. It cannot be called."""

    __slots__ = ()


class _Counted(dict[int, Callable[[Any], None]]):
    """The opcode table of one stream, with a bound on how many opcodes it may spend.

    An array earns the opcodes of the next, so that a stream that makes none ends at once.
    """

    def __init__(self, table: dict[int, Callable[[Any], None]], length: int) -> None:
        super().__init__(table)
        self._left = _OPCODES_OF_FILE + _OPCODES_OF_NAME * length
        self._to_earn = min(_OPCODES_OF_ARRAY * length, _MAX_OPCODES)

    def earn(self) -> None:
        """Adds the opcodes of one array."""
        earned = min(_OPCODES_OF_ARRAY, self._to_earn)
        self._left += earned
        self._to_earn -= earned

    def __getitem__(self, opcode: int) -> Callable[[Any], None]:
        self._left -= 1
        if self._left < 0:
            raise ValueError("more opcodes than arrays of this number take")
        return super().__getitem__(opcode)

    def __missing__(self, opcode: int) -> Callable[[Any], None]:
        raise ValueError(f"opcode {bytes([opcode])!r} is not one of an array's pickle")


# The pure-Python unpickler, not the C one: its memo is a dict, so a huge memo index costs one
# entry, where the C memo is an array that grows to the index; and its opcode table can be replaced
# by the short one above.
class _Unpickler(pickle._Unpickler):
    def __init__(self, content: bytes, length: int) -> None:
        # Python 2 wrote an array's bytes as text, which stays bytes here.
        super().__init__(io.BytesIO(content), fix_imports=False, encoding="bytes")
        self.stack: list[Any]
        self.dispatch: _Counted = _Counted(self._table, length)  # type: ignore[misc]
        self._text_budget = len(content)

    def find_class(self, module: str, name: str) -> _Name:
        if (module, name) not in _NAMES:
            raise ValueError(f"refuses to unpickle {shown(f'{module}.{name}')}")
        return _Name(_NAMES[module, name])

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not _Name or type(arguments) is not tuple:
            raise ValueError("a call of what is not an array's function")
        self.stack[-1] = self._reduce(function, arguments)

    def _reduce(self, function: _Name, arguments: tuple[object, ...]) -> _Inert | bytes:
        if function == "encode":
            text, encoding = arguments
            if type(text) is not str or encoding != "latin1":
                raise ValueError("an encoding other than latin1")
            # One memoized text encoded again and again would take memory without end.
            self._text_budget -= len(text)
            if self._text_budget < 0:
                raise ValueError("more encoded text than the stream holds")
            return text.encode("latin1")
        if function == "dtype":
            return _Inert("dtype", arguments)
        if function == "reconstruct" and type(arguments[0]) is _Name and arguments[0] == "ndarray":
            return _Inert("ndarray", arguments)
        raise ValueError("a call of what is not an array's function")

    def _load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        # The stock opcode would set attributes of whatever is on the stack.
        if type(target) is not _Inert or type(state) is not tuple:
            raise ValueError("a state for what is not an array")
        target.state = state
        if target.kind == "ndarray":
            self.dispatch.earn()

    _table: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{op[0]: pickle._Unpickler.dispatch[op[0]] for op in _OPCODES},
        pickle.REDUCE[0]: _load_reduce,
        pickle.BUILD[0]: _load_build,
    }


def unpickle_arrays(content: bytes, length: int) -> Iterator[Callable[[], NumericArray]]:
    """Reads the pickle of an object array of `length` numeric arrays.

    Args:
        content: The pickle, protocol 2 to 4.
        length: How many arrays the file's header promises.

    Yields:
        For each array, a function that checks it and returns it, a view of the pickle's bytes; the
        function raises ValueError for an array that is not numeric or not of the promised bytes.

    Raises:
        ValueError: If the pickle is damaged, or is anything but an object array of `length` items.
    """
    try:
        items = _outer_items(_Unpickler(content, length).load())
    except _FAULTS as error:
        raise ValueError(f"not a pickle of arrays: {type(error).__name__}: {error}") from error
    if len(items) != length:
        raise ValueError(f"expected {length} arrays in the pickle, got {len(items)}")
    for item in items:
        yield partial(_numeric_array, item)


def numeric_array(
    content: bytes | memoryview, descr: str, shape: tuple[int, ...], *, is_fortran: bool
) -> NumericArray:
    """Shows bytes as the numeric array that they are, without a copy.

    Args:
        content: The array's bytes.
        descr: Its dtype as NumPy writes it, byte order first.
        shape: Its shape, whose product must match the bytes.
        is_fortran: Whether the first index runs fastest.

    Returns:
        The array, read-only.

    Raises:
        ValueError: If the dtype is not numeric, or the bytes do not match dtype and shape.
    """
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
    """Checks an array's stand-in; returns its shape, dtype, memory order and data."""
    if type(item) is not _Inert or item.kind != "ndarray" or type(item.state) is not tuple:
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
    """Returns a dtype's byte order and code, as `<i2`."""
    if type(item) is not _Inert or item.kind != "dtype" or type(item.state) is not tuple:
        raise ValueError(f"expected a dtype, got {type(item).__name__}")
    # (version, byte order, subarray, names, fields, ...): the middle three would make it a
    # structured dtype.
    if len(item.state) < 5 or any(part is not None for part in item.state[2:5]):
        raise ValueError("expected a plain dtype, got a structured one")
    order, code = _text(item.state[1]), _text(item.arguments[0] if item.arguments else None)
    if order not in ("<", ">", "=", "|"):
        raise ValueError("expected a dtype with a byte order")
    return order + code


def _text(item: Any) -> str:
    """Returns the few letters of a dtype, which Python 2 wrote as bytes."""
    if type(item) not in (bytes, str) or len(item) > 8:
        raise ValueError("expected a dtype of a few letters")
    return item.decode("ascii") if isinstance(item, bytes) else item
