"""Files as PyTorch writes them, made by hand; `benchmarks/pytorch_port_weights.py` has real ones."""

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlproject.state_dict import read_state_dict

SOURCE = Path(__file__).parents[2] / "src"
STORAGES = {
    "f4": "Float",
    "f2": "Half",
    "f8": "Double",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "i1": "Char",
}
STORAGES |= {"u1": "Byte", "b1": "Bool"}
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


def plain(value) -> bytes:
    """The opcodes that push a value without any global."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(key, size, *, shape, strides, offset=0, storage="Float") -> bytes:
    """The opcodes that push a tensor on a storage of `size` elements."""
    described = (
        plain("storage") + f"ctorch\n{storage}Storage\n".encode() + plain(key) + plain("cpu") + plain(size)
    )
    view = plain(offset) + plain(shape) + plain(strides) + plain(False) + b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + described + b"tQ" + view + b"tR"


def of(array, key="0") -> bytes:
    """The opcodes that push a tensor on a storage that is all of `array`."""
    array = np.asarray(array)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    storage = STORAGES[array.dtype.str[1:]]
    return tensor(key, array.size, shape=array.shape, strides=strides, storage=storage)


def ordered(items: Mapping[str, bytes]) -> bytes:
    """The opcodes that push a state dict as PyTorch has it, an OrderedDict with an attribute."""
    inside = b"".join(plain(name) + value for name, value in items.items())
    return (
        b"ccollections\nOrderedDict\n)R(" + inside + b"u" + plain({"_metadata": {"": {"version": 1}}}) + b"b"
    )


def write(path, value: bytes, storages: Mapping[str, bytes] | None = None, order="little"):
    """A file of torch.save."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + value + b".")
        archive.writestr("model/byteorder", order)
        for key, content in (storages or {}).items():
            archive.writestr(f"model/data/{key}", content)
    return path


@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize("order", ["little", "big"])
def test_types_and_byte_orders(tmp_path, kind, order):
    array = MATRIX.astype(kind)
    content = array.astype(array.dtype.newbyteorder(order)).tobytes()
    found = read_state_dict(write(tmp_path / "a.pt", ordered({"w": of(array)}), {"0": content}, order))
    assert found["w"].dtype == (np.float32 if kind[0] == "f" else array.dtype)
    np.testing.assert_array_equal(found["w"], array)


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path):
    content = np.array([1.0, -2.5, 3e38], np.float32).tobytes()
    upper = b"".join(content[i + 2 : i + 4] for i in range(0, 12, 4))
    value = tensor("0", 3, shape=(3,), strides=(1,), storage="BFloat16")
    found = read_state_dict(write(tmp_path / "a.pt", ordered({"w": value}), {"0": upper}))
    np.testing.assert_allclose(found["w"], [1.0, -2.5, 3e38], rtol=2**-8)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + upper)
    np.testing.assert_array_equal(read_state_dict(tmp_path / "a.safetensors")["w"], found["w"])


def test_views_of_one_storage(tmp_path):
    views = {
        "whole": tensor("0", 12, shape=(3, 4), strides=(4, 1)),
        "transposed": tensor("0", 12, shape=(4, 3), strides=(1, 4)),
        "part": tensor("0", 12, shape=(2, 2), strides=(4, 2), offset=4),
        "number": tensor("0", 12, shape=(), strides=(), offset=11),
        "empty": tensor("0", 12, shape=(0, 3), strides=(3, 1)),
        "again": tensor("0", 12, shape=(3, 4), strides=(4, 1)),
        "parameter": b"ctorch._utils\n_rebuild_parameter\n("
        + tensor("0", 12, shape=(3, 4), strides=(4, 1))
        + plain(True)
        + plain({})
        + b"tR",
    }
    found = read_state_dict(write(tmp_path / "a.pt", ordered(views), {"0": MATRIX.tobytes()}))
    np.testing.assert_array_equal(found["transposed"], MATRIX.T)
    np.testing.assert_array_equal(found["part"], MATRIX[1:, ::2])
    assert found["number"] == 11 and found["number"].shape == () and found["empty"].shape == (0, 3)
    assert found["whole"] is found["again"] is found["parameter"]


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict"])
def test_a_state_dict_inside_a_training_checkpoint(tmp_path, name):
    value = b"}(" + plain("epoch") + plain(3) + plain(name) + ordered({"w": of(MATRIX)}) + b"u"
    found = read_state_dict(write(tmp_path / "a.bin", value, {"0": MATRIX.tobytes()}))
    np.testing.assert_array_equal(found["w"], MATRIX)


def test_safetensors(tmp_path):
    arrays = {"w": MATRIX, "half": MATRIX.astype("f2"), "double": MATRIX.astype("f8"), "n": np.array(3)}
    save_file(arrays, tmp_path / "a.safetensors")
    found = read_state_dict(tmp_path / "a.safetensors")
    assert {name: array.dtype.str for name, array in found.items()} == {
        "w": "<f4",
        "half": "<f4",
        "double": "<f4",
        "n": "<i8",
    }
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            b"cos\nsystem\n(" + plain("touch ran") + b"tR",
            "holds os.system, and code in a file is not run; write it",
        ),
        (b"cbuiltins\neval\n(" + plain("open('ran', 'w')") + b"tR", "holds builtins.eval, and"),
        (b"ctorch.nn.modules.linear\nLinear\n)R", "holds torch.nn.modules.linear.Linear, and"),
        (b"ccollections\nOrderedDict.clear\n)R", "holds collections.OrderedDict.clear, and"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n)R", "holds torch._utils._rebuild_tensor_v3, and"),
        (plain([1]), "holds a list, not tensors by name"),
        (plain({"w": 1.5}), "w is a float, not a tensor"),
        (plain({3: 1.5}), "3 is a float, not a tensor"),
        (b"r\xff\xff\xff\x7f" + plain({}), "cut short or damaged"),
        (b"\x8c", "cut short or damaged .*unicodestring1"),
        (b"(tR", "cut short or damaged"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, monkeypatch, value, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"a\.pt: .*{said}") as caught:
        read_state_dict(write(tmp_path / "a.pt", value))
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (tensor("0", 12, shape=(13,), strides=(1,)), r"w \(13,\) needs more than its storage of 12"),
        (tensor("0", 12, shape=(3, 4), strides=(4, 1), offset=1), "needs more than its storage"),
        (tensor("0", 12, shape=(10**9,), strides=(0,)), "needs more than its storage"),
        (
            tensor("0", 12, shape=(3,), strides=(-1,), offset=9),
            r"w has the shape \(3,\) and the strides \(-1,\)",
        ),
        (tensor("0", 12, shape=(3,), strides=(1,), offset=-5), "w has the shape"),
        (tensor("0", 12, shape=(3, 4), strides=(1,)), "w has the shape"),
        (
            tensor("0", 12, shape=(1.5,), strides=(1,)),
            "w has an offset, a shape or strides of other than whole",
        ),
        (
            tensor("0", 12, shape=(2**63,), strides=(1,)),
            "w has an offset, a shape or strides of other than whole",
        ),
        (
            tensor("0", 12, shape=(True,), strides=(1,)),
            "w has an offset, a shape or strides of other than whole",
        ),
        (tensor("0", 12, shape=12, strides=(1,)), "w has no shape or strides"),
        (tensor("0", 12, shape=(1,) * 65, strides=(1,) * 65), "w has no shape or strides"),
        (tensor("0", 10**500, shape=(12,), strides=(1,)), "model/data/0 has 48 bytes, of 4000"),
        (tensor("0", 24, shape=(12,), strides=(1,)), "model/data/0 has 48 bytes, of 96 that it should have"),
        (tensor("7", 12, shape=(12,), strides=(1,)), "cut short or damaged .*no item named 'model/data/7'"),
        (tensor("0", 12, shape=(12,), strides=(1,), storage="Quantized"), "holds torch.QuantizedStorage"),
        (of(MATRIX)[:-40] + b"t", "cut short or damaged|not a tensor"),
    ],
)
def test_a_tensor_that_its_file_does_not_hold_is_refused(tmp_path, value, said):
    with pytest.raises(ValueError, match=rf"a\.pt: .*{said}"):
        read_state_dict(write(tmp_path / "a.pt", ordered({"w": value}), {"0": MATRIX.tobytes()}))


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("left", [0.0, 0.1, 0.5, 0.97])
def test_a_file_cut_short_is_one_line(tmp_path, name, left):
    path = tmp_path / name
    if name == "a.pt":
        write(path, ordered({"w": of(MATRIX)}), {"0": MATRIX.tobytes()})
    else:
        save_file({"w": MATRIX}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    said = "is neither a file of torch.save" if name == "a.pt" and not left else "cut short or damaged"
    with pytest.raises(ValueError, match=rf"^[^\n]*{name}: {said}[^\n]*$"):
        read_state_dict(path)


READ = """
import sys
from mlproject.state_dict import read_state_dict
try:
    read_state_dict(sys.argv[1])
except ValueError as error:
    print(error)
"""


def read_elsewhere(path) -> str:
    """What reading says, in a process of its own: a crash or an endless loop fails the test, not all tests."""
    words = [sys.executable, "-c", READ, str(path)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, env={"PYTHONPATH": str(SOURCE)})
    assert ended.returncode == 0 and ended.stderr == "", ended
    return ended.stdout


DEEP = b")" + b"\x85" * 300_000  # a tuple in a tuple in a tuple ...
DOUBLED = b")" + b"".join(
    b"q%ch%c\x86" % (n, n) for n in range(40)
)  # a pair of one pair twice, of 2**40 tuples
STORAGE = plain("storage") + b"ctorch\nFloatStorage\n"


@pytest.mark.parametrize("endless", [DEEP, DOUBLED], ids=["deep", "doubled"])
@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (b"}", plain(1) + b"s", "holds a dict by tuple; it is no state dict"),
        (b"}(", plain(1) + b"u", "holds a dict by tuple; it is no state dict"),
        (b"ccollections\nOrderedDict\n((", plain(1) + b"ttR", "cut short or damaged"),
        (b"((", b"t" + plain("F32") + plain("0") + plain("cpu") + plain(1) + b"tQ", "no storage where one"),
        (b"(" + plain("storage"), plain("0") + plain("cpu") + plain(1) + b"tQ", "no storage where one"),
        (b"(" + STORAGE, plain("cpu") + plain(1) + b"tQ", "no storage where one"),
        (b"(" + STORAGE + plain("0") + plain("cpu"), b"tQ", "no storage where one"),
        (b"", b"Q", "cut short or damaged"),
        (b"}" + plain("w"), b"s", "w is a tuple, not a tensor"),
        (b"", b"", "holds a tuple, not tensors by name"),
    ],
)
def test_tuples_without_end_are_refused(tmp_path, endless, before, after, said):
    found = read_elsewhere(write(tmp_path / "a.pt", before + endless + after))
    assert said in found and len(found) < 500 and found.count("\n") == 1


@pytest.mark.parametrize("endless", [DEEP, DOUBLED], ids=["deep", "doubled"])
@pytest.mark.parametrize("place", ["offset", "shape", "strides"])
def test_a_tensor_of_tuples_without_end_is_refused(tmp_path, endless, place):
    usual = {"shape": (12,), "strides": (1,), "offset": 0}
    value = tensor("0", 12, **{**usual, place: "HERE"})
    assert plain("HERE") in value
    described = ordered({"w": value.replace(plain("HERE"), endless)})
    found = read_elsewhere(write(tmp_path / "a.pt", described, {"0": MATRIX.tobytes()}))
    assert "a.pt: w has " in found and len(found) < 500


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"\x8f", "has the opcode EMPTY_SET, which torch.save does not write"),
        (b"I3\n", "has the opcode INT, which"),
        (b"(icollections\nOrderedDict\n", "has the opcode INST, which"),
        (b"ccollections\nOrderedDict\n)\x81", "has the opcode NEWOBJ, which"),
        (b"\x82\x01", "has the opcode EXT1, which"),
        (
            plain("collections") + plain("OrderedDict.clear") + b"\x93",
            r"holds collections\.OrderedDict\.clear, and",
        ),
        (plain("torch.FloatStorage") + b")R", "cut short or damaged .*REDUCE of no function"),
        (b"ctorch\nFloatStorage\n)R", "cut short or damaged .*REDUCE of no function"),
        (plain("a") + plain(1) + b"a", "cut short or damaged .*no list to add to"),
        (plain([]) + plain("a") + plain(1) + b"s", "cut short or damaged .*no dict to add to"),
        (b"}" + plain(1.5) + plain(1) + b"s", "holds a dict by float"),
        (b"}" + plain(2**61) + plain(1) + b"s", "holds a dict by int"),
        (plain(1) + b"\x87", "cut short or damaged .*takes more than there is"),
        (b"}" + plain("a" * 301) + of(MATRIX) + b"s", "aaa... is no name of a tensor"),
        (b"}" + plain("a\nb") + of(MATRIX) + b"s", "is no name of a tensor"),
        (b"c" + b"a" * 5000 + b"\nb\n", "holds aaa"),
        (b"ca\x1b[31m\nb\n", r"holds a\?\[31m\.b"),
    ],
)
def test_other_pickles_are_refused_in_one_short_line(tmp_path, value, said):
    with pytest.raises(ValueError, match=rf"a\.pt: .*{said}") as caught:
        read_state_dict(write(tmp_path / "a.pt", value, {"0": MATRIX.tobytes()}))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_torch_can_be_told(tmp_path, protocol):
    class Saved(pickle.Pickler):
        """As torch.save has it, with stand-ins for the types of torch that are pickled by name."""

        def persistent_id(self, value):
            return ("storage", Storage, "0", "cpu", 12) if isinstance(value, np.ndarray) else None

        def reducer_override(self, value):
            if value is Storage or value is rebuild:
                return "FloatStorage" if value is Storage else "_rebuild_tensor_v2"
            return NotImplemented

    class Storage:
        pass

    def rebuild():
        pass

    class Tensor:
        def __reduce__(self):
            return rebuild, (MATRIX, 0, (3, 4), (4, 1), False, OrderedDict())

    Storage.__module__, rebuild.__module__ = "torch", "torch._utils"
    modules = {
        "torch": SimpleNamespace(FloatStorage=Storage),
        "torch._utils": SimpleNamespace(_rebuild_tensor_v2=rebuild),
    }
    file = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        state = {
            "model_state_dict": OrderedDict(w=Tensor()),
            "losses": [1.5, None, True],
            "optimizer": {0: {}},
        }
        Saved(file, protocol).dump(state)
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", file.getvalue())
        archive.writestr("a/data/0", MATRIX.tobytes())
    np.testing.assert_array_equal(read_state_dict(tmp_path / "a.pt")["w"], MATRIX)


def test_what_is_too_large_or_compressed_is_refused(tmp_path, monkeypatch):
    def rewritten(**changes):
        """A file whose entries of these names are compressed or have other contents."""
        whole = {"data.pkl": b"\x80\x02" + ordered({"w": of(MATRIX)}) + b".", "byteorder": b"little"}
        whole["data/0"] = MATRIX.tobytes()
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            for name, content in whole.items():
                change = changes.get(name.partition(".")[0])
                kind = zipfile.ZIP_DEFLATED if change == "compressed" else zipfile.ZIP_STORED
                archive.writestr(f"m/{name}", change if isinstance(change, bytes) else content, kind)
        return tmp_path / "a.pt"

    assert set(read_state_dict(rewritten())) == {"w"}
    for name in ("data", "byteorder", "data/0"):
        with pytest.raises(
            ValueError, match=rf"m/{name}(\.pkl)? is compressed, which torch\.save does not do"
        ):
            read_state_dict(rewritten(**{name: "compressed"}))
    with pytest.raises(ValueError, match=r"m/byteorder has 17 bytes; of a state dict it has at most 16"):
        read_state_dict(rewritten(byteorder=b"l" * 17))
    with pytest.raises(ValueError, match=r"m/data\.pkl has 8388609 bytes; of a state dict it has at most"):
        read_state_dict(rewritten(data=b"\x80\x02" + b"." * (2**23 - 1)))


def test_a_storage_that_is_read_under_many_types_is_refused(tmp_path):
    # its bytes are there once, and would be in memory once for each type
    content = np.zeros(100_000, np.float32).tobytes()
    kinds = ("Float", "Int")
    values = {kind: tensor("0", 100_000, shape=(1,), strides=(1,), storage=kind) for kind in kinds}
    with pytest.raises(ValueError, match="model/data/0 has 400000 bytes; of a state dict it has at most"):
        read_state_dict(write(tmp_path / "a.pt", ordered(values), {"0": content}))


def test_a_flipped_byte_is_found(tmp_path):
    path = write(tmp_path / "a.pt", ordered({"w": of(MATRIX)}), {"0": MATRIX.tobytes()})
    content = path.read_bytes()
    path.write_bytes(content.replace(MATRIX.tobytes(), MATRIX[::-1].tobytes()))
    with pytest.raises(ValueError, match=r"cut short or damaged .*CRC"):
        read_state_dict(path)


def test_other_files(tmp_path):
    old = tmp_path / "old.pt"
    old.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2))
    with pytest.raises(
        ValueError, match=r"old.pt: is in the form of PyTorch before 1.6; write it again with torch"
    ):
        read_state_dict(old)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("model/weights.npy", b"")
    with pytest.raises(ValueError, match=r"zip.pt: has 0 data.pkl inside"):
        read_state_dict(tmp_path / "zip.pt")
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "none.pt")
