"""Untrusted pickles, read without executing them: plain containers, numbers, strings and arrays, nothing else.

Two steps. First the opcodes are scanned without executing them: known opcodes only, no lengths beyond the end of the
file, no oversized memo. Then the standard unpickler builds the values, with every global name resolved from a short
list of our own stand-ins, so that no constructor of numpy or of any other library is called.
Strings of Python 2 are decoded as latin-1, as archives of that time require.
"""

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from fewshot.errors import DataError, reason_of

MAX_DEPTH = 20
MAX_LINE_BYTES = 1 << 16
MAX_INTEGER_BYTES = 1 << 10
ARRAY_KINDS = "biufSUO"
OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
REFUSED_OPCODES = frozenset(
    ["PERSID", "BINPERSID", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"]
)
PUT_OPCODES = frozenset(["PUT", "BINPUT", "LONG_BINPUT"])
LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


class _Type:
    """Stand-in for `numpy.dtype`: a code such as "u1", with the byte order set afterwards."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        try:
            dtype = np.dtype(code) if isinstance(code, str) and len(code) < 16 else None
        except (TypeError, ValueError):
            dtype = None
        if dtype is None or dtype.kind not in ARRAY_KINDS or dtype.fields or dtype.subdtype:
            raise DataError(f"arrays of type {code!r} do not occur in any data set; refused")
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "=", b"<", b">", b"|"):
            raise DataError("an array type with an unknown state; refused")
        if state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """Stand-in for an array until its content is known and checked."""

    def __init__(self, value: np.ndarray | None = None) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise DataError("an array with an unknown state; refused")
        shape, kind, fortran, content = state[-4:]
        self.value = _build_array(shape, kind, "F" if fortran else "C", content)


def _build_array(shape: Any, kind: Any, order: Any, content: Any) -> np.ndarray:
    """Build an array if its content has exactly the size that its shape and type require."""
    if not isinstance(kind, _Type) or not isinstance(shape, tuple):
        raise DataError("an array without a proper shape or type; refused")
    if not all(type(side) is int and 0 <= side < 2**40 for side in shape) or len(shape) > 8:
        raise DataError(f"an array of shape {shape!r}; refused")
    count = 1
    for side in shape:
        count *= side
    if kind.dtype.kind == "O":
        if not isinstance(content, list) or len(content) != count:
            raise DataError("an array of objects whose list has a different length; refused")
        array = np.empty(count, object)
        array[:] = content
        return array.reshape(shape, order=order)
    if isinstance(content, str):
        content = content.encode("latin1")
    if not isinstance(content, bytes | bytearray) or len(content) != count * kind.dtype.itemsize:
        found = len(content) if isinstance(content, bytes | bytearray) else type(content).__name__
        raise DataError(f"an array of shape {shape} needs {count * kind.dtype.itemsize} bytes, found {found}; refused")
    return np.frombuffer(content, kind.dtype).reshape(shape, order=order)


def _refuse_call(*arguments: Any) -> Any:
    raise DataError("it calls numpy.ndarray itself, which no data set needs; refused")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not ALLOWED["numpy", "ndarray"]:
        raise DataError("a reconstruction of something other than an array; refused")
    return _Array()


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    if order not in ("C", "F"):
        raise DataError(f"an array in order {order!r}; refused")
    return _Array(_build_array(shape, kind, order, content))


def _scalar(kind: Any, content: Any = b"") -> _Array:
    return _Array(_build_array((), kind, "C", content))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise DataError(f"text in encoding {encoding!r}; refused")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _set(items: Any = ()) -> set[Any]:
    if not isinstance(items, list | tuple | set):
        raise DataError("a set made from something other than a list; refused")
    return set(items)


def _ordered_dict(items: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(items)


class _Function:
    """A function that a pickle may call but not change: setting its state is refused."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise DataError("it sets the state of a function; refused")


ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
ALLOWED: dict[tuple[str, str], _Function] = {
    ("numpy", "ndarray"): _Function(_refuse_call),
    ("numpy", "dtype"): _Function(_Type),
    **{(module, "_reconstruct"): _Function(_reconstruct) for module in ARRAY_MODULES},
    **{(module, "scalar"): _Function(_scalar) for module in ARRAY_MODULES},
    ("numpy.core.numeric", "_frombuffer"): _Function(_from_buffer),
    ("numpy._core.numeric", "_frombuffer"): _Function(_from_buffer),
    ("collections", "OrderedDict"): _Function(_ordered_dict),
    ("_codecs", "encode"): _Function(_encode),
    ("__builtin__", "bytes"): _Function(_no_bytes),  # b"" in old protocols
    ("__builtin__", "set"): _Function(_set),
    ("builtins", "set"): _Function(_set),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise DataError(
                f"it calls {module}.{name}, which no data set needs; refused, nothing was executed"
            ) from None


def load_pickle(file: BinaryIO, origin: str) -> Any:
    """Read a pickle of dicts, lists, tuples, sets, numbers, strings and arrays.

    Args:
        file: open for reading and seeking.
        origin: name of the file in errors.

    Raises:
        DataError: if it is damaged, needs anything else, or is built to exhaust memory.
    """
    try:
        length = file.seek(0, io.SEEK_END)
        file.seek(0)
        _check_opcodes(file, length)
        file.seek(0)
        return _resolve(_Unpickler(file, encoding="latin1").load(), {}, 0)
    except DataError as error:
        raise DataError(f"{origin}: {error}; fetch it again, from a source you trust") from error
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError,
        OverflowError, RecursionError, ImportError,
    ) as error:  # fmt: skip
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise DataError(f"{origin} is not a complete pickle of a data set ({reason}); fetch it again") from error


def _check_opcodes(file: BinaryIO, length: int) -> None:
    """Scan the opcodes, skipping their arguments; refuse those that no data set needs."""
    seen = 0
    while True:
        code = file.read(1)
        opcode = OPCODES.get(code.decode("latin1")) if code else None
        if opcode is None:
            raise DataError("ends early" if not code else f"unknown opcode {code!r}; it is not a pickle")
        seen += 1
        if opcode.name in REFUSED_OPCODES:
            raise DataError(f"it uses the opcode {opcode.name}, which no data set needs; refused, nothing was executed")
        argument = _skip_argument(file, opcode, length) if opcode.arg else b""
        if opcode.name == "FRAME" and file.tell() + int.from_bytes(argument, "little") > length:
            raise DataError("a frame beyond the end of the file; it is truncated or forged")
        if opcode.name in PUT_OPCODES:
            index = int(argument) if opcode.name == "PUT" else int.from_bytes(argument, "little")
            if index > 2 * seen + 256:
                raise DataError(f"a memo of {index:,} entries after {seen:,} opcodes; refused")
        if opcode.name == "STOP":
            return


def _skip_argument(file: BinaryIO, opcode: Any, length: int) -> bytes:
    """Skip the argument of an opcode; return it if it is short."""
    size = opcode.arg.n
    if size == pickletools.UP_TO_NEWLINE:
        lines = 2 if opcode.name in ("GLOBAL", "INST") else 1
        return _read_lines(file, lines, length if opcode.name in ("STRING", "UNICODE") else MAX_LINE_BYTES)
    if size >= 0:
        argument = file.read(size)
        if len(argument) != size:
            raise DataError("ends early")
        return argument
    count = int.from_bytes(file.read(LENGTH_BYTES[size]), "little")
    if file.tell() + count > length:
        raise DataError(f"an item of {count:,} bytes in a file of {length:,}; it is truncated or forged")
    if opcode.name in ("LONG1", "LONG4") and count > MAX_INTEGER_BYTES:
        raise DataError(f"an integer of {count:,} bytes; refused")
    file.seek(count, io.SEEK_CUR)
    return b""


def _read_lines(file: BinaryIO, lines: int, limit: int) -> bytes:
    for _ in range(lines):
        line = file.readline(limit)
        if not line.endswith(b"\n"):
            raise DataError("a line without an end; it is truncated or forged")
    return line


def _resolve(value: Any, done: dict[int, tuple[Any, Any]], depth: int) -> Any:
    """Return the value with real arrays in place of the stand-ins.

    `done` maps the id of each container to the container (to keep it alive) and its result, so that parts that a
    pickle references a thousand times are resolved once.
    """
    if depth > MAX_DEPTH:
        raise DataError(f"values nested more than {MAX_DEPTH} deep; refused")
    if isinstance(value, _Array):
        return _resolve_array(value, done, depth)
    if value is None or isinstance(value, str | bytes | int | float | complex | set | frozenset | bytearray):
        return value
    if not isinstance(value, dict | list | tuple):
        raise DataError(f"a value of type {type(value).__name__}, which no data set needs; refused")
    if id(value) not in done:
        result: Any
        if isinstance(value, dict):
            result = {_key(key): _resolve(item, done, depth + 1) for key, item in value.items()}
        else:
            result = type(value)(_resolve(item, done, depth + 1) for item in value)
        done[id(value)] = value, result
    return done[id(value)][1]


def _resolve_array(stand_in: _Array, done: dict[int, tuple[Any, Any]], depth: int) -> Any:
    array = stand_in.value
    if array is None:
        raise DataError("an array without content; refused")
    if array.dtype.kind != "O":
        return array if array.shape else array[()]
    resolved = np.empty(array.size, object)
    for i, item in enumerate(array.reshape(-1)):
        resolved[i] = _resolve(item, done, depth + 1)
    return resolved.reshape(array.shape)


def _key(key: Any) -> Any:
    """Return a dictionary key; numpy scalars become plain numbers, bytes become strings."""
    if isinstance(key, _Array):
        if key.value is None or key.value.shape:
            raise DataError("an array as dictionary key; refused")
        return key.value.item()
    return key.decode("latin1") if isinstance(key, bytes) else key
