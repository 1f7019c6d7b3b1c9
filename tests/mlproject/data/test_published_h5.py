"""The published code's h5 files, written here as that code does: float16, gzip, N as a quarter of each base."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from enformer_core.dna import ONE_HOT
from mlproject.data.published_h5 import import_h5, is_prefix
from mlproject.data.records import open_dataset, read_shard, verify
from mlproject.errors import InputError

SOURCE = Path(__file__).parents[3] / "src"
COUNTS = (3, 2, 5, 40)  # the last one more than are read at a time
LENGTH, BINS, TRACKS = 1024, 8, 3


def write_h5(path, sequences, targets, dtype=np.float16):
    with h5py.File(path, "w") as file:
        for name, array in (("input", sequences), ("outcome", targets)):
            file.create_dataset(name, data=array.astype(dtype), compression="gzip")


def made_up(count, seed, length=LENGTH, bins=BINS, tracks=TRACKS):
    """Base codes, some of them N, and signal."""
    random = np.random.default_rng(seed)
    codes = random.choice(5, (count, length), p=[0.24, 0.24, 0.24, 0.24, 0.04]).astype(np.uint8)
    return codes, random.gamma(0.5, 2.0, (count, bins, tracks)).astype(np.float16)


def one_hot(codes, unknown=0.25):
    rows = np.concatenate([np.eye(4), np.full([1, 4], unknown)])
    return rows[codes]


def write_files(folder, counts=COUNTS, unknown=0.25, dtype=np.float16, **sizes):
    """Files `tracks.N.h5`, and what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [made_up(count, number, **sizes) for number, count in enumerate(counts)]
    for number, (codes, targets) in enumerate(contents):
        write_h5(folder / f"tracks.{number}.h5", one_hot(codes, unknown), targets, dtype)
    return str(folder / "tracks"), contents


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("h5"))


@pytest.fixture
def small(tmp_path):
    """Two files of two windows, which a test may damage."""
    return write_files(tmp_path / "h5", (2, 2))[0]


def records(dataset, subset):
    return [e for shard in dataset.shards(subset) for e in read_shard(shard, dataset.statistics)]


def check_equal(dataset, subset, contents):
    found = records(dataset, subset)
    np.testing.assert_array_equal([e.sequence for e in found], np.concatenate([c for c, _ in contents]))
    np.testing.assert_array_equal([e.target for e in found], np.concatenate([t for _, t in contents]))
    assert dataset.count(subset) == len(found)


def refusal(prefix, tmp_path, **options):
    with pytest.raises(InputError) as caught:
        import_h5(prefix, "lab", tmp_path / "work", **options)
    assert len(str(caught.value).splitlines()) == 1
    assert not [path for path in (tmp_path / "work").rglob("*") if path.name != "h5"], "half-written"
    return str(caught.value)


def test_values_are_those_of_the_files(files, tmp_path):
    prefix, contents = files
    folder = import_h5(prefix, "lab", tmp_path)
    dataset = open_dataset(folder, "lab")
    verify(dataset, tmp_path)
    statistics = dataset.statistics
    assert (statistics.seq_length, statistics.target_length, statistics.num_targets) == (LENGTH, BINS, TRACKS)
    assert (statistics.pool_width, statistics.crop_bp) == (128, 0)
    check_equal(dataset, "valid", contents[:1])
    check_equal(dataset, "train", contents[1:])
    assert dataset.count("test") == 0 and dataset.places("train") == []
    assert dataset.targets["identifier"].tolist() == ["outcome_0", "outcome_1", "outcome_2"]


@pytest.mark.parametrize(
    ("unknown", "dtype"), [(0, np.float16), (0.25, np.float32), (0.25, np.float64), (0, np.uint8), (0, bool)]
)
def test_other_spellings_of_the_same_windows(tmp_path, unknown, dtype):
    folder = tmp_path / "h5"
    prefix, contents = write_files(folder, (2, 2), unknown)
    for number, (codes, targets) in enumerate(contents):
        with h5py.File(folder / f"tracks.{number}.h5", "w") as file:
            file["input"] = one_hot(codes, unknown).astype(dtype)
            file["outcome"] = targets.astype(np.float64)
    dataset = open_dataset(import_h5(prefix, "lab", tmp_path / "work"), "lab")
    check_equal(dataset, "train", contents[1:])


def test_files_go_to_the_splits_by_their_numbers(tmp_path):
    """2 before 10; of eleven files a fifth are two."""
    prefix, contents = write_files(tmp_path / "h5", [1] * 11, length=256, bins=2)
    dataset = open_dataset(import_h5(prefix, "lab", tmp_path / "a"), "lab")
    check_equal(dataset, "valid", contents[:2])
    check_equal(dataset, "train", contents[2:])
    chosen = import_h5(prefix, "lab", tmp_path / "a", valid_files=1, test_files=3)
    dataset = open_dataset(chosen, "lab")
    check_equal(dataset, "valid", contents[:1])
    check_equal(dataset, "test", contents[1:4])
    check_equal(dataset, "train", contents[4:])


@pytest.mark.parametrize(
    ("length", "bins", "width", "crop"),
    [(1024, 8, 128, 0), (1024, 32, 32, 0), (2048, 14, 128, 128), (2048, 8, 128, 512), (1024, 7, 128, 64)],
)
def test_bins_fill_the_window_or_lie_in_its_centre(tmp_path, length, bins, width, crop):
    prefix, _ = write_files(tmp_path / "h5", (1, 1), length=length, bins=bins)
    statistics = open_dataset(import_h5(prefix, "lab", tmp_path / "work"), "lab").statistics
    assert (statistics.pool_width, statistics.crop_bp) == (width, crop)


def test_two_calls_import_once_and_changed_files_again(small, tmp_path):
    first = import_h5(small, "lab", tmp_path / "work")
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert import_h5(small, "lab", tmp_path / "work") == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    codes, targets = made_up(2, 77)
    write_h5(f"{small}.1.h5", one_hot(codes), targets)
    again = import_h5(small, "lab", tmp_path / "work")
    assert again != first
    check_equal(open_dataset(again, "lab"), "train", [(codes, targets)])


LONG = ("x" * 300, "x" * 300 + "/tracks")  # than any name of a file


def test_a_prefix_is_known_by_its_files(small, tmp_path, monkeypatch):
    assert is_prefix(small)
    for other in (
        "",
        "demo",
        f"{small}.0",
        f"{small}.0.h5",
        str(Path(small).parent),
        "/nowhere/tracks",
        *LONG,
    ):
        assert not is_prefix(other), other
    Path(f"{small}.0.h5").unlink()
    assert is_prefix(small)  # so that the missing one is named
    monkeypatch.chdir(Path(small).parent)
    assert is_prefix("tracks") and not is_prefix("track")


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_number_is_named(tmp_path, number):
    prefix, _ = write_files(tmp_path / "h5", (1, 1, 1, 1), length=256, bins=2)
    Path(f"{prefix}.{number}.h5").unlink()
    assert f"tracks.{number}.h5 is missing; there is {prefix}.3.h5" in refusal(prefix, tmp_path)


def test_one_file_is_too_few(small, tmp_path):
    Path(f"{small}.1.h5").unlink()
    assert "has one file with windows; expected two or more" in refusal(small, tmp_path)


@pytest.mark.parametrize(
    "options", [{"valid_files": 2}, {"test_files": 1}, {"valid_files": 1, "test_files": 9}]
)
def test_something_is_left_to_train(small, tmp_path, options):
    assert "leave none of 2 to train" in refusal(small, tmp_path, **options)


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("number", [0, 1])
def test_a_file_cut_short_by_a_kill_is_named(small, tmp_path, share, number):
    path = Path(f"{small}.{number}.h5")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert f"tracks.{number}.h5: is cut short or damaged; copy it or make it again (" in refusal(
        small, tmp_path
    )


def test_a_file_of_garbage_is_one_line_or_the_same_data(small, tmp_path):
    """Wherever a byte is wrong: HDF5 has checksums of its structure, not of all values."""
    path = Path(f"{small}.1.h5")
    content = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    places = [*range(0, 1200, 24), *random.integers(0, len(content), 40).tolist()]
    for number, place in enumerate(places):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            import_h5(small, "lab", tmp_path / f"work{number}")
        except InputError as error:
            assert len(str(error).splitlines()) == 1 and "tracks.1.h5" in str(error)
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: {"input": x}, "has no dataset 'outcome'; it has input. Make it again."),
        (lambda x, y: {}, "has no dataset 'input'; it has none. Make it again."),
        (lambda x, y: {"input": x[0], "outcome": y}, "'input' is (1024, 4), expected 3 axes."),
        (lambda x, y: {"input": x, "outcome": y[..., 0]}, "'outcome' is (2, 8), expected 3 axes."),
        (
            lambda x, y: {"input": x[..., :3], "outcome": y},
            "input is (2, 1024, 3) and outcome (2, 8, 3); expected",
        ),
        (
            lambda x, y: {"input": x[:1], "outcome": y},
            "input is (1, 1024, 4) and outcome (2, 8, 3); expected",
        ),
        (lambda x, y: {"input": x[:0], "outcome": y}, "input is (0, 1024, 4) and outcome (2, 8, 3)"),
        (lambda x, y: {"input": x, "outcome": y[..., :2]}, "windows are (1024, 8, 2), those of"),
        (lambda x, y: {"input": x, "outcome": y.astype("S4")}, "'outcome' is of |S4, expected numbers."),
        (lambda x, y: {"input": h5py.Empty("f"), "outcome": y}, "'input' is None, expected 3 axes."),
    ],
)
def test_arrays_that_do_not_fit_are_named(small, tmp_path, change, said):
    codes, targets = made_up(2, 1)
    with h5py.File(f"{small}.1.h5", "w") as file:
        for name, array in change(one_hot(codes), targets).items():
            file[name] = array
    message = refusal(small, tmp_path)
    assert "tracks.1.h5: " in message and said in message


def test_bins_that_fit_no_window_are_refused(tmp_path):
    prefix, _ = write_files(tmp_path / "h5", (1, 1), length=1000, bins=9)
    message = "9 bins do not divide 1000 bp, and bins of 128 bp do not lie in their centre"
    assert message in refusal(prefix, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 70_000])
def test_a_value_that_is_no_signal_names_its_window(files, tmp_path, value):
    """Of the fourth file, beyond the first read."""
    codes, targets = made_up(40, 3)
    folder = tmp_path / "h5"
    prefix, _ = write_files(folder, (1, 1))
    wrong = targets.astype(np.float32)
    wrong[35, 2, 1] = value
    write_h5(f"{prefix}.1.h5", one_hot(codes), wrong, np.float32)
    message = refusal(prefix, tmp_path)
    assert (
        "tracks.1.h5: the outcome of window 35 has a value that is NaN, infinite (in float16) or below 0"
        in message
    )


@pytest.mark.parametrize(
    "row", [[1, 1, 0, 0], [0.5, 0.5, 0, 0], [2, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, -1], [np.nan, 0, 0, 1]]
)
def test_what_is_no_one_hot_names_its_window(small, tmp_path, row):
    codes, targets = made_up(2, 1)
    sequences = one_hot(codes)
    sequences[1, 700] = row
    write_h5(f"{small}.0.h5", sequences, targets)
    assert "tracks.0.h5: the input of window 1 is no one-hot DNA" in refusal(small, tmp_path)


# --- empty files, and zeros where a making of the files was killed ---


def write_empty(path, sequences=(0,), targets=(0,)):
    with h5py.File(path, "w") as file:
        file["input"], file["outcome"] = np.zeros(sequences), np.zeros(targets)


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((0, LENGTH, 4), (0, BINS, TRACKS))])
def test_empty_files_at_the_end_are_passed_over(tmp_path, shapes):
    """The fifth to validate is one of the files with windows."""
    prefix, contents = write_files(tmp_path / "h5", (2, 1, 3))
    write_bed(prefix, [("a", 5000 * n, 5000 * n + LENGTH) for n in range(6)])
    for number in (3, 4):
        write_empty(f"{prefix}.{number}.h5", *shapes)
    said = []
    dataset = open_dataset(import_h5(prefix, "lab", tmp_path / "work", say=said.append), "lab")
    assert said == [f"{prefix}: passed over, as no windows are in them: tracks.3.h5, tracks.4.h5."]
    check_equal(dataset, "valid", contents[:1])
    check_equal(dataset, "train", contents[1:])
    assert len(dataset.places("train")) == 4


@pytest.mark.parametrize(
    ("empty", "said"),
    [
        ((1,), "tracks.1.h5: 'input' is (0,), expected 3 axes"),
        ((1, 2), "has one file with windows"),
        ((0, 1, 2), "has no file with windows"),
    ],
)
def test_empty_files_elsewhere_or_too_many_are_refused(tmp_path, empty, said):
    prefix, _ = write_files(tmp_path / "h5", (1, 1, 1))
    for number in empty:
        write_empty(f"{prefix}.{number}.h5")
    assert said in refusal(prefix, tmp_path)


def zero_from(prefix, number, row, codes, targets):
    """What a kill leaves: a file made with all its windows, of which those from `row` on were not filled."""
    sequences, signal = one_hot(codes), targets.copy()
    sequences[row:], signal[row:] = 0, 0
    write_h5(f"{prefix}.{number}.h5", sequences, signal)


def test_windows_that_were_never_filled_are_left_out_and_counted(tmp_path):
    prefix, contents = write_files(tmp_path / "h5", (4, 3, 35, 2))
    zero_from(prefix, 1, 0, *contents[1])
    zero_from(prefix, 2, 33, *contents[2])  # beyond the first read
    places = [("a", 5000 * n, 5000 * n + LENGTH) for n in range(44)]
    write_bed(prefix, places)
    said = []
    for _ in range(2):  # made, and found again
        dataset = open_dataset(import_h5(prefix, "lab", tmp_path / "work", say=said.append), "lab")
    verify(dataset, tmp_path)
    line = f"{prefix}: 5 of 44 windows are more than half N and left out, all of tracks.1.h5 among them; a making"
    assert len(said) == 2 and all(one.startswith(line) for one in said)
    check_equal(dataset, "valid", contents[:1])
    check_equal(dataset, "train", [(contents[2][0][:33], contents[2][1][:33]), contents[3]])
    assert [tuple(p) for p in dataset.places("train")] == [*places[7:40], *places[42:]]


@pytest.mark.parametrize(("known", "kept"), [(LENGTH // 2, 2), (LENGTH // 2 - 1, 1)])
def test_half_a_window_of_n_is_kept(small, tmp_path, known, kept):
    codes, targets = made_up(2, 1)
    codes[codes == 4] = 0
    codes[1, known:] = 4
    write_h5(f"{small}.1.h5", one_hot(codes), targets)
    dataset = open_dataset(import_h5(small, "lab", tmp_path, say=lambda line: None), "lab")
    check_equal(dataset, "train", [(codes[:kept], targets[:kept])])


def test_a_split_that_was_never_filled_is_refused(tmp_path):
    prefix, contents = write_files(tmp_path / "h5", (2, 2, 2))
    zero_from(prefix, 0, 0, *contents[0])
    assert "no valid window is left, as all of them are more than half N" in refusal(
        prefix, tmp_path, say=lambda line: None
    )


# --- places -------------------------------------------------------------------------------------------------------


def write_bed(prefix, places):
    Path(f"{prefix}.bed").write_text("".join(f"{c}\t{s}\t{e}\n" for c, s, e in places))


def test_places_are_kept_and_overlaps_are_said(tmp_path):
    """Against every pair of windows."""
    prefix, _ = write_files(tmp_path / "h5", (12, 3, 15), length=256, bins=2)
    random = np.random.default_rng(1)
    starts, chroms = random.integers(0, 6000, 30), random.choice(["a", "b"], 30)
    places = [(c, int(s), int(s) + 256) for c, s in zip(chroms, starts, strict=True)]
    write_bed(prefix, places)
    said = []
    options = {"valid_files": 1, "test_files": 1, "say": said.append}
    dataset = open_dataset(import_h5(prefix, "lab", tmp_path / "work", **options), "lab")
    assert [tuple(p) for p in dataset.places("valid")] == places[:12]
    assert [tuple(p) for p in dataset.places("test")] == places[12:15]
    assert [tuple(p) for p in dataset.places("train")] == places[15:]
    expected = sum(
        any(c == d and s < f and t < e for d, t, f in places[15:]) for c, s, e in places[:15]
    )  # s < f and t < e: half-open intervals overlap
    assert 0 < expected < 15
    assert said == [
        f"{prefix}.bed: {expected} of 15 windows held out overlap a training window; their numbers say too "
        "much. Datasets of build_tracks are split by chromosome."
    ]


def test_windows_that_touch_do_not_overlap(small, tmp_path, capsys):
    write_bed(small, [("a", 0, 1024), ("b", 0, 1024), ("a", 1024, 2048), ("a", 4000, 5024)])
    import_h5(small, "lab", tmp_path)
    assert capsys.readouterr().out == ""
    write_bed(small, [("a", 0, 1025), ("b", 0, 1024), ("a", 1024, 2048), ("a", 4000, 5024)])
    import_h5(small, "lab", tmp_path)
    assert "1 of 2 windows held out" in capsys.readouterr().out


def test_places_that_come_later_are_taken_in(small, tmp_path):
    first = import_h5(small, "lab", tmp_path)
    write_bed(small, [(chrom, 0, 1024) for chrom in "abcd"])
    dataset = open_dataset(import_h5(small, "lab", tmp_path), "lab")
    assert [place.chrom for place in dataset.places("train")] == ["c", "d"]
    assert dataset.digest == open_dataset(first, "lab").digest  # the same windows: the same studies


def test_places_of_another_build_are_refused(small, tmp_path):
    write_bed(small, [("a", 0, 1024)] * 3)
    said = "tracks.bed: has 3 windows, the h5 files 4; they are of different builds. Remove tracks.bed to go on without"
    assert said in refusal(small, tmp_path)


# --- a kill, a full disk ------------------------------------------------------------------------------------------

IMPORT = "import sys; from pathlib import Path; from mlproject.data.published_h5 import import_h5\n"
CALL = "import_h5(sys.argv[1], 'lab', Path(sys.argv[2]))\n"
SLOW = """
import time
import mlproject.data.published_h5 as h
def slow(sequences, read=h._codes):
    print("reading", flush=True)
    time.sleep(1.5)
    return read(sequences)
h._codes = slow
"""


def run(code, *words):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.Popen([sys.executable, "-c", IMPORT + code, *words], env=environment, **pipes)


def test_a_kill_in_the_middle_leaves_no_dataset(files, tmp_path):
    prefix, contents = files
    process = run(SLOW + CALL, prefix, str(tmp_path))
    assert process.stdout.readline() == "reading\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not list(tmp_path.glob("h5/*/lab")) and list(tmp_path.glob("h5/*/.lab.partial-*"))
    folder = import_h5(prefix, "lab", tmp_path)
    assert [path.name for path in folder.iterdir()] == ["lab"]  # what the kill left is gone
    check_equal(open_dataset(folder, "lab"), "train", contents[1:])


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(files, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
    process = run(limit + CALL, files[0], str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert f"InputError: work_dir {tmp_path}: cannot be written (" in last and "File too large" in last
    assert not list(tmp_path.iterdir())


def test_two_processes_at_once_import_once(files, tmp_path):
    code = SLOW.replace("1.5", "0.3") + CALL
    processes = [run(code, files[0], str(tmp_path)) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted(output.count("reading") for output, _ in outputs) == [0, 5]
    assert len(list(tmp_path.glob("h5/*/*"))) == 1


def test_one_hot_here_is_that_of_the_models():
    np.testing.assert_array_equal(one_hot(np.arange(5), 0), ONE_HOT)
