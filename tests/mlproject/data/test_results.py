import numpy as np
import pytest

from mlproject.data.results import read_results
from mlproject.errors import InputError

HEADER = "seed,experiment,train_loss_human,pearson_human_mean\n"


def write(folder, text, name="experiment_results_human_all_seeds.csv"):
    (folder / name).write_text(text)
    return folder


def test_runs_are_read_in_file_order(tmp_path):
    write(tmp_path, f"{HEADER}2,rope,0.5,0.1\n1,all,,0.2\n1,rope,0.25,\n")
    found = read_results(tmp_path)
    assert found.organism == "human" and found.categories is None
    assert found.runs["variant"].tolist() == ["rope", "all", "rope"] and found.runs["seed"].tolist() == [
        2,
        1,
        1,
    ]
    np.testing.assert_array_equal(found.runs["score"], [0.1, 0.2, np.nan])
    np.testing.assert_array_equal(found.runs["train_loss"], [0.5, np.nan, 0.25])


def test_other_columns_may_have_commas_and_quotes(tmp_path):
    text = 'experiment,seed,pearson_human_mean,failure\nrope,1,0.5,"NaN at 3, ""loss"""\n'
    assert read_results(write(tmp_path, text)).runs["score"].tolist() == [0.5]


def test_categories_are_read_beside(tmp_path):
    write(tmp_path, f"{HEADER}1,rope,1,0.5\n")
    write(
        tmp_path, "experiment,CAGE_mean,my cat_mean\nrope,0.25,\n", "experiment_results_human_categories.csv"
    )
    found = read_results(tmp_path).categories
    assert found.columns.tolist() == ["variant", "CAGE", "my cat"] and found["CAGE"].tolist() == [0.25]
    assert found["my cat"].isna().all()


def test_of_several_organisms_one_is_chosen(tmp_path):
    write(tmp_path, f"{HEADER}1,rope,1,0.5\n")
    text = "seed,experiment,train_loss_mouse,pearson_mouse_mean\n1,all,1,0.25\n"
    write(tmp_path, text, "experiment_results_mouse_all_seeds.csv")
    assert read_results(tmp_path, "mouse").runs["score"].tolist() == [0.25]
    with pytest.raises(InputError, match="has human, mouse; choose one with --organism"):
        read_results(tmp_path)
    with pytest.raises(InputError, match=r"--organism: found 'rat'; csv .* has human, mouse"):
        read_results(tmp_path, "rat")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed,experiment\n1,a\n", "has no column 'pearson_human_mean'; it has seed, experiment"),
        ("", "has no column 'seed'"),
        (HEADER, "has no rows"),
        (f"{HEADER}1,rope,0.5\n", "line 2: has another number of columns than the header, 4"),
        (f"{HEADER}1,rope,0.5,1,2\n", "line 2: has another number of columns than the header, 4"),
        (f"{HEADER}x,rope,0.5,1\n", "line 2: seed is 'x', expected a whole number"),
        (f"{HEADER}1,rope,0.5,high\n", "line 2: pearson_human_mean is 'high', expected a number"),
        (f"{HEADER}1,rope,1,1\n1,rope,1,2\n", "line 3: rope with seed 1 is there twice"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, text, said):
    with pytest.raises(InputError) as caught:
        read_results(write(tmp_path, text))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_such_files_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no experiment_results_ORGANISM_all_seeds\.csv"):
        read_results(tmp_path)
