"""Where a study is kept: a journal file on this machine, or a database that several machines reach.

A retry of a trial names in Optuna's own attributes (`failed_trial`, `retry_history`) what it retries: both are one
trial that counts once.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import socket
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import optuna
import psutil
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mlproject.errors import InputError, one_line
from mlproject.resuming import fingerprint

VARIABLE = "OPTUNA_STORAGE"  # what Optuna's own command line reads
HEARTBEAT_SECONDS = 20
_GRACE_SECONDS = 90  # without a heartbeat, after which a trial on another machine is given up
_MOST_RETRIES = 3  # a trial that ends its worker each time is given up after so many

SETTINGS = "settings"  # user attribute of a study: what may not change while it goes on
IDENTITY = "identity"  # user attribute of a study: no other study has the same, one of its name in a new store neither
OWNER = "owner"  # user attribute of a trial: machine, process and the process's start
VALIDATION = "validation"  # user attribute of a trial: [loss, pearson] of each step it has reported
FAILURE = "failure"  # user attribute of a trial: why it failed, in one line
ORIGIN = "origin"  # user attribute of a trial: what it was taken from, where no sampler proposed it


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Around what Optuna calls experimental, or warns of because its own loop is not used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
        yield


def is_url(storage: str) -> bool:
    """Whether it names a database, not a file."""
    return "://" in storage


def without_password(storage: str) -> str:
    """The address as it may be shown."""
    return re.sub(r"(://[^/@:]*):[^@]*@", r"\1:***@", storage)


def address(storage: str, work_dir: Path) -> str:
    """Where a study is kept: as the option says, or OPTUNA_STORAGE, or in a journal in work_dir.

    Raises:
        InputError: the option has a password, which would be kept among the run's parameters.
    """
    if is_url(storage) and urlsplit(storage).password:
        raise InputError(
            f"--storage {without_password(storage)}: the password would be kept with the run; give the address in the "
            f"variable {VARIABLE} and leave --storage out, or the password in a file of the database's own (.pgpass)"
        )
    return storage or os.environ.get(VARIABLE, "") or str(work_dir / "search_head" / "optuna.journal")


def lock_path(storage: str, name: str, work_dir: Path) -> Path:
    """What keeps commands apart that are at one study: in a journal all, in a database those of a work_dir."""
    of_study = fingerprint({"study": name})
    if is_url(storage):
        return work_dir / "search_head" / f"{of_study}.lock"
    return Path(f"{storage}.{of_study}.lock")


@contextlib.contextmanager
def explained(storage: str) -> Iterator[None]:
    """Makes what goes wrong in a store one line of the user's."""
    try:
        yield
    except (InputError, KeyboardInterrupt, AssertionError):
        raise
    except Exception as error:
        if not isinstance(error, OSError | ValueError | KeyError) and not _of_a_store(error):
            raise
        reason = without_password(one_line(error))
        raise InputError(
            f"storage {without_password(storage)}: {reason}; what it holds is kept: the same command goes on from there"
        ) from error


def _of_a_store(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in ("sqlalchemy", "alembic", "psycopg", "optuna")


def open_storage(storage: str) -> BaseStorage:
    """Optuna's store at a URL of SQLAlchemy, or in a journal file, which is made where there is none.

    Raises:
        InputError: it cannot be reached, or the file is something else.
    """
    with explained(storage), quietly():
        if is_url(storage):
            return RDBStorage(
                storage,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=_GRACE_SECONDS,
                heartbeat_stale_trial_callback=_retry(),
            )
        path = Path(storage)
        _refuse_other_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path), _JournalLock(path)))


def _refuse_other_file(path: Path) -> None:
    """The journal is cut where it is torn: what is no journal must not be touched."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        first = file.readline()
    if not first.startswith(b'{"op_code"'[: len(first)]):
        raise InputError(f"--storage {path}: is there and no journal of Optuna; name another file")


class _JournalLock(BaseJournalFileLock):
    """The lock of a journal, which the system lets go of when its holder is killed.

    What a killed writer has left of a line is cut off before anything is added: Optuna could read no line after it.
    """

    def __init__(self, journal: Path):
        self._journal = journal
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        self._file = self._journal.with_name(f"{self._journal.name}.lock").open("wb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def cut_torn_line(journal: Path) -> int:
    """Cuts a journal after its last whole line; returns how many bytes that took."""
    with journal.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        keep = end
        while keep:
            file.seek(keep - 1)
            if file.read(1) == b"\n":
                break
            keep -= 1
        if keep < end:
            file.truncate(keep)
            os.fsync(file.fileno())
    return end - keep


def open_study(
    storage: str,
    name: str,
    *,
    direction: Literal["minimize", "maximize"],
    settings: Mapping[str, Any],
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """The study of a name, made where there is none.

    Args:
        storage: as `open_storage` takes it.
        name: of the study.
        direction: minimize or maximize.
        settings: what its trials depend on; the same as when it was made.
        sampler, pruner: of the trials to come.

    Raises:
        InputError: the store has one of this name with another direction or other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shown = without_password(storage)
    with explained(storage):
        study = optuna.create_study(
            storage=open_storage(storage),
            study_name=name,
            direction=direction,
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )
        # Optuna says nothing when a study is opened with another direction
        if study.direction != StudyDirection[direction.upper()]:
            found: tuple[str, Any, Any] = ("direction", study.direction.name.lower(), direction)
        else:
            wanted = json.loads(json.dumps(settings))
            known = study.user_attrs.get(SETTINGS)
            if known is None and not study.get_trials(deepcopy=False):
                study.set_user_attr(IDENTITY, secrets.token_hex(8))
                study.set_user_attr(SETTINGS, wanted)
                return study
            if known is None:
                raise InputError(
                    f"storage {shown}: study {name!r} was made by another program; choose another --study"
                )
            differing = [key for key in {**known, **wanted} if known.get(key) != wanted.get(key)]
            if not differing:
                return study
            key = differing[0]
            found = (key, known.get(key), wanted.get(key))
    raise InputError(
        f"storage {shown}: study {name!r} was made with {found[0]} {found[1]}, and this command "
        f"has {found[2]}; choose another --study, or give what it was made with"
    )


# --- trials -------------------------------------------------------------------------------------------------------


class Counts(NamedTuple):
    """Trials of a study by state; a trial and its retries are one."""

    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int

    @property
    def all(self) -> int:
        """How many there are."""
        return sum(self)


def counts(study: optuna.Study) -> Counts:
    """Trials by state, of which each counts once."""
    trials = study.get_trials(deepcopy=False)
    replaced = retried(trials)
    states = [trial.state for trial in trials if trial.number not in replaced]
    of = {
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
        "running": TrialState.RUNNING,
        "waiting": TrialState.WAITING,
    }
    return Counts(**{name: states.count(state) for name, state in of.items()})


def retried(trials: list[FrozenTrial]) -> dict[int, int]:
    """The numbers of trials that were given up, to the number of the trial that does the same again."""
    return {
        number: trial.number
        for trial in trials
        for number in trial.system_attrs.get("retry_history", [])[-1:]
    }


def owner() -> str:
    """This process, as trials name it."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"


def give_up(study: optuna.Study, number: int, why: str) -> None:
    """Fails a trial whose worker or command has ended, and queues its retry, which keeps what it has reported."""
    trial = study.trials[number]
    study._storage.set_trial_user_attr(trial._trial_id, FAILURE, why)
    study.tell(number, state=TrialState.FAIL)
    _retry()(study, trial)


def give_up_stale(study: optuna.Study, alone: bool) -> list[int]:
    """Gives up the trials that no process is at any more; returns their numbers.

    Args:
        study: in a store.
        alone: no other command can be at this study: whatever runs is stale.
    """
    stale = [
        trial.number
        for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        if alone or _has_ended(trial.user_attrs.get(OWNER, ""))
    ]
    for number in stale:
        give_up(study, number, "the command that ran it was killed")
    with quietly():
        optuna.storages.fail_stale_trials(study)  # by heartbeat: those on other machines
    return stale


def _has_ended(process: str) -> bool:
    """Whether a process of this machine, as `owner` names it, is there no more."""
    host, _, rest = process.partition(" ")
    if host != socket.gethostname():
        return False
    number, _, started = rest.partition(" ")
    try:
        return f"{psutil.Process(int(number)).create_time():.2f}" != started
    except (psutil.NoSuchProcess, ValueError):
        return True


def _retry() -> RetryHeartbeatStaleTrialCallback:
    with quietly():
        return RetryHeartbeatStaleTrialCallback(max_retry=_MOST_RETRIES, inherit_intermediate_values=True)
