"""The trainings of a study: a child run for each, one after another; one that fails does not stop the others."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import tensorflow as tf

from mlproject.errors import InputError, OutOfMemory, Stopped, one_line

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run

TRAINING_REGIONS = "training_regions"  # tag of a training: on what, in words; a registered model has it too
Kept = TypeVar("Kept")


@dataclasses.dataclass(frozen=True)
class Outcomes(Generic[Kept]):
    """What came of the trainings by their names: what `read` gave, or why one failed, in a line."""

    done: dict[str, Kept]
    failed: dict[str, str]


def train_each(
    run: "Run",
    names: Sequence[str],
    train: Callable[["Run", str, Path, str], None],
    read: Callable[["Run"], Kept],
    *,
    what: str,
    study: str,
    folder: Path,
    params: Callable[[str], Mapping[str, Any]],
    said: Callable[[Kept], str],
    batch_size: int,
    or_less: str = "",
) -> Outcomes[Kept]:
    """Trains what is not done yet, under `run`.

    Args:
        run: of the command.
        names: of the trainings.
        train: gets a child run, the training's name, a folder for its checkpoints and what to call it in a line.
        read: what is wanted of a child run that is done, now or before.
        what: a name is the name of: `seed`.
        study: tag `grid` of the children; with the name, a child is found again by it.
        folder: for checkpoints; a training's own is removed when it is done.
        params: of the child of a name.
        said: of what was read, what is said when it is there.
        batch_size, or_less: to say what to choose when memory runs out.

    Raises:
        Stopped: says in which training; the same command goes on from there.
        InputError: what the user can mend would fail the other trainings too.
    """
    outcomes: Outcomes[Kept] = Outcomes({}, {})
    for number, name in enumerate(names, 1):
        label = f"[{number}/{len(names)}] {what} {name}"
        try:
            with run.child(f"{what} {name}", key={"grid": study, what: name}, params=params(name)) as child:
                # With the run in its name: a run that is new has no history that a checkpoint could continue.
                own = folder / f"{name}-{child.id}"
                if not child.done:
                    train(child, name, own, label)
                kept = read(child)
            shutil.rmtree(own, ignore_errors=True)
            state = "was done before" if child.done else f"{child.metrics()['seconds/total']:.1f} s"
            print(f"{label}: {said(kept)} ({state})", flush=True)
            outcomes.done[name] = kept
        except Stopped as stopped:
            raise Stopped(f"{stopped} in {what} {name}; the same command goes on from there") from None
        except tf.errors.ResourceExhaustedError as error:
            raise OutOfMemory(
                f"{label}: out of memory with --batch_size {batch_size} ({one_line(error)}); choose a smaller "
                f"one{or_less}; what is trained already is kept"
            ) from None
        except InputError:
            raise
        except Exception as error:
            outcomes.failed[name] = one_line(error)
            print(f"{label}: FAILED: {outcomes.failed[name]}", flush=True)
    return outcomes
