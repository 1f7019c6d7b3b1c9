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
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import optuna
import psutil
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, TrialState

from mlproject.errors import InputError, one_line
from mlproject.resuming import fingerprint

VARIABLE = "OPTUNA_STORAGE"  # what Optuna's own command line reads
HEARTBEAT_SECONDS = 20
_GRACE_SECONDS = 90  # without a heartbeat, after which a trial on another machine is given up
_TABLES_SECONDS = (0.5, 1.0, 2.0)  # between tries to open a database that another command is making
_MOST_RETRIES = 3  # a trial that ends its worker each time is given up after so many
_MAKING_SECONDS = 5.0  # for another command to say what the study that it has just made is of

_KEPT = (TrialState.COMPLETE, TrialState.PRUNED)  # finished by whoever ran it

SETTINGS = "settings"  # user attribute of a study: what may not change while it goes on
IDENTITY = "identity"  # user attribute of a study: no other study has the same, one of its name in a new store neither
OWNER = "owner"  # user attribute of a trial: machine, process and the process's start
VALIDATION = "validation"  # user attribute of a trial: [loss, pearson] of each step it has reported
LOST = "workers lost"  # user attribute of a trial: how many workers ended in the middle of it, in earlier tries too
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
    hidden = re.sub(r"(://[^/:\s?]*):[^?]*@", r"\1:***@", storage)  # as widely as SQLAlchemy reads it
    return re.sub(r"([?&]\w*(pass|pwd)\w*=)[^&]+", r"\1***", hidden, flags=re.IGNORECASE)


def address(storage: str, work_dir: Path) -> str:
    """Where a study is kept: as the option says, or OPTUNA_STORAGE, or in a journal in work_dir.

    Raises:
        InputError: the option has a password, which would be kept among the run's parameters.
    """
    if is_url(storage) and without_password(storage) != storage:
        raise InputError(
            f"--storage {without_password(storage)}: the password would be kept with the run (`mlflow run -P` has "
            f"done so: delete that run); give the address in the variable {VARIABLE} and leave --storage out, or "
            "the password in a file of the database's own (.pgpass)"
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
        if not _of_a_store(error):
            raise
        first: BaseException = error
        while before := _came_of(first):  # what Optuna makes of it says less
            first = before
        reason = without_password(one_line(first))
        raise InputError(
            f"storage {without_password(storage)}: {reason}; what it holds is kept: the same command goes on from there"
        ) from error


def _came_of(error: BaseException) -> BaseException | None:
    """What an error was made of; a connection that is lost while an answer is read is lost a second time."""
    lost_again = isinstance(error, sqlalchemy.exc.PendingRollbackError)
    return error.__cause__ or (error.__context__ if lost_again else None)


_STORES = ("optuna.storages", "sqlalchemy")


def _of_a_store(error: BaseException) -> bool:
    """Whether it comes from where studies are kept, and not from the work on a trial."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(frame.f_globals.get("__name__", "").startswith(_STORES) for frame in frames):
        return True
    return isinstance(error, OSError) and any(frame.f_code is open_storage.__code__ for frame in frames)


def open_storage(storage: str) -> BaseStorage:
    """Optuna's store at a URL of SQLAlchemy, or in a journal file, which is made where there is none.

    Raises:
        InputError: it cannot be reached, or the file is something else.
    """
    with explained(storage), quietly():
        if is_url(storage):
            return _open_database(storage)
        path = Path(storage)
        _refuse_other_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path), _JournalLock(path)))


def _open_database(storage: str) -> RDBStorage:
    for seconds in _TABLES_SECONDS:
        try:
            return _database(storage)
        # another command is making the tables
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            time.sleep(seconds)
    return _database(storage)


def _database(storage: str) -> RDBStorage:
    try:
        return RDBStorage(
            storage,
            # connections do not outlive a server, nor every firewall
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=_GRACE_SECONDS,
        )
    except RuntimeError as error:
        raise InputError(
            f"storage {without_password(storage)}: has tables of another program, or of another version of "
            "Optuna (MLflow's store and Optuna's cannot share a database); give Optuna a database of its own"
        ) from error


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
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of what `explained` says in a line
    shown = without_password(storage)
    with explained(storage):
        kept_in, wanted = open_storage(storage), json.loads(json.dumps(settings))
        try:
            study = optuna.create_study(
                storage=kept_in, study_name=name, direction=direction, sampler=sampler, pruner=pruner
            )
            _describe(study, wanted)
            return study
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(storage=kept_in, study_name=name, sampler=sampler, pruner=pruner)
        # Optuna says nothing when a study is opened with another direction
        directions = [found.name.lower() for found in study.directions]
        if directions != [direction]:
            found: tuple[str, Any, Any] = ("direction", ", ".join(directions), direction)
        else:
            known = _settings(study, _MAKING_SECONDS if is_url(storage) else 0.0)
            if known is None and not study.get_trials(deepcopy=False):
                _describe(study, wanted)  # its maker was killed
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


def _describe(study: optuna.Study, settings: Mapping[str, Any]) -> None:
    study.set_user_attr(IDENTITY, secrets.token_hex(8))
    study.set_user_attr(SETTINGS, settings)


def _settings(study: optuna.Study, patience: float) -> dict[str, Any] | None:
    """What a study says that it is of; waits so many seconds for a command that has just made it."""
    until = time.monotonic() + patience
    while (known := study.user_attrs.get(SETTINGS)) is None:
        if time.monotonic() >= until or study.get_trials(deepcopy=False):
            return None
        time.sleep(0.1)
    return known


@contextlib.contextmanager
def exclusively(study: optuna.Study) -> Iterator[None]:
    """Keeps other commands from asking this study for trials while the block runs, on other machines too.

    A database lets go of the lock however this process ends. At a journal there is one command only.
    """
    backend = getattr(study._storage, "_backend", None)
    if not isinstance(backend, RDBStorage):
        yield
        return
    engine = backend.engine
    if engine.dialect.name == "sqlite":  # it has no lock of rows, and all its commands are on one machine
        path = engine.url.database
        with Path(f"{path}.lock").open("wb") if path else contextlib.nullcontext() as file:
            if file is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    of_study: sqlalchemy.ColumnClause[int] = sqlalchemy.column("study_id")
    key: sqlalchemy.ColumnClause[str] = sqlalchemy.column("key")
    attributes = sqlalchemy.table("study_user_attributes", of_study, key)
    row = sqlalchemy.select(key).select_from(attributes)
    row = row.where(of_study == study._study_id, key == IDENTITY).with_for_update()
    with engine.begin() as connection:
        connection.execute(row)
        yield


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

    @property
    def ended(self) -> int:
        """How many are over."""
        return self.complete + self.pruned + self.failed


def counts(study: optuna.Study) -> Counts:
    """Trials by state, of which each counts once."""
    trials = study.get_trials(deepcopy=False)
    others = {*retried(trials), *_surplus(trials)}
    states = [trial.state for trial in trials if trial.number not in others]
    of = {
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
        "running": TrialState.RUNNING,
        "waiting": TrialState.WAITING,
    }
    return Counts(**{name: states.count(state) for name, state in of.items()})


def retried(trials: list[FrozenTrial]) -> dict[int, int]:
    """The numbers of trials that were given up, to the number of the trial that does the same again.

    Args:
        trials: all of a study.
    """
    return {
        number: trial.number
        for trial in trials
        for number in trial.system_attrs.get("retry_history", [])[-1:]
        if trials[number].state not in _KEPT
    }


def _surplus(trials: list[FrozenTrial]) -> list[int]:
    """The numbers of retries whose trial was finished after all, by a command that was silent for too long."""
    return [
        trial.number
        for trial in trials
        if any(trials[number].state in _KEPT for number in trial.system_attrs.get("retry_history", []))
    ]


def drop_surplus(study: optuna.Study) -> None:
    """Fails the queued retries of trials that are finished: they would do them twice. To be done `exclusively`."""
    trials = study.get_trials(deepcopy=False)
    for number in _surplus(trials):
        if trials[number].state == TrialState.WAITING:
            identity = trials[number]._trial_id
            study._storage.set_trial_user_attr(identity, FAILURE, "its first try was finished after all")
            study._storage.set_trial_state_values(identity, state=TrialState.FAIL)


def owner() -> str:
    """This process, as trials name it."""
    return f"{_machine()} {os.getpid()} {psutil.Process().create_time():.2f}"


def _machine() -> str:
    """Where a number means one process: containers may have a name in common and other processes, or other clocks."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def place(trials: list[FrozenTrial], trial: FrozenTrial) -> int:
    """The number that a trial would have if none of these, all of its study, had been done again."""
    first = trial.system_attrs.get("failed_trial", trial.number)
    return sum("retry_history" not in other.system_attrs for other in trials[:first])


def others_at_work(study: optuna.Study) -> bool:
    """Whether other commands, as far as the study knows, are at trials of it."""
    running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    own = owner()
    return any(trial.user_attrs.get(OWNER) != own for trial in running)


def give_up(study: optuna.Study, number: int, why: str, lost: bool = False) -> bool:
    """Fails a trial that nobody is at any more, and queues its retry, which keeps what it has reported.

    To be done `exclusively`. One that is finished, which its own command may do at any time, stays as it is.

    Args:
        study: of the trial.
        number: of the trial.
        why: in a line.
        lost: its worker ended; a trial that does this again and again is not done once more.

    Returns:
        Whether it is done again.
    """
    trials = study.get_trials(deepcopy=False)
    trial = trials[number]
    if trial.state.is_finished():
        return number in retried(trials)
    losses = trial.user_attrs.get(LOST, 0) + lost
    again = losses <= _MOST_RETRIES
    # The retry first: were this process killed in between, the trial would be lost, or be done twice.
    if again and number not in retried(trials):
        kept = {name: value for name, value in trial.user_attrs.items() if name not in (OWNER, FAILURE)}
        history = [*trial.system_attrs.get("retry_history", []), number]
        retry = optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**kept, LOST: losses} if losses else kept,
            system_attrs={"failed_trial": number, **trial.system_attrs, "retry_history": history},
            intermediate_values=trial.intermediate_values,
        )
        study.add_trial(retry)
    try:
        study._storage.set_trial_user_attr(trial._trial_id, FAILURE, why)
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    except optuna.exceptions.UpdateFinishedTrialError:
        pass
    drop_surplus(study)
    return number in retried(study.get_trials(deepcopy=False))


def give_up_stale(study: optuna.Study, alone: bool) -> list[int]:
    """Gives up the trials that no process is at any more; returns their numbers.

    Args:
        study: in a store.
        alone: no other command can be at this study: whatever runs is stale.
    """
    with exclusively(study):
        storage, silent = study._storage, []
        if isinstance(storage, BaseHeartbeat):
            silent = storage._get_stale_trial_ids(study._study_id)
        stale = [
            trial.number
            for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
            if alone or trial._trial_id in silent or _has_ended(trial.user_attrs.get(OWNER))
        ]
        for number in stale:
            give_up(study, number, "the command that ran it was killed")
    return stale


def _has_ended(process: str | None) -> bool:
    """Whether a process of this machine, as `owner` names it, is there no more.

    One that began a trial and was killed before it gave its name has ended too: both are done `exclusively`.
    """
    if process is None:
        return True
    machine, _, rest = process.partition(" ")
    if machine != _machine():
        return False
    number, _, started = rest.partition(" ")
    try:
        return f"{psutil.Process(int(number)).create_time():.2f}" != started
    except (psutil.NoSuchProcess, ValueError):
        return True
