import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlproject import embeddings
from mlproject.data.construct_windows import ConstructWindows
from mlproject.data.records import file_sha256
from mlproject.embeddings import EmbeddingCache, sequence_key, trunk_key
from mlproject.errors import InputError
from toys import toy_constructs, toy_model

SOURCE = Path(__file__).parents[2] / "src"
BINS, CHANNELS = 3, 5
KEYS = [f"window{number}" for number in range(10)]


class Trunk:
    """Stands in for a trunk: an embedding for each window, and the windows it was asked for."""

    def __init__(self, keys=KEYS):
        self.keys = keys
        self.asked = []

    def __call__(self, positions):
        found = [self.keys[position] for position in positions]
        self.asked.append(found)
        return np.stack([self.embedding(key) for key in found])

    @staticmethod
    def embedding(key):
        return np.random.default_rng(list(key.encode())).normal(size=(BINS, CHANNELS)).astype(np.float32)


def expected(keys):
    return np.stack([Trunk.embedding(key) for key in keys]).astype(np.float16)


def cache_in(folder):
    return EmbeddingCache(folder / "trunk", BINS, CHANNELS)


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of four windows."""
    monkeypatch.setattr(embeddings, "_SHARD_BYTES", 4 * 2 * BINS * CHANNELS + 1)


def test_each_missing_window_is_computed_once(tmp_path):
    trunk, said = Trunk(), []
    cache = cache_in(tmp_path)
    assert cache.missing(KEYS) == list(range(10))
    assert cache.fill(KEYS[:4], trunk, batch_size=3, say=said.append) == 4
    assert trunk.asked == [KEYS[:3], KEYS[3:4]]
    assert said == [f"embeddings: 4 of 4 windows to compute, 0.00 MB, in {tmp_path / 'trunk'}"]
    trunk.asked.clear()
    assert cache.missing(KEYS) == list(range(4, 10))
    assert cache.fill(KEYS, trunk, batch_size=3) == 6
    assert trunk.asked == [KEYS[4:7], KEYS[7:]]
    assert cache.missing(KEYS) == []


def test_a_second_fill_computes_and_says_nothing(tmp_path, capsys):
    def never(value):
        raise AssertionError(value)

    cache_in(tmp_path).fill(KEYS, Trunk(), batch_size=3)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "trunk").iterdir()}
    capsys.readouterr()
    again = cache_in(tmp_path)
    assert again.missing(KEYS) == []
    assert again.fill(KEYS, never, batch_size=3, say=never) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "trunk").iterdir()} == before
    assert capsys.readouterr().out == ""


def test_what_is_read_is_what_was_computed_in_float16(tmp_path, small_shards):
    cache_in(tmp_path).fill(KEYS, Trunk(), batch_size=2)
    assert len(list((tmp_path / "trunk").glob("*.npy"))) == 3
    wanted = [KEYS[n] for n in (9, 0, 4, 4, 3, 9, 7)]
    found = cache_in(tmp_path).read(wanted)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, expected(wanted))


def test_a_name_that_is_twice_is_one_window(tmp_path):
    keys = ["a", "b", "a", "c", "b", "a"]
    trunk, cache = Trunk(keys), cache_in(tmp_path)
    assert cache.missing(keys) == [0, 1, 3]
    assert cache.fill(keys, trunk, batch_size=2) == 3
    assert trunk.asked == [["a", "b"], ["c"]]
    np.testing.assert_array_equal(cache.read(keys), expected(keys))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_fill_keeps_its_finished_shards(tmp_path, small_shards, error):
    class Stopping(Trunk):
        def __call__(self, positions):
            if 6 in positions:  # in the second shard, after a batch of it
                raise error
            return super().__call__(positions)

    with pytest.raises(error):
        cache_in(tmp_path).fill(KEYS, Stopping(), batch_size=2)
    assert {path.suffix for path in (tmp_path / "trunk").iterdir()} == {".npy", ".keys"}
    trunk, cache = Trunk(), cache_in(tmp_path)
    np.testing.assert_array_equal(cache.read(KEYS[:4]), expected(KEYS[:4]))
    assert cache.fill(KEYS, trunk, batch_size=2) == 6
    assert trunk.asked == [KEYS[4:6], KEYS[6:8], KEYS[8:]]
    np.testing.assert_array_equal(cache.read(KEYS), expected(KEYS))


def test_what_a_kill_left_in_the_middle_of_a_file_is_removed(tmp_path):
    cache_in(tmp_path).fill(KEYS[:4], Trunk(), batch_size=4)
    whole = set((tmp_path / "trunk").iterdir())
    for name in ("0123456789abcdef.npy.4711", "0123456789abcdef.keys.4711"):
        (tmp_path / "trunk" / name).write_bytes(b"half")
    cache = cache_in(tmp_path)
    (tmp_path / "trunk" / "fedcba9876543210.npy").write_bytes(b"without its names")
    assert cache.fill(KEYS[:6], Trunk(), batch_size=4) == 2
    found = set((tmp_path / "trunk").iterdir())
    assert whole < found and {path.suffix for path in found - whole} == {".npy", ".keys"}
    assert len(found) == len(whole) + 2
    np.testing.assert_array_equal(cache.read(KEYS[:4]), expected(KEYS[:4]))


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def empty(path):
    path.write_bytes(b"")


def other_type(path):
    np.save(path, np.load(path).astype(np.float32))


def fewer(path):
    np.save(path, np.load(path)[1:])


def flip(path):
    """One bit, of the last number."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, other_type, fewer, flip, Path.unlink])
def test_a_damaged_shard_is_passed_over_and_made_again(tmp_path, small_shards, capsys, damage):
    cache_in(tmp_path).fill(KEYS, Trunk(), batch_size=4)
    (names,) = (path for path in (tmp_path / "trunk").glob("*.keys") if KEYS[5] in path.read_text())
    damage(names.with_suffix(".npy"))
    capsys.readouterr()
    trunk, cache = Trunk(), cache_in(tmp_path)
    assert capsys.readouterr().out.startswith(f"{names.with_suffix('.npy')} is passed over: ")
    assert cache.missing(KEYS) == [4, 5, 6, 7]
    assert cache.fill(KEYS, trunk, batch_size=4) == 4 and trunk.asked == [KEYS[4:8]]
    np.testing.assert_array_equal(cache_in(tmp_path).read(KEYS), expected(KEYS))


@pytest.mark.parametrize("shape", [(1, BINS, CHANNELS), (10, BINS, CHANNELS + 1)])
def test_a_shard_of_another_trunk_is_passed_over(tmp_path, capsys, shape):
    cache_in(tmp_path).fill(KEYS, Trunk(), batch_size=10)
    (path,) = (tmp_path / "trunk").glob("*.npy")
    np.save(path, np.zeros(shape, np.float16))
    text = path.with_suffix(".keys").read_text()
    path.with_suffix(".keys").write_text(text.replace(text.split()[0], file_sha256(path)))
    assert cache_in(tmp_path).missing(KEYS) == list(range(10))
    assert f"passed over: is {shape} float16" in capsys.readouterr().out


@pytest.mark.parametrize(
    "garble",
    [
        lambda text: b"\xff" + text,
        lambda text: b"",
        lambda text: text[:30],
        lambda text: text.replace(b"window5", b"window4"),
        lambda text: text[65:],  # without its sha256
        lambda text: text.replace(b"\n", b"\x00"),
    ],
)
def test_names_that_are_garbled_are_passed_over_and_made_again(tmp_path, small_shards, capsys, garble):
    cache_in(tmp_path).fill(KEYS, Trunk(), batch_size=4)
    (names,) = (path for path in (tmp_path / "trunk").glob("*.keys") if KEYS[5] in path.read_text())
    names.write_bytes(garble(names.read_bytes()))
    trunk, cache = Trunk(), cache_in(tmp_path)
    assert f"{names.with_suffix('.npy')} is passed over: " in capsys.readouterr().out
    assert cache.fill(KEYS, trunk, batch_size=4) == 4 and trunk.asked == [KEYS[4:8]]
    np.testing.assert_array_equal(cache_in(tmp_path).read(KEYS), expected(KEYS))


# --- what only cannot be read stays ---


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ENOMEM, errno.EACCES])
@pytest.mark.parametrize("suffix", [".npy", ".keys"])
def test_what_cannot_be_read_now_is_one_line_and_stays(tmp_path, small_shards, monkeypatch, number, suffix):
    cache_in(tmp_path).fill(KEYS, Trunk(), batch_size=4)
    before = {path: path.read_bytes() for path in (tmp_path / "trunk").iterdir()}
    whole = Path.open

    def failing(path, *how, **more):
        if path.suffix == suffix and path.stem != min(before).stem:
            raise OSError(number, os.strerror(number), str(path))
        return whole(path, *how, **more)

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(InputError, match=rf"\.npy: cannot be read \(.*{os.strerror(number)}\)\.$"):
        cache_in(tmp_path)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in (tmp_path / "trunk").iterdir()} == before
    np.testing.assert_array_equal(cache_in(tmp_path).read(KEYS), expected(KEYS))


FEW_FILES = """
import resource, sys
from pathlib import Path
import numpy as np
from mlproject import embeddings

embeddings._SHARD_BYTES = 1  # a window each
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
keys = [f"window{number}" for number in range(120)]
for _ in range(2):
    cache = embeddings.EmbeddingCache(Path(sys.argv[1]), 3, 5)
    print(cache.fill(keys, lambda at: np.full((len(at), 3, 5), at[0], np.float32), batch_size=1))
    assert cache.read(keys)[:, 0, 0].tolist() == list(range(120))
"""


def test_more_shards_than_a_process_may_open(tmp_path):
    words = [sys.executable, "-c", FEW_FILES, str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, env={"PYTHONPATH": str(SOURCE)})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[1:] == ["120", "0"], ended.stdout


def test_what_is_missing_is_named_when_it_is_read(tmp_path, small_shards):
    cache = cache_in(tmp_path)
    cache.fill(KEYS[:8], Trunk(), batch_size=4)
    says = r"trunk: has no embeddings of 2 of 3 windows \(window8\); the same command computes them$"
    with pytest.raises(InputError, match=says):
        cache.read(["window1", "window8", "window9"])
    (shard,) = (p for p in (tmp_path / "trunk").glob("*.keys") if "window5" in p.read_text())
    whole = shard.with_suffix(".npy").read_bytes()
    shard.with_suffix(".npy").write_bytes(whole[:-4])  # behind its back
    with pytest.raises(InputError, match=r"npy: cannot be read; .* \(it was cut short\)"):
        cache.read(["window7"])
    shard.with_suffix(".npy").unlink()
    with pytest.raises(InputError, match=r"npy: cannot be read; the same command .* \(No such file"):
        cache.read(["window5"])
    np.testing.assert_array_equal(cache.read(KEYS[:4]), expected(KEYS[:4]))


# --- what was verified is remembered ---


@pytest.fixture
def hashed(monkeypatch):
    """The files whose sha256 was taken."""
    found = []

    def sha256(path):
        found.append(Path(path).name.split(".")[0])
        return file_sha256(path)

    monkeypatch.setattr(embeddings, "file_sha256", sha256)
    return found


def test_a_shard_is_hashed_once_until_it_changes(tmp_path, small_shards, hashed):
    cache_in(tmp_path).fill(KEYS, Trunk(), batch_size=4)
    assert len(hashed) == len(set(hashed)) == 3
    hashed.clear()
    assert cache_in(tmp_path).missing(KEYS) == [] and not hashed
    shutil.copytree(tmp_path / "trunk", tmp_path / "copy" / "trunk", copy_function=shutil.copyfile)
    assert cache_in(tmp_path / "copy").missing(KEYS) == [] and len(hashed) == 3  # of other times
    assert cache_in(tmp_path / "copy").missing(KEYS) == [] and len(hashed) == 3


def test_shards_whose_state_was_not_kept_are_hashed(tmp_path, hashed):
    """As older ones are, which have the sha256 alone."""
    cache_in(tmp_path).fill(KEYS, Trunk(), batch_size=4)
    (names,) = (tmp_path / "trunk").glob("*.keys")
    first, *rest = names.read_text().splitlines()
    names.write_text("\n".join([first.split()[0], *rest]) + "\n")
    hashed.clear()
    for _ in range(2):
        assert cache_in(tmp_path).missing(KEYS) == []
        assert len(hashed) == 1


def test_a_long_check_has_a_bar(tmp_path, small_shards, monkeypatch):
    cache_in(tmp_path).fill(KEYS, Trunk(), batch_size=4)
    shown = []

    def bar(items, description, **how):
        shown.append((len(items), description, how["unit"]))
        return items

    monkeypatch.setattr(embeddings, "tqdm", bar)
    cache_in(tmp_path)
    assert shown == [(3, "check embeddings", "shard")]


# --- damage of names ---


def test_names_that_are_a_folder_are_one_line(tmp_path):
    cache_in(tmp_path)
    (tmp_path / "trunk" / "0.keys").mkdir()
    with pytest.raises(InputError, match=r"0\.npy: cannot be read \(.*0\.keys: Is a directory\)"):
        cache_in(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65_520.0, -1e30])
def test_what_float16_cannot_hold_is_refused(tmp_path, value):
    def embed(positions):
        found = np.ones((len(positions), BINS, CHANNELS), np.float32)
        found[-1, 1, 2] = value
        return found

    with pytest.raises(InputError, match=r"of the embeddings one is NaN or beyond float16; .* cache=off$"):
        cache_in(tmp_path).fill(KEYS, embed, batch_size=2)
    assert not list((tmp_path / "trunk").iterdir())


def test_the_largest_number_of_float16_is_kept(tmp_path):
    cache = cache_in(tmp_path)
    cache.fill(["a"], lambda positions: np.full((1, BINS, CHANNELS), 65_504.0), batch_size=1)
    assert (cache.read(["a"]) == 65_504).all()


def test_a_disk_that_is_too_small_is_one_line_before_the_work(tmp_path, monkeypatch):
    trunk, cache = Trunk(), cache_in(tmp_path)
    needed = len(KEYS) * 2 * BINS * CHANNELS
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (10**9, 0, needed - 1))
    with pytest.raises(InputError, match=r"trunk: 0.00 MB needed for embeddings, 0.00 MB free; .*cache=off"):
        cache.fill(KEYS, trunk, batch_size=2)
    assert not trunk.asked and not list((tmp_path / "trunk").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (10**9, 0, needed))
    assert cache.fill(KEYS, trunk, batch_size=2) == 10


def test_a_disk_that_fills_up_is_one_line_and_leaves_no_part_of_a_file(tmp_path, small_shards, monkeypatch):
    whole, written = np.lib.format.write_array, []

    def write(file, array):
        written.append(array)
        if len(written) == 2:
            file.write(b"some of it")
            raise OSError(28, "No space left on device")
        whole(file, array)

    monkeypatch.setattr(np.lib.format, "write_array", write)
    with pytest.raises(InputError, match=r"cannot be written; free some room.*\(No space left on device\)"):
        cache_in(tmp_path).fill(KEYS, Trunk(), batch_size=4)
    assert sorted(path.suffix for path in (tmp_path / "trunk").iterdir()) == [".keys", ".npy"]
    cache = cache_in(tmp_path)
    assert cache.fill(KEYS, Trunk(), batch_size=4) == 6  # the first shard is there
    np.testing.assert_array_equal(cache.read(KEYS), expected(KEYS))


def test_another_dtype_has_its_own_limits_and_a_name(tmp_path):
    said = []
    cache = EmbeddingCache(tmp_path / "targets", 2, 3, np.float32, "targets")
    values = np.array([[[1e30, 0.1, 70_000], [0, 1, 2]]])
    cache.fill(["a"], lambda positions: values, batch_size=1, say=said.append)
    assert said == [f"targets: 1 of 1 windows to compute, 0.00 MB, in {tmp_path / 'targets'}"]
    found = cache.read(["a"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))
    with pytest.raises(InputError, match="of the targets one is NaN or beyond float32"):
        cache.fill(["b"], lambda positions: values * 1e30, batch_size=1)


@pytest.mark.parametrize(
    ("bins", "said"),
    [(2000, "0.06 MB"), (3_333_333, "100.00 MB"), (3_333_334, "0.10 GB"), (10**8, "3.00 GB")],
)
def test_the_size_is_said_in_a_unit_that_fits(tmp_path, monkeypatch, bins, said):
    class Enough(Exception):
        pass

    def say(line):
        raise Enough(line)

    monkeypatch.setattr(shutil, "disk_usage", lambda _: (10**12, 0, 10**12))
    with pytest.raises(Enough, match=f"3 of 3 windows to compute, {said}, in "):
        EmbeddingCache(tmp_path / "trunk", bins, CHANNELS).fill(KEYS[:3], None, batch_size=1, say=say)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/trunk: cannot be written \("):
        cache_in(tmp_path / "file")


FILL = """
import sys, time
from pathlib import Path
import numpy as np
from mlproject.embeddings import EmbeddingCache

folder, number = Path(sys.argv[1]), int(sys.argv[2])
keys = [f"window{n}" for n in range(10)]
asked = []

def embed(positions):
    time.sleep(0.1)
    asked.extend(positions)
    return np.full((len(positions), 3, 5), positions[0], np.float32)

cache = EmbeddingCache(folder / "trunk", 3, 5)
assert len(cache.missing(keys)) == 10
(folder / f"ready-{number}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
say = lambda line: print(line) if "waiting" in line else None
assert cache.fill(keys, embed, batch_size=1, say=say) == len(asked)
assert cache.read(keys)[:, 0, 0].tolist() == list(range(10))
print(len(asked))
"""


def test_two_processes_at_once_do_the_work_once(tmp_path):
    """The one that waits says for whom."""
    words = [sys.executable, "-c", FILL, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {"PYTHONPATH": str(SOURCE)}}
    processes = [subprocess.Popen([*words, number], text=True, **pipes) for number in "01"]
    ended = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    waited = ended[0][-1] == "0"
    other = processes[waited].pid
    assert [lines[-1] for lines in ended] == (["0", "10"] if waited else ["10", "0"]), ended
    (line,) = ended[0 if waited else 1][:-1]
    assert line.startswith(f"{tmp_path / 'trunk'}: waiting for process {other} on "), line
    assert line.endswith(", which fills it")
    assert not (tmp_path / "trunk" / "holder").exists()


def test_the_name_of_a_window_is_that_of_its_letters():
    """The same as of windows on constructs, so that whatever has the same letters is computed once."""
    windows = ConstructWindows(toy_constructs(2), 2048, samples=2, stride=1, seed=0)
    for key, one_hot in zip(windows.keys(range(4)), windows.sequences(range(4)), strict=True):
        assert sequence_key(one_hot.argmax(1).astype(np.uint8)) == key and len(key) == 32
    codes = np.array([0, 1, 2, 3, 4], np.uint8)
    assert sequence_key(codes[::-1]) == sequence_key(codes[::-1].copy()) != sequence_key(codes)


def test_a_trunk_is_known_by_its_weights_and_sizes_but_not_by_its_heads():
    made = toy_model(seed=1)
    key = trunk_key(made)
    assert trunk_key(toy_model(seed=1, heads={})) == key
    others = [{"seed": 2}, {"sequence_length": 2304}, {"target_length": 12}, {"pooling": "max"}]
    assert len({key, *(trunk_key(toy_model(**{"seed": 1, **other})) for other in others)}) == 5
    assert trunk_key(toy_model(seed=1, target_length=16)) == trunk_key(toy_model(seed=1, target_length=None))
