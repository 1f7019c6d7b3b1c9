import pytest

from mlproject.data.head_tracks import Track, choose, index_text, of_rows, of_targets, unnamed
from mlproject.data.targets import read_targets
from mlproject.errors import InputError

TRACKS = [
    Track(0, 0, "ENCFF833POA", "DNASE:cerebellum male adult (27 years)", 0),
    Track(1, 1, "ENCFF110QGM", "DNASE:K562", 1),
    Track(2, 2, "CNhs1+", "CAGE:brain [adult], pool1", 3),
    Track(3, 3, "CNhs1-", "CAGE:brain [adult], pool1", 2),
    Track(4, 4, "12", "CHIP:H3K27ac:K562", 4),
]
FROM_TEN = [track._replace(index=index) for track, index in zip(TRACKS, (10, 11, 13, 1, 20), strict=True)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("3", [3]),
        ("4,1-2,2", [4, 1, 2]),
        ("ENCFF110QGM", [1]),
        ("CNhs1-,0", [3, 0]),
        ("dnase:*", [0, 1]),
        ("*k562", [1, 4]),
        ("cnhs1?", [2, 3]),
        ("*[adult]?*", [2, 3]),
        ("dnase:k562", [1]),
        ("1?", [4]),  # the identifier 12; as a number it would be an index
        ("CAGE:brain [adult], pool1", [2, 3]),
        (" cage:brain [adult], POOL1 ", [2, 3]),
        ("CAGE:brain [adult]? pool1,0", [2, 3, 0]),
    ],
)
def test_tracks_are_chosen_in_the_order_of_the_words(words, expected):
    assert [track.position for track in choose(words, TRACKS)] == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [("11", [1]), ("1", [3]), ("10-13", [0, 1, 2]), ("13,1-11", [2, 3, 0, 1]), ("12-13", [2]), ("1?", [4])],
)
def test_a_number_is_the_index_of_the_table_and_no_position(words, expected):
    assert [track.position for track in choose(words, FROM_TEN)] == expected


@pytest.mark.parametrize("word", ["0", "12", "21", "0-11", "13-21", "14-19"])
def test_a_number_that_is_no_index_is_refused_though_it_is_a_position(word):
    with pytest.raises(InputError) as caught:
        choose(word, FROM_TEN)
    assert str(caught.value) == f"--tracks: found '{word}'; the head has the indices 1 to 20, with gaps"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("5", "--tracks: found '5'; the head has the indices 0 to 4"),
        ("0,3-7", "--tracks: found '3-7'; the head has the indices 0 to 4"),
        ("3-1", "--tracks: found '3-1'; a range goes from the lower to the higher index"),
        (
            "ENCFF110QMG",
            "'ENCFF110QMG', which is none of 5 tracks; expected an index from 0 to 4, a range such as 0-3, an identif",
        ),
        ("ENCFF110QMG", "; did you mean 'ENCFF110QGM'?"),
        ("K562", "a pattern such as *K562*; there is "),
        ("DNASE:K563*", "--tracks: found 'DNASE:K563*', which is none of 5 tracks; "),
        ("DNASE:K563*", "; did you mean 'DNASE:K562'?"),
        ("CAGE:brain [adult], pool2", "; did you mean 'CAGE:brain [adult]? pool1' (? for each comma)?"),
        (",", "--tracks: found ','; it names no track"),
    ],
)
def test_what_names_no_track_is_one_line_with_the_nearest(words, says):
    with pytest.raises(InputError) as caught:
        choose(words, TRACKS)
    assert says in str(caught.value)


def test_tracks_of_a_table_and_of_a_model_are_the_same(tmp_path):
    path = tmp_path / "targets.txt"
    rows = [
        {"index": "7", "identifier": "a", "file": "f", "description": "CAGE:x", "strand_pair": "9"},
        {"index": "8", "identifier": "b", "file": "f", "description": "ATAC:x", "strand_pair": "8"},
        {"index": "9", "identifier": "c", "file": "f", "description": "CAGE:x", "strand_pair": "7"},
    ]
    path.write_text("\n".join(["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]) + "\n")
    expected = [Track(0, 7, "a", "CAGE:x", 2), Track(1, 8, "b", "ATAC:x", 1), Track(2, 9, "c", "CAGE:x", 0)]
    assert of_targets(read_targets(path)) == expected
    assert of_rows(rows) == expected
    assert of_rows([{"identifier": "a"}, {"description": "x", "strand_pair": ""}]) == [
        Track(0, 0, "a", "", 0),
        Track(1, 1, "1", "x", 1),
    ]


@pytest.mark.parametrize("indices", [(3, 3), (-1, 0), None])
def test_indices_that_cannot_be_chosen_by_are_positions(tmp_path, indices):
    rows = [{"identifier": name, "file": "f", "description": "x"} for name in "ab"]
    if indices:
        rows = [{"index": str(index), **row} for index, row in zip(indices, rows, strict=True)]
    path = tmp_path / "targets.txt"
    path.write_text("\n".join(["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]) + "\n")
    for tracks in (of_targets(read_targets(path)), of_rows(rows)):
        assert [track.index for track in tracks] == [0, 1]


def test_tracks_of_which_nothing_is_known_have_numbers():
    assert unnamed("mouse", 2) == [Track(0, 0, "mouse_0", "", 0), Track(1, 1, "mouse_1", "", 1)]


@pytest.mark.parametrize(("words", "tracks"), [("", TRACKS), ("4,1-2", TRACKS), ("13,1-11", FROM_TEN)])
def test_the_text_of_indices_chooses_the_same_tracks(words, tracks):
    chosen = choose(words, tracks)
    assert choose(index_text(chosen), tracks) == chosen
    assert index_text(choose("4,1-2", TRACKS)) == "4,1-2" and index_text(TRACKS) == "0-4"
