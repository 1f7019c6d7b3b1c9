import pytest

from mlproject.data.head_tracks import Track, choose, of_rows, of_targets, unnamed
from mlproject.data.targets import read_targets
from mlproject.errors import InputError

TRACKS = [
    Track(0, "ENCFF833POA", "DNASE:cerebellum male adult (27 years)", 0),
    Track(1, "ENCFF110QGM", "DNASE:K562", 1),
    Track(2, "CNhs1+", "CAGE:brain [adult], pool1", 3),
    Track(3, "CNhs1-", "CAGE:brain [adult], pool1", 2),
    Track(4, "12", "CHIP:H3K27ac:K562", 4),
]


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
    ],
)
def test_tracks_are_chosen_in_the_order_of_the_words(words, expected):
    assert [track.position for track in choose(words, TRACKS)] == expected


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("5", "--tracks: found '5'; the head has tracks 0 to 4"),
        ("0,3-7", "--tracks: found '3-7'; the head has tracks 0 to 4"),
        ("3-1", "--tracks: found '3-1'; a range goes from the lower to the higher index"),
        (
            "ENCFF110QMG",
            "'ENCFF110QMG', which is none of 5 tracks; expected an index from 0 to 4, a range such as 0-3, an identif",
        ),
        ("ENCFF110QMG", "; did you mean 'ENCFF110QGM'?"),
        ("K562", "a pattern such as *K562*; there is "),
        ("DNASE:K563*", "--tracks: found 'DNASE:K563*', which is none of 5 tracks; "),
        ("DNASE:K563*", "; did you mean 'DNASE:K562'?"),
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
    expected = [Track(0, "a", "CAGE:x", 2), Track(1, "b", "ATAC:x", 1), Track(2, "c", "CAGE:x", 0)]
    assert of_targets(read_targets(path)) == expected
    assert of_rows(rows) == expected
    assert of_rows([{"identifier": "a"}, {"description": "x", "strand_pair": ""}]) == [
        Track(0, "a", "", 0),
        Track(1, "1", "x", 1),
    ]


def test_tracks_of_which_nothing_is_known_have_numbers():
    assert unnamed("mouse", 2) == [Track(0, "mouse_0", "", 0), Track(1, "mouse_1", "", 1)]
