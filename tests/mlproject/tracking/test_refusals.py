"""Who is turned away by a tracking server reads one line; other errors are left as they are."""

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_DOES_NOT_EXIST, UNAUTHENTICATED

from mlproject import __main__ as door
from mlproject.errors import InputError
from mlproject.tracking import reading, store
from mlproject.tracking.refusals import refusal

SERVER = "https://tracking.example.org"


@pytest.fixture(autouse=True)
def server(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))  # no ~/.mlflow/credentials
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{SERVER}/")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")


def said(status, words, code):
    """As MLflow quotes an answer that is no JSON."""
    return MlflowException(
        f"API request to endpoint /api/2.0 failed with error code {status} != 200. Response body: '{words}'",
        error_code=code,
    )


UNKNOWN = said(401, "You are not authenticated.\nPlease see", UNAUTHENTICATED)
DENIED = said(403, "Permission denied", PERMISSION_DENIED)


def test_an_unknown_user_is_told_which_variables_to_look_at(monkeypatch):
    line = refusal(UNKNOWN)
    assert line.startswith(
        f"the tracking server {SERVER} does not let the user ada in; check MLFLOW_TRACKING_USER"
    )
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    assert "a user without a name" in refusal(UNKNOWN)


def test_who_may_not_is_told_what_to_do_or_what_the_server_said():
    assert refusal(DENIED) == (
        f"the tracking server {SERVER} refuses this to the user ada: "
        "no permission; ask who manages the experiment for it, or choose another with --experiment"
    )
    host = said(403, "Invalid Host header - possible DNS rebinding attack detected", PERMISSION_DENIED)
    assert refusal(host).endswith("user ada: Invalid Host header - possible DNS rebinding attack detected")


def test_the_way_to_artifacts_refuses_too():
    response = requests.Response()
    response.status_code = 403
    error = requests.HTTPError("403 Client Error. Response text: Permission denied", response=response)
    assert "refuses this to the user ada: no permission" in refusal(error)


def test_a_password_in_the_address_is_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:secret@tracking.example.org:8443")
    assert "https://tracking.example.org:8443 does" in refusal(UNKNOWN) and "secret" not in refusal(UNKNOWN)


def test_other_errors_are_none(monkeypatch):
    assert refusal(MlflowException("no run", error_code=RESOURCE_DOES_NOT_EXIST)) == ""
    assert refusal(ZeroDivisionError()) == ""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert refusal(DENIED) == ""  # a file has no users


def test_it_is_an_input_error_where_a_store_is_explained(monkeypatch):
    def refused(*_):
        raise DENIED

    monkeypatch.setattr(store, "open_store", refused)
    with pytest.raises(InputError, match=r"^the tracking server"), store.explained():
        refused()
    with pytest.raises(InputError, match=r"^the tracking server"), store.explained():
        reading.read_run("abc")  # not that there is no such run


def test_the_door_says_it_in_a_line_and_exits_with_2(monkeypatch, capsys):
    def refused(*_):
        raise UNKNOWN

    monkeypatch.setattr(door, "_run", refused)
    assert door.main(["report"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mlproject report: the tracking server {SERVER} does not let the user ada in")
