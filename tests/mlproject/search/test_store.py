"""Where studies are kept, with what is torn, killed and other people's."""

import multiprocessing
import subprocess
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState

from mlproject.errors import InputError
from mlproject.search import store
from searching import ask_until, begin_one, new_trial, tell_one, toy_space, toy_study

SPAWN = multiprocessing.get_context("spawn")

SPACE = toy_space()


def ask(study):
    with store.quietly():
        return study.ask()


def states(study):
    return [trial.state.name for trial in study.trials]


def refused(call, *words):
    """The one line of the InputError of a call, which has these words in it."""
    with pytest.raises(InputError) as caught:
        call()
    (line,) = str(caught.value).splitlines()
    assert [word for word in words if word not in line] == []
    return line


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path):
    return (
        str(tmp_path / "optuna.journal") if request.param == "journal" else f"sqlite:///{tmp_path}/optuna.db"
    )


# --- journals -----------------------------------------------------------------------------------------------------


def test_a_last_line_torn_anywhere_is_cut_and_the_study_goes_on(tmp_path):
    whole = tmp_path / "whole.journal"
    study = toy_study(str(whole))
    for value in (0.25, 0.5):
        new_trial(study, value)
    before = whole.read_bytes()
    ask(study)
    *_, last = whole.read_bytes().splitlines(keepends=True)
    assert whole.read_bytes() == before + last and len(last) > 40
    torn = tmp_path / "torn.journal"
    for length in range(len(last)):
        torn.write_bytes(before + last[:length])
        again = toy_study(str(torn))
        assert [trial.value for trial in again.trials] == [0.25, 0.5]
        new_trial(again, 0.75)
        assert torn.read_bytes().startswith(before + b'{"op_code"')
        assert [trial.value for trial in toy_study(str(torn)).trials] == [0.25, 0.5, 0.75]


def test_a_journal_torn_in_its_first_line_begins_anew(tmp_path):
    path = tmp_path / "optuna.journal"
    for start in (b"", b"{", b'{"op_code":0,"wor'):
        path.write_bytes(start)
        assert toy_study(str(path)).trials == []
        assert path.read_bytes().startswith(b'{"op_code":0,"worker_id"')


@pytest.mark.parametrize(
    "content", [b"results\n", b"\n", b"{}\n", b"\x00" * 50, b'{"op": 1', b"SQLite format 3\x00"]
)
def test_a_file_that_is_no_journal_is_refused_and_not_touched(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    refused(lambda: toy_study(str(path)), f"--storage {path}: is there and no journal of Optuna")
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_no_journal(tmp_path):
    refused(lambda: toy_study(str(tmp_path)), f"storage {tmp_path}: IsADirectoryError")


def test_a_journal_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    refused(
        lambda: toy_study(str(tmp_path / "file" / "optuna.journal")),
        f"storage {tmp_path}/file/optuna.journal: ",
    )


def test_garbage_in_the_middle_is_one_line(tmp_path):
    path = tmp_path / "optuna.journal"
    new_trial(toy_study(str(path)), 0.5)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"garbage\n"
    path.write_bytes(b"".join(lines))
    refused(lambda: toy_study(str(path)), f"storage {path}: JSONDecodeError: ")
    assert path.read_bytes() == b"".join(lines)


HOLD = """
import sys, time
from mlproject.search.store import _JournalLock
from pathlib import Path
lock = _JournalLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_lock_is_let_go_of_when_its_holder_is_killed(tmp_path):
    path = tmp_path / "optuna.journal"
    study = toy_study(str(path))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        writer = SPAWN.Process(target=tell_one, args=(str(path), 0.125))
        writer.start()
        writer.join(3)
        assert writer.is_alive() and not study.trials  # it waits
        holder.kill()
        writer.join(60)
        assert writer.exitcode == 0 and [trial.value for trial in study.trials] == [0.125]
    finally:
        holder.kill()
        holder.communicate()


# --- whose study it is --------------------------------------------------------------------------------------------


def test_a_study_is_opened_again_with_what_it_was_made_with(storage):
    first = toy_study(storage, seed=3, folds=["a", "b"], rate=1e-4)
    new_trial(first, 0.5)
    again = toy_study(storage, seed=3, folds=("a", "b"), rate=1e-4)
    assert [trial.value for trial in again.trials] == [0.5]
    identity = first.user_attrs[store.IDENTITY]
    assert again.user_attrs[store.IDENTITY] == identity
    assert toy_study(storage, name="other").user_attrs[store.IDENTITY] != identity


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"direction": "minimize"},
            "with direction maximize, and this command has minimize; choose another --study",
        ),
        ({"num_heads": "1,4"}, "with num_heads 1,2, and this command has 1,4; choose another --study"),
        ({"more": 1}, "with more None, and this command has 1"),
    ],
)
def test_another_direction_or_other_settings_are_refused(storage, change, says):
    toy_study(storage, num_heads="1,2")
    line = refused(lambda: toy_study(storage, **{"num_heads": "1,2", **change}))
    assert line.startswith(f"storage {storage}: study 'toy' was made {says}")
    assert states(toy_study(storage, num_heads="1,2")) == []


def test_a_study_of_another_program_is_refused(storage):
    theirs = optuna.create_study(study_name="toy", storage=store.open_storage(storage), direction="maximize")
    theirs.tell(ask(theirs), 0.5)
    refused(lambda: toy_study(storage), "study 'toy' was made by another program; choose another --study")
    optuna.create_study(study_name="two", storage=store.open_storage(storage), directions=["maximize"] * 2)
    refused(
        lambda: toy_study(storage, name="two"),
        "with direction maximize, maximize, and this command has maximize",
    )


def test_a_study_whose_maker_was_killed_at_once_is_taken_over(storage, monkeypatch):
    monkeypatch.setattr(store, "_MAKING_SECONDS", 0.3)
    optuna.create_study(study_name="toy", storage=store.open_storage(storage), direction="maximize")
    study = toy_study(storage, seed=3)
    assert study.user_attrs[store.SETTINGS] == {"seed": 3} and study.user_attrs[store.IDENTITY]


# --- trials -------------------------------------------------------------------------------------------------------


def test_a_trial_and_its_retries_count_once(storage):
    study = toy_study(storage)
    new_trial(study, 0.5)
    study.tell(new_trial(study), state=TrialState.PRUNED)
    study.tell(new_trial(study), state=TrialState.FAIL)
    number = new_trial(study).number
    new_trial(study)
    assert store.counts(study) == (1, 1, 1, 2, 0)
    assert store.give_up(study, number, "stopped")
    assert store.counts(study) == (1, 1, 1, 1, 1)
    assert new_trial(study).number == 5
    assert store.give_up(study, 5, "stopped")
    assert store.counts(study) == (1, 1, 1, 1, 1) and store.counts(study).all == 5
    assert store.retried(study.trials) == {3: 5, 5: 6}
    new_trial(study, 0.75)
    assert store.counts(study) == (2, 1, 1, 1, 0)
    assert [store.place(study.trials, trial) for trial in study.trials] == [0, 1, 2, 3, 4, 3, 3]
    assert new_trial(study).number == 7 and store.place(study.trials, study.trials[7]) == 5


def test_a_retry_keeps_what_its_trial_had(storage):
    study = toy_study(storage)
    study.enqueue_trial({"num_heads": 2}, user_attrs={store.ORIGIN: "published"})
    trial = new_trial(study)
    trial.set_user_attr(store.VALIDATION, [[0.5, 0.25]])
    trial.report(0.25, 1)
    store.give_up(study, 0, "its worker ended")
    given_up, waiting = study.trials
    assert given_up.state == TrialState.FAIL and given_up.user_attrs[store.FAILURE] == "its worker ended"
    assert waiting.state == TrialState.WAITING and waiting.params == given_up.params == trial.params
    assert waiting.user_attrs == {store.ORIGIN: "published", store.VALIDATION: [[0.5, 0.25]]}
    assert waiting.intermediate_values == {1: 0.25}
    again = ask(study)
    assert SPACE.suggest(again) == SPACE.of(trial.params) and again.number == 1


def test_a_trial_that_ends_its_workers_is_done_four_times(storage):
    study = toy_study(storage)
    again = []
    for number in range(4):
        assert new_trial(study).number == number
        again.append(store.give_up(study, number, f"lost {number}", lost=True))
    assert again == [True, True, True, False] and states(study) == ["FAIL"] * 4
    assert store.counts(study) == (0, 0, 1, 0, 0)


def test_a_trial_whose_commands_are_stopped_is_always_done_again(storage):
    study = toy_study(storage)
    for number in range(6):
        assert new_trial(study).number == number
        assert store.give_up(study, number, "the command was stopped")
    new_trial(study, 0.5)
    assert store.counts(study) == (1, 0, 0, 0, 0)


def test_being_killed_between_retry_and_failure_does_nothing_twice(storage, monkeypatch):
    study = toy_study(storage)
    trial = new_trial(study)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study, "tell", killed)
        store.give_up(study, trial.number, "killed")
    assert states(study) == ["RUNNING", "WAITING"] and store.counts(study).all == 1
    store.give_up(study, trial.number, "killed")
    assert states(study) == ["FAIL", "WAITING"] and store.counts(study).all == 1


def test_a_trial_that_is_finished_while_it_is_given_up_is_done_once(storage, monkeypatch):
    """Its command was silent for too long, and wakes at the worst moment."""
    study, theirs = toy_study(storage), toy_study(storage)
    trial, pruned = new_trial(study), new_trial(study)
    add = theirs.add_trial

    def finished(retry):
        add(retry)
        number = retry.system_attrs["failed_trial"]
        study.tell(number, 0.5) if number == 0 else study.tell(number, state=TrialState.PRUNED)

    monkeypatch.setattr(theirs, "add_trial", finished)
    assert not store.give_up(theirs, trial.number, "silent") and not store.give_up(theirs, 1, "silent")
    assert states(study) == ["COMPLETE", "PRUNED", "FAIL", "FAIL"] and study.trials[0].value == 0.5
    assert store.counts(study) == (1, 1, 0, 0, 0) and store.retried(study.trials) == {}
    assert not store.give_up(study, pruned.number, "silent")  # nothing to do
    assert len(study.trials) == 4 and store.FAILURE not in study.trials[1].user_attrs


def test_a_retry_of_a_trial_that_was_finished_after_all_is_no_trial(storage, monkeypatch):
    """Whoever gave it up was killed before it had."""
    study = toy_study(storage)
    new_trial(study)
    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(study, "tell", lambda *_, **__: {}["killed"])
        store.give_up(study, 0, "silent")
    study.tell(0, 0.5)
    assert states(study) == ["COMPLETE", "WAITING"] and store.counts(study) == (1, 0, 0, 0, 0)
    store.drop_surplus(study)
    assert states(study) == ["COMPLETE", "FAIL"] and store.counts(study) == (1, 0, 0, 0, 0)


@pytest.mark.slow
def test_trials_whose_process_ended_are_done_again_and_others_are_not(storage):
    toy_study(storage, name="killed"), toy_study(storage, name="alive")
    processes = [
        SPAWN.Process(target=begin_one, args=(storage, name, name == "killed"))
        for name in ("killed", "alive")
    ]
    for process in processes:
        process.start()
    try:
        processes[0].join(60)
        killed, alive = (toy_study(storage, name=name) for name in ("killed", "alive"))
        deadline = time.monotonic() + 60
        while (
            not any(t.user_attrs and len(t.params) == 3 for t in alive.trials) and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        assert store.give_up_stale(alive, alone=False) == [] and states(alive) == ["RUNNING"]
        assert store.give_up_stale(killed, alone=False) == [0] and states(killed) == ["FAIL", "WAITING"]
        assert killed.trials[0].user_attrs[store.FAILURE] == "the command that ran it was killed"
        assert store.give_up_stale(killed, alone=False) == []
        assert store.give_up_stale(alive, alone=True) == [0]  # who is alone knows
    finally:
        processes[1].kill()
        processes[1].join()


def test_whose_trial_it_is(storage, monkeypatch):
    study = toy_study(storage)
    ask(study)  # killed before it said whose it is
    mine = store.owner()
    host, _, rest = mine.partition(" ")
    trial = ask(study)
    trial.set_user_attr(store.OWNER, f"{host}-2 {rest}")  # of another machine: nobody here knows
    ask(study).set_user_attr(store.OWNER, mine)
    ask(study).set_user_attr(
        store.OWNER, mine[:-1] + str((int(mine[-1]) + 1) % 10)
    )  # another process of this number
    with monkeypatch.context() as patch:  # of another container, whose name is the same
        patch.setattr("os.readlink", lambda path: "pid:[1]")
        ask(study).set_user_attr(store.OWNER, f"{store._machine()} 1 0.00")
        ask(study).set_user_attr(store.OWNER, store.owner())
    assert store.give_up_stale(study, alone=False) == [0, 3]


def test_a_trial_of_another_machine_is_given_up_when_its_heart_has_stopped(tmp_path):
    storage = f"sqlite:///{tmp_path}/optuna.db"
    study = toy_study(storage)
    for _ in range(2):
        trial = ask(study)
        trial.set_user_attr(store.OWNER, "elsewhere 1 1.00")
        study._storage.record_heartbeat(trial._trial_id)
    assert store.give_up_stale(study, alone=False) == []
    with study._storage._backend.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-100 seconds') WHERE trial_id = 2"
        )
    assert store.give_up_stale(study, alone=False) == [1] and states(study) == ["RUNNING", "FAIL", "WAITING"]


@pytest.mark.slow
def test_commands_at_one_database_ask_for_exactly_as_many_trials_as_there_are_to_be(tmp_path):
    storage = f"sqlite:///{tmp_path}/optuna.db"
    toy_study(storage)
    processes = [SPAWN.Process(target=ask_until, args=(storage, 12)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    study = toy_study(storage)
    assert states(study) == ["RUNNING"] * 12 and all(store.OWNER in t.user_attrs for t in study.trials)


# --- addresses ----------------------------------------------------------------------------------------------------


def test_where_a_study_is_kept(tmp_path, monkeypatch):
    monkeypatch.delenv(store.VARIABLE, raising=False)
    assert store.address("", tmp_path) == f"{tmp_path}/search_head/optuna.journal"
    monkeypatch.setenv(store.VARIABLE, "postgresql://me:secret@host/db")
    assert store.address("", tmp_path) == "postgresql://me:secret@host/db"
    assert store.address("sqlite:///x.db", tmp_path) == "sqlite:///x.db"
    assert store.is_url("sqlite:///x.db") and not store.is_url("C:/x.journal")


SECRETS = {
    "postgresql://me:secret@host:5432/db": "postgresql://me:***@host:5432/db",
    "mysql+pymysql://me:se/cr@et@host/db": "mysql+pymysql://me:***@host/db",
    "postgresql://host/db?user=me&password=secret&x=1": "postgresql://host/db?user=me&password=***&x=1",
    "postgresql://me@host/db?sslpassword=secret": "postgresql://me@host/db?sslpassword=***",
    "postgresql://:secret@host/db": "postgresql://:***@host/db",
    "postgresql://me@domain:secret@host/db": "postgresql://me@domain:***@host/db",
    "postgresql://me:my secret@host/db": "postgresql://me:***@host/db",
    "mysql+pymysql://me@host/db?passwd=sec ret&x=1": "mysql+pymysql://me@host/db?passwd=***&x=1",
}


@pytest.mark.parametrize("storage", SECRETS)
def test_a_password_is_refused_where_it_would_be_kept_and_never_shown(storage, tmp_path):
    assert store.without_password(storage) == SECRETS[storage]
    line = refused(lambda: store.address(storage, tmp_path), store.VARIABLE, ".pgpass")
    assert line.startswith(f"--storage {SECRETS[storage]}: the password would be kept with the run")


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql://me@host:5432/db",
        "sqlite:///a@b.db",
        "postgresql://[::1",
        "postgresql://me@[::1]:5432/db",
    ],
)
def test_addresses_without_a_password_are_as_they_are(storage, tmp_path):
    assert store.without_password(storage) == storage == store.address(storage, tmp_path)


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql+psycopg://me:secret@127.0.0.1:1/x",
        "nosuch://me:secret@host/db",
        "redis://me:secret@host/0",
        "mysql://me:secret@host/db",
        "postgresql+psycopg://me:secret@[::1/db",
        "sqlite:////nowhere/optuna.db",
    ],
)
def test_a_database_that_cannot_be_reached_is_one_line_without_its_password(storage):
    line = refused(lambda: toy_study(storage))
    assert line.startswith(f"storage {store.without_password(storage)}: ") and "secret" not in line


def test_mistakes_of_ours_are_not_said_to_be_the_stores(tmp_path):
    with pytest.raises(KeyError), store.explained("x"):
        {}["missing"]
    with pytest.raises(OSError), store.explained("x"):
        (tmp_path / "nowhere").read_text()
