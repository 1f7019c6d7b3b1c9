"""A headless Chromium for tests, driven by Playwright, and the dashboard as a process of its own.

`.ci/run` installs the Debian package where it can; where no browser is found, tests that need one are skipped.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--no-sandbox",  # as root, which a container often is, it does not start otherwise
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
)
_SECONDS = 60


@contextlib.contextmanager
def browser() -> Iterator:
    """A Chromium of Playwright; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium: `apt-get install chromium` installs one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=[*_FLAGS])
        try:
            yield chromium
        finally:
            chromium.close()


@contextlib.contextmanager
def dashboard(folder: Path, app: Path = ROOT / "dashboards" / "app.py", **environment: str) -> Iterator[str]:
    """The dashboard on the store of a folder, started as its documentation says; gives its address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    inherited = {name: word for name, word in os.environ.items() if not name.startswith("MLFLOW_")}
    words = ["-m", "streamlit", "run", str(app), "--server.port", str(port)]
    if app.parent == folder:  # without settings of its own
        words += ["--server.address", "127.0.0.1", "--browser.gatherUsageStats", "false"]
    with open(folder / "dashboard.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env={**inherited, "PYTHONPATH": str(ROOT / "src"), **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(process, f"{address}/_stcore/health")
            yield address
        finally:
            process.terminate()
            process.wait(_SECONDS)


def _wait(process: subprocess.Popen, address: str) -> None:
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, "the dashboard has ended"
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"the dashboard does not answer within {_SECONDS} s")


# counts how often the script of a page has run to its end
_COUNT = """
window.scriptRuns = 0;
new MutationObserver(changes => {
    for (const {target, oldValue} of changes) {
        const state = target.getAttribute("data-test-script-state");
        if (state === "notRunning" && oldValue !== state) window.scriptRuns += 1;
    }
}).observe(document, {subtree: true, attributes: true, attributeOldValue: true,
                      attributeFilter: ["data-test-script-state"]});
"""
# all that was asked for is drawn
_DRAWN = """runs => {
    const app = document.querySelector('[data-testid="stApp"]');
    const figures = [...document.querySelectorAll('[data-testid="stPlotlyChart"]')];
    return window.scriptRuns > runs
        && app?.dataset.testScriptState === "notRunning"
        && !document.querySelector('[data-stale="true"], [data-testid="stSkeleton"]')
        && figures.every(figure => figure.querySelector(".main-svg"));
}"""


class Page:
    """A page of the dashboard, and what went wrong in it."""

    def __init__(self, chromium, address, width=1280, scheme="light"):
        self.address = address
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.context.add_init_script(_COUNT)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.wrong = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        self.page.on("request", self._asked)

    def _said(self, message):
        if message.type == "error":
            self.wrong.append(f"console: {message.text}")

    def _asked(self, request):
        if not request.url.startswith((self.address, self.address.replace("http", "ws"), "data:", "blob:")):
            self.wrong.append(f"asks elsewhere: {request.url}")

    def open(self, path="/"):
        """Goes there, and waits until all is drawn; gives the seconds until the title was there, and until then."""
        began = time.perf_counter()
        self.page.goto(self.address + path)
        self.page.wait_for_selector("h1")
        painted = time.perf_counter() - began
        self.settle(0)
        return painted, time.perf_counter() - began

    def settle(self, runs):
        """Waits until the script has run more often than that, and all is drawn."""
        self.page.wait_for_function(_DRAWN, arg=runs, polling=20)
        self.wrong += self.page.get_by_test_id("stException").all_text_contents()

    def act(self, do):
        """Does something that the script answers to, and waits for it; gives the seconds that it took."""
        runs = self.page.evaluate("window.scriptRuns")
        began = time.perf_counter()
        do()
        self.settle(runs)
        return time.perf_counter() - began

    def click(self, words, role="button"):
        """Clicks what has these words."""
        return self.act(self.page.get_by_role(role, name=words, exact=True).first.click)

    def choose(self, label, words, nth=0):
        """Chooses an option of a select box: the first, or another, that has these words."""
        self.page.get_by_label(label).first.click()
        self.act(self.page.get_by_role("option", name=words).nth(nth).click)
        self.page.keyboard.press("Escape")

    def fill(self, label, words):
        """Writes into a field."""
        self.page.get_by_label(label).first.fill(words)
        return self.act(lambda: self.page.keyboard.press("Enter"))

    def cells(self):
        """What stands in tables, of which a canvas has the words for screen readers."""
        cells = self.page.locator("canvas td")
        cells.first.wait_for(state="attached")
        return cells.all_text_contents()

    def text(self):
        """The words that are shown."""
        return self._main().inner_text()

    def expect(self, *words, figures=None, cell=None):
        """Waits for these words, that many figures, a cell of a table with that text: a script may run twice."""
        from playwright.sync_api import expect

        for one in words:
            expect(self._main()).to_contain_text(one, use_inner_text=True, timeout=10_000)
        if figures is not None:
            expect(self.page.locator(".js-plotly-plot")).to_have_count(figures, timeout=10_000)
        if cell is not None:
            expect(self.page.locator("canvas td", has_text=cell).first).to_be_attached(timeout=10_000)

    def _main(self):
        return self.page.get_by_test_id("stMain")

    def close(self):
        """Ends it; nothing must have gone wrong."""
        self.context.close()
        assert not self.wrong, self.wrong
