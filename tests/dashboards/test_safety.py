"""The dashboard beside hostile words and from elsewhere: it shows text as text, and writes only with the token."""

import json
import socket
import urllib.error
import urllib.request
from urllib.parse import quote

import psutil
import pytest
from mlflow import MlflowClient

from browser import Page, dashboard
from made_up_grid import HOSTILE, SHORT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hostile_runs(store):
    """IDs of the grid with hostile words: of its run, then of its trainings."""
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("made-up").experiment_id
    found = client.search_runs([experiment])
    (parent,) = [run.info.run_id for run in found if run.info.run_name == HOSTILE]
    return [parent, *(r.info.run_id for r in found if r.data.tags.get("mlflow.parentRunId") == parent)]


@pytest.mark.parametrize("view", ["Leaderboard", "Effects", "Categories", "Curves", "Time", "How+to+repeat"])
def test_hostile_words_of_a_grid_are_words(page, hostile_runs, view):
    page.open(f"/?grid={hostile_runs[0]}&grids_view={view}")
    assert "<img src=x" in page.page.locator('[data-testid="stSelectbox"] input').first.input_value()
    harmless(page)


@pytest.mark.parametrize("view", ["Track+by+track", "Distribution", "List"])
def test_hostile_words_of_tracks_are_words(page, hostile_runs, view):
    page.open(f"/?page=Tracks&x={hostile_runs[1]}&y={hostile_runs[2]}&tracks_view={view}")
    page.page.mouse.move(600, 700)
    harmless(page)


def test_hostile_words_of_a_model_are_words(page):
    page.open(f"/?page=Models&model={quote(SHORT.replace('/', ''))}")
    page.page.get_by_text("Description", exact=True).click()
    page.page.get_by_text("<script>window.hacked=1</script>").wait_for()
    harmless(page)


@pytest.mark.parametrize(
    "words",
    ["../../../etc/passwd", "<script>window.hacked=1</script>", "%00", "1' OR '1'='1", "a" * 5000],
    ids=["path", "script", "nul", "sql", "long"],
)
@pytest.mark.parametrize("name", ["grid", "x", "run", "search", "model"])
def test_hostile_addresses_show_what_there_is(page, name, words):
    pages = {"grid": "Grids", "x": "Tracks", "run": "Signal", "search": "Search", "model": "Models"}
    page.open(f"/?page={pages[name]}&{name}={quote(words)}")
    page.expect("names something that is not there")
    harmless(page)


def harmless(page):
    assert page.page.evaluate("window.hacked") is None
    assert page.page.locator("[onerror], [onmouseover], img[src='x']").count() == 0
    assert "\u202e" not in page.text()


def test_it_listens_on_this_machine_alone(address):
    port = int(address.rpartition(":")[2])
    listening = [
        found.laddr.ip
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.laddr.port == port
    ]
    assert listening == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("header", "value"), [("Host", "elsewhere.example"), ("Origin", "http://elsewhere.example")]
)
def test_a_page_elsewhere_cannot_use_the_browser_to_read(address, header, value):
    request = urllib.request.Request(f"{address}/_stcore/stream")
    for name, words in {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        header: value,
    }.items():
        request.add_unredirected_header(name, words)
    with socket.socket() as plain:
        host, port = address.removeprefix("http://").split(":")
        plain.connect((host, int(port)))
        plain.sendall(
            (
                "GET /_stcore/stream HTTP/1.1\r\n"
                + "".join(
                    f"{name}: {words}\r\n"
                    for name, words in {"Host": f"{host}:{port}", **request.unredirected_hdrs}.items()
                )
                + "\r\n"
            ).encode()
        )
        assert b" 403 " in plain.recv(100)


def test_aliases_are_changed_with_the_token_alone(chromium, store):
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    with dashboard(store, DASHBOARD_WRITE_TOKEN="right") as address:
        page = Page(chromium, address)
        page.open("/?page=Models&model=heads")

        def ask(token, by="me"):
            page.page.get_by_role("textbox", name="Alias").fill("challenger")
            page.page.get_by_label("Your name, for the history").fill(by)
            page.page.get_by_role("textbox", name="Write token").fill(token)
            page.click("Promote")

        ask("wrong")
        page.page.wait_for_selector("text=This is not the write token")
        ask("right", by="")
        page.page.wait_for_selector("text=The history needs a name")
        assert "challenger" not in client.get_registered_model("heads").aliases
        ask("right")
        page.page.wait_for_selector("text=it led nowhere before")
        page.page.locator("canvas td", has_text="challenger, champion").wait_for(state="attached")
        page.close()
    assert int(client.get_registered_model("heads").aliases["challenger"]) == 1
    (event,) = json.loads(client.get_registered_model("heads").tags["alias_history"])
    assert (event["alias"], event["version"], event["before"], event["by"]) == ("challenger", 1, None, "me")
    client.delete_registered_model_alias("heads", "challenger")


def test_a_store_that_does_not_answer_is_one_line(chromium, tmp_path):
    environment = {
        "MLFLOW_TRACKING_URI": "http://somebody:secret@127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    with dashboard(tmp_path, **environment) as address:
        page = Page(chromium, address)
        page.open("/")
        page.expect("This cannot be shown:", "http://somebody:…@127.0.0.1:9")
        assert "secret" not in page.text()
        page.close()
