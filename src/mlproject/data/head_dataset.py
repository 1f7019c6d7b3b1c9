"""The dataset that a new track head is trained on: the demo, published h5 files, or a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mlproject.data.demo import demo_dataset
from mlproject.data.published_h5 import import_h5, is_prefix
from mlproject.data.records import TrackDataset, open_dataset, verify
from mlproject.errors import InputError


def open_head_dataset(
    data: str,
    organism: str,
    work_dir: Path,
    *,
    valid_files: int,
    test_files: int,
    eval_split: str,
    say: Callable[[str], None] = print,
) -> TrackDataset:
    """The dataset that the option `data` names, read once from end to end.

    Args:
      data: demo, the prefix of h5 files, or a folder.
      organism: its folder there, or what to call the head of h5 files.
      work_dir: for the demo, for what is made of h5 files, and for what is known of files that were read before.
      valid_files, test_files, say: as `import_h5` takes them.
      eval_split: of the final evaluation; there are windows in it, and in train and valid.

    Raises:
      InputError: it cannot be read, is damaged, or lacks windows.
    """
    if data == "demo":
        folder = demo_dataset(work_dir)
    elif is_prefix(data):
        folder = import_h5(data, organism, work_dir, valid_files=valid_files, test_files=test_files, say=say)
    elif Path(data).suffix == ".h5":
        raise InputError(f"data {data}: give what stands before .0.h5, .1.h5 and so on, for all of them")
    else:
        folder = Path(data).resolve()
    dataset = open_dataset(folder, organism)
    _check_subsets(dataset, ["train", "valid", eval_split])
    dataset.places(eval_split)
    dataset.head_bins()
    verify(dataset, work_dir)
    return dataset


def _check_subsets(dataset: TrackDataset, subsets: Sequence[str]) -> None:
    for subset in subsets:
        if not dataset.count(subset):
            raise InputError(
                f"{dataset.path}: has no {subset} windows"
                + ("; give eval_split=valid" if subset == "test" else "")
            )
        dataset.shards(subset)
