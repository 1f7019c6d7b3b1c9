"""State dicts of PyTorch as NumPy arrays, without PyTorch and without running what a file says.

A file of `torch.save` is a zip of `NAME/data.pkl`, a pickle, and one `NAME/data/KEY` for each storage. The pickle may
build descriptions of tensors and nothing else; arrays are made of those afterwards, within the bounds of their storage.
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch.save of before version 1.6 begins with
# What zipfile, pickle and NumPy raise for damaged files.
_DAMAGED = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
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
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except (safetensors.SafetensorError, *_DAMAGED) as error:
        raise ValueError(f"{path}: cut short or damaged ({error})") from error


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


class _Descriptions(pickle.Unpickler):
    """Builds dicts, lists, plain values and `_Tensor`, and nothing else."""

    def __init__(self, content: bytes):
        for code, argument, _ in pickletools.genops(content):
            if (
                "PUT" in code.name and isinstance(argument, int) and argument > len(content)
            ):  # Python would make room for as many
                raise pickle.UnpicklingError(f"{code.name} {argument}")
        super().__init__(io.BytesIO(content), encoding="utf-8")
        # Made for each file, because a pickle can set attributes of what it is given.
        self._admitted: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": lambda *words: _Tensor(*words[:4]),
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            **{f"torch.{name}": kind for name, kind in _STORAGES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        if (found := self._admitted.get(f"{module}.{name}")) is None:
            raise _Refused(
                f"holds {module}.{name}, and code in a file is not run; "
                "write it with torch.save(model.state_dict(), path)"
            )
        return found

    def persistent_load(self, words: Any) -> _Storage:
        what, kind, key, _, size = words
        if what != "storage" or kind not in _TYPES or not isinstance(key, str) or not isinstance(size, int):
            raise pickle.UnpicklingError(f"no storage: {words}"[:80])
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
        tensors = _state_dict(_Descriptions(archive.read(pickles[0])).load())
        order = "<"
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") == b"big":
            order = ">"
        storages: dict[_Storage, np.ndarray] = {}
        arrays: dict[_Tensor, np.ndarray] = {}
        for name, tensor in tensors.items():
            storage = tensor.storage
            if storage not in storages:
                storages[storage] = _values(archive, f"{root}data/{storage.key}", storage, order)
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
        if not isinstance(tensor.storage, _Storage):
            raise _Refused(f"{name} has no storage; it is no state dict")
    return found


def _values(archive: zipfile.ZipFile, name: str, storage: _Storage, order: str) -> np.ndarray:
    """The numbers of a storage, `[size]`."""
    kind = np.dtype(order + _TYPES[storage.kind])
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != storage.size * kind.itemsize:
        raise _Refused(
            f"{name} has {entry.file_size} bytes, of {storage.size * kind.itemsize} that it should have"
        )
    return np.frombuffer(archive.read(entry), kind)


def _view(name: str, tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    """The elements of a tensor, a view of `values` that stays within them."""
    _, offset, shape, strides = tensor
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(not isinstance(n, int) or n < 0 for n in numbers):
        raise _Refused(f"{name} has the shape {shape} and the strides {strides}")
    count = math.prod(shape)
    if count == 0:
        return np.zeros(shape, values.dtype)
    end = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if end > len(values) or count > len(values):
        raise _Refused(f"{name} {shape} needs more than its storage of {len(values)}")
    step = values.itemsize
    return np.lib.stride_tricks.as_strided(values[offset:], shape, [stride * step for stride in strides])
