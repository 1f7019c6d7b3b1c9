"""State dicts of PyTorch as NumPy arrays, without PyTorch and without running what a file says.

A file of `torch.save` is a zip of `NAME/data.pkl`, a pickle, and one `NAME/data/KEY` for each storage. Of the pickle,
descriptions of tensors are read and nothing else; arrays are made of those afterwards, within the bounds of their
storage.
"""

import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import safetensors

# What safetensors calls a type -> NumPy's; NumPy has no bfloat16, which is the upper half of a float32.
_TYPES = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BF16": "u2",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
}
_TYPES |= {"U8": "u1", "BOOL": "?"}
_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_WRAPPERS = ("state_dict", "model_state_dict")
_LARGEST_PICKLE = 8 * 2**20  # bytes; the full model's has 0.1 MB
_LONGEST_ORDER = 16  # bytes of `byteorder`
_LONGEST_NAME = 300
_MOST_AXES = 64  # of a tensor, as of NumPy
_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch.save of before version 1.6 begins with
# What zipfile, pickle and NumPy raise for damaged files.
_DAMAGED = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    OSError,
    zlib.error,
    struct.error,
    EOFError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RuntimeError,
)


T = TypeVar("T")


class _Refused(ValueError):
    """What is whole, and no state dict; says why."""


def read_state_dict(path: Path | str) -> dict[str, np.ndarray]:
    """Every tensor of a `.safetensors` file or of one of `torch.save`: floats as float32, the rest as it is.

    A state dict inside a dict, as `state_dict`, is found there. Tensors that are one in the file are one array.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut short or damaged, or holds something else than tensors by name (one line).
    """
    path = Path(path)
    path.open("rb").close()  # or OSError, before what is read from it can be damaged
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except _Refused as error:
        raise ValueError(f"{path}: {_line(error)}") from error
    except (safetensors.SafetensorError, *_DAMAGED) as error:
        raise ValueError(f"{path}: cut short or damaged ({_line(error)})") from error


def _line(error: Exception) -> str:
    """The message of an error, which may quote what a file holds, as one short line."""
    words = " ".join(str(error).split())[:300]
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in safetensors.deserialize(path.read_bytes()):
        kind = tensor["dtype"]
        if kind not in _TYPES:
            raise _Refused(f"{name} is of type {kind}; known are {', '.join(_TYPES)}")
        values = np.frombuffer(tensor["data"], f"<{_TYPES[kind]}")
        arrays[name] = _native(values.reshape(tensor["shape"]), kind)
    return arrays


def _native(values: np.ndarray, kind: str) -> np.ndarray:
    """Values as they are stored in float32 if they are floats, else in the type they have; of this machine's order."""
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return values.astype(np.float32 if kind[0] == "F" else _TYPES[kind], copy=False)


class _Storage(NamedTuple):
    """The numbers of some tensors, as the pickle describes them."""

    key: str
    kind: str
    size: int


class _Tensor(NamedTuple):
    """A view of a storage; in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# What a pickle may name: types of storages, and what is called to make a dict, a tensor or a parameter.
_ADMITTED: dict[str, Any] = {
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_tensor_v2": lambda *words: _Tensor(*words[:4]),
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    **{f"torch.{name}": kind for name, kind in _STORAGES.items()},
}


def _described(content: bytes) -> Any:
    """What the pickle of a file of torch.save describes: dicts, lists, tuples, plain values and `_Tensor`.

    It is read here, by the opcodes that torch.save writes and no others, so that nothing runs but `_ADMITTED`. Nothing
    is hashed, compared or shown but words and numbers: a tuple may hold tuples without end, or one of them twice, and
    that twice, and so on.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop(count: int) -> list[Any]:
        if count > len(stack):
            raise pickle.UnpicklingError("takes more than there is")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(pop(len(stack) - marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(int(opcode.name[-1]))))
            case "APPEND" | "APPENDS":
                items = pop(1 if opcode.name == "APPEND" else len(stack) - marks.pop())
                _container(stack, list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = pop(2 if opcode.name == "SETITEM" else len(stack) - marks.pop())
                for key, value in zip(items[::2], items[1::2], strict=True):
                    if not isinstance(key, str) and not (type(key) is int and abs(key) < 2**31):
                        raise _Refused(f"holds a dict by {type(key).__name__}; it is no state dict")
                    _container(stack, dict)[key] = value
            case "GLOBAL":
                stack.append(_admitted(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                stack.append(_admitted(".".join(pop(2))))
            case "REDUCE":
                function, words = pop(2)
                if not callable(function) or not isinstance(words, tuple):
                    raise pickle.UnpicklingError("REDUCE of no function")
                stack.append(function(*words))
            case "BUILD":
                pop(1)  # attributes
            case "BINPERSID":
                stack.append(_storage(*pop(1)))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "STOP":
                return stack.pop()
            case other:
                raise _Refused(
                    f"has the opcode {other}, which torch.save does not write; it is no state dict"
                )


def _container(stack: list[Any], kind: type[T]) -> T:
    if not isinstance(stack[-1], kind):
        raise pickle.UnpicklingError(f"no {kind.__name__} to add to")
    return stack[-1]


def _admitted(name: str) -> Any:
    if (found := _ADMITTED.get(name)) is None:
        raise _Refused(
            f"holds {name}, and code in a file is not run; write it with torch.save(model.state_dict(), path)"
        )
    return found


def _storage(words: Any) -> _Storage:
    what, kind, key, _, size = words
    if not all(isinstance(word, str) for word in (what, kind, key)) or type(size) is not int:
        raise pickle.UnpicklingError("no storage where one should be")
    if what != "storage" or kind not in _TYPES:
        raise pickle.UnpicklingError(f"{what} {kind} where a storage should be")
    return _Storage(key, kind, size)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        start = file.read(len(_BEFORE_ZIP))
    if start == _BEFORE_ZIP:
        raise _Refused(
            "is in the form of PyTorch before 1.6; write it again with "
            "torch.save(torch.load(path, weights_only=True), path)"
        )
    if not start.startswith(b"PK"):
        raise _Refused("is neither a file of torch.save nor named .safetensors")
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _Refused(f"has {len(pickles)} data.pkl inside; a file of torch.save has one")
        root = pickles[0].removesuffix("data.pkl")
        tensors = _state_dict(_described(_stored(archive, pickles[0], _LARGEST_PICKLE)))
        order = "<"
        if f"{root}byteorder" in archive.namelist():
            order = ">" if _stored(archive, f"{root}byteorder", _LONGEST_ORDER) == b"big" else "<"
        room = path.stat().st_size  # what is stored cannot be more, unless it is stored once and named twice
        storages: dict[_Storage, np.ndarray] = {}
        arrays: dict[_Tensor, np.ndarray] = {}
        for name, tensor in tensors.items():
            storage = tensor.storage
            if storage not in storages:
                storages[storage] = _values(archive, f"{root}data/{storage.key}", storage, order, room)
                room -= storages[storage].nbytes
            if tensor not in arrays:
                arrays[tensor] = _native(_view(name, tensor, storages[storage]), storage.kind)
        return {name: arrays[tensor] for name, tensor in tensors.items()}


def _state_dict(found: Any) -> Mapping[str, _Tensor]:
    """What was unpickled, if it is tensors by name, or what is in there under a name for a state dict."""
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict):
        raise _Refused(f"holds a {type(found).__name__}, not tensors by name")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise _Refused(
                f"{str(name)[:80]} is a {type(tensor).__name__}, not a tensor; it is no state dict"
            )
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise _Refused(f"{name[:80]}... is no name of a tensor; it is no state dict")
        _, offset, shape, strides = tensor
        if not isinstance(tensor.storage, _Storage):
            raise _Refused(f"{name} has no storage; it is no state dict")
        if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) > _MOST_AXES:
            raise _Refused(f"{name} has no shape or strides; it is no state dict")
        if not all(type(number) is int and abs(number) < 2**63 for number in (offset, *shape, *strides)):
            raise _Refused(f"{name} has an offset, a shape or strides of other than whole numbers")
    return found


def _stored(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The bytes of a file in the archive, which torch.save never compresses."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise _Refused(f"{name} is compressed, which torch.save does not do")
    if entry.file_size > most:
        raise _Refused(f"{name} has {entry.file_size} bytes; of a state dict it has at most {most}")
    return archive.read(entry)


def _values(archive: zipfile.ZipFile, name: str, storage: _Storage, order: str, room: int) -> np.ndarray:
    """The numbers of a storage, `[size]`."""
    kind = np.dtype(order + _TYPES[storage.kind])
    content = _stored(archive, name, room)
    if len(content) != storage.size * kind.itemsize:
        raise _Refused(
            f"{name} has {len(content)} bytes, of {storage.size * kind.itemsize} that it should have"
        )
    return np.frombuffer(content, kind)


def _view(name: str, tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    """The elements of a tensor, a view of `values` that stays within them."""
    _, offset, shape, strides = tensor
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise _Refused(f"{name} has the shape {shape} and the strides {strides}")
    count = math.prod(shape)
    if count == 0:
        return np.zeros(shape, values.dtype)
    end = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if end > len(values) or count > len(values):
        raise _Refused(f"{name} {shape} needs more than its storage of {len(values)}")
    step = values.itemsize
    return np.lib.stride_tricks.as_strided(values[offset:], shape, [stride * step for stride in strides])
