"""In processes of their own: TensorFlow reads where the cache is only once."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mlproject import compilation

PROGRAM = """
from mlproject import compilation
compilation.enable()
import tensorflow as tf

@tf.function(jit_compile=True, autograph=False)
def product(x):
    return tf.reduce_sum(tf.sin(x) @ tf.cos(x))

with compilation.compiling():
    print(float(product(tf.reshape(tf.range(10_000.0), [100, 100]))))
"""


def run(store):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            compilation.FOLDER_VARIABLE: str(store),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        },
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "cpu_aot_loader" not in ended.stderr
    assert "text_format" not in ended.stderr
    return float(ended.stdout)


def entries(store):
    return sorted(store.glob("*/*.pb.*"))


def test_a_second_process_loads_what_the_first_compiled(tmp_path):
    first = run(tmp_path)
    (entry,) = entries(tmp_path)
    written = entry.stat().st_mtime_ns
    assert run(tmp_path) == first  # bit for bit
    assert entries(tmp_path) == [entry]
    assert entry.stat().st_mtime_ns > written  # used again
    assert not list(tmp_path.glob("*/process-*"))  # each leaves nothing but entries


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_entry_is_compiled_anew(tmp_path, damage):
    first = run(tmp_path)
    (entry,) = entries(tmp_path)
    sound = entry.read_bytes()
    middle = len(sound) // 2
    changed = sound[:middle] + bytes([sound[middle] ^ 255]) + sound[middle + 1 :]
    entry.write_bytes({"cut": sound[:middle], "changed": changed, "empty": b""}[damage])
    assert run(tmp_path) == first
    (again,) = entries(tmp_path)
    assert again.stat().st_size == len(sound)


@pytest.fixture
def enabled(tmp_path, monkeypatch):
    """Enables the cache in this process, on a store of the test, as if nothing had been enabled; returns the folder."""
    monkeypatch.setattr(compilation, "_process_folder", None)
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    monkeypatch.setenv(compilation.FOLDER_VARIABLE, str(tmp_path))

    def enable():
        compilation.enable()
        with compilation.compiling():
            return compilation._process_folder

    yield enable
    compilation.leave()


def test_two_sound_entries_of_one_program_do_no_harm(tmp_path, enabled):
    """As two processes leave them that compile the same at the same time."""
    store = tmp_path / compilation._host()
    store.mkdir()
    for content in (b"one", b"other"):
        (store / f"program.pb.{hashlib.sha256(content).hexdigest()}").write_bytes(content)
    folder = enabled()
    assert (folder / "program.pb").read_bytes() in (b"one", b"other")
    assert f"directory='{folder}'" in os.environ["TF_XLA_FLAGS"]


def test_folders_of_processes_that_were_killed_go_and_those_of_living_ones_stay(tmp_path, enabled):
    mine = enabled()
    killed = mine.with_name("process-killed")
    killed.mkdir()
    run(tmp_path)
    assert mine.exists()
    assert not killed.exists()
    compilation.leave()
    assert not mine.exists()


def test_a_folder_with_a_space_is_fine(tmp_path):
    run(tmp_path / "a b")
    assert entries(tmp_path / "a b")


@pytest.mark.parametrize("reason", ["no home", "flags in a file"])
def test_where_there_can_be_no_store_there_is_none(monkeypatch, reason):
    monkeypatch.setattr(compilation, "_process_folder", None)
    monkeypatch.delenv(compilation.FOLDER_VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("TF_XLA_FLAGS", "flags.txt" if reason == "flags in a file" else "")

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compilation.Path, "home", no_home)
    compilation.enable()
    assert compilation._process_folder is None
    assert os.environ["TF_XLA_FLAGS"] in ("", "flags.txt")


def test_a_store_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert run(tmp_path / "file") == run(tmp_path / "fresh")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_the_store_is_in_the_cache_of_the_user_unless_it_is_off(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run("off")
    assert not (tmp_path / "mlproject").exists()
    run("")
    assert entries(tmp_path / "mlproject" / "xla")


def test_what_was_used_longest_ago_goes_when_the_store_is_full(tmp_path, monkeypatch):
    process = tmp_path / "process-1"
    process.mkdir()
    for age, name in enumerate(("new", "old", "oldest")):
        path = tmp_path / f"{name}.pb.0"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    (process / "compiled.pb").write_bytes(bytes(100))
    monkeypatch.setattr(compilation, "_process_folder", process)
    monkeypatch.setattr(compilation, "MAX_BYTES", 250)
    compilation.keep()
    assert sorted(path.name.split(".")[0] for path in tmp_path.glob("*.pb.*")) == ["compiled", "new"]


@pytest.mark.parametrize("rows", [1, 3, 4, 7])
def test_any_number_of_rows_is_computed_in_batches_of_one_size(rows):
    sizes = []

    def both(x, y):
        sizes.append((len(x), len(y)))
        return tf.constant(x) * 2, tf.constant(x.sum(1) + y)

    x, y = np.arange(2.0 * rows, dtype=np.float32).reshape(rows, 2), np.arange(rows, dtype=np.float32)
    batches = compilation.Batches()
    twice, total = batches(both, 3, x, y)
    assert set(sizes) == {(3, 3)} and len(sizes) == -(-rows // 3)
    np.testing.assert_array_equal(twice, x * 2)
    np.testing.assert_array_equal(total, x.sum(1) + y)
    (alone,) = batches(lambda x: tf.constant(x), 3, y.astype(np.int32))
    assert alone.dtype == np.int32 and alone.tolist() == y.tolist()
