"""The dashboard on a store of 1,000 runs, one grid of which has 24 runs of 5,313 tracks, in a real browser.

    python benchmarks/dashboard.py

Prints how long it is until something is to be seen and until all is, and how long a click takes, in seconds, and as a
ratio against a page of Streamlit that shows one word. The browser is new for each page, so that it has to load and
compile all scripts; the server's first page, which imports TensorFlow's neighbours, is said apart. Limits: 2 s until
something is seen, 1 s for a click.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

LIMIT_PAINT, LIMIT_CLICK = 2.0, 1.0
REPEATS = 5
PAGES = {
    "Grids": "/?grid={grid}",
    "Tracks": "/?page=Tracks&x={x}&y={y}",
    "Signal": "/?page=Signal",
    "Search": "/?page=Search",
    "Models": "/?page=Models",
}
CLICKS = {
    "Grids": ["Effects", "Categories", "Curves", "Time", "How to repeat", "Leaderboard"],
    "Tracks": ["Distribution", "List", "Track by track"],
}


def main() -> int:
    from browser import Page, browser, dashboard

    with tempfile.TemporaryDirectory() as temporary, browser() as chromium:
        folder = Path(temporary)
        began = time.perf_counter()
        grid, x, y = _store(folder)
        print(f"the store was made in {time.perf_counter() - began:.0f} s")
        empty = folder / "empty.py"
        empty.write_text('import streamlit as st\nst.title("word")\n')
        with dashboard(folder, app=empty) as address:
            _open(chromium, address, "/")
            reference = statistics.median(_open(chromium, address, "/")[0] for _ in range(REPEATS))
        print(
            f"{'':32}first paint   all       (s; ratio of first paint to {reference:.2f} s of an empty page)"
        )
        worst_paint = worst_click = 0.0
        with dashboard(folder) as address:
            paint, all_of_it = _open(chromium, address, PAGES["Grids"].format(grid=grid))
            print(
                f"{'Grids, the first of a server':32}{paint:8.2f}{all_of_it:12.2f}{paint / reference:10.1f}"
            )
            for name, path in PAGES.items():
                path = path.format(grid=grid, x=x, y=y)
                found = [_open(chromium, address, path) for _ in range(REPEATS)]
                paint, all_of_it = (statistics.median(times) for times in zip(*found, strict=True))
                worst_paint = max(worst_paint, paint)
                print(f"{name:32}{paint:8.2f}{all_of_it:12.2f}{paint / reference:10.1f}")
            print(f"\n{'click':32}median   first (s)")
            for name, views in CLICKS.items():
                page = Page(chromium, address)
                page.open(PAGES[name].format(grid=grid, x=x, y=y))
                times: dict[str, list[float]] = {view: [] for view in views}
                for _ in range(REPEATS):
                    for view in views:
                        page.page.wait_for_timeout(300)
                        times[view].append(page.click(view, "radio"))
                page.close()
                for view, own in times.items():
                    worst_click = max(worst_click, statistics.median(own))
                    print(f"{f'{name}: {view}':32}{statistics.median(own):6.2f}{own[0]:8.2f}")
            page = Page(chromium, address)
            page.open(PAGES["Tracks"].format(x=x, y=y))
            own = [page.fill("Search", f"tissue {number}") for number in range(3, 3 + REPEATS)]
            worst_click = max(worst_click, statistics.median(own))
            print(f"{'Tracks: search':32}{statistics.median(own):6.2f}{own[0]:8.2f}")
            page.close()
    print(f"\nslowest first paint {worst_paint:.2f} s; limit {LIMIT_PAINT}")
    print(f"slowest click {worst_click:.2f} s; limit {LIMIT_CLICK}")
    return 0 if worst_paint < LIMIT_PAINT and worst_click < LIMIT_CLICK else 1


def _store(folder: Path) -> tuple[str, str, str]:
    """Makes it; the IDs of the large grid's run and of two of its trainings."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    here = Path.cwd()
    os.chdir(folder)  # artifacts lie where the store's process was
    try:
        from dashboard_store import make_store
        from mlproject.tracking.grids import find_grid

        grid = make_store()
        x, y = find_grid(grid).children["run_id"][:2]
    finally:
        os.chdir(here)
        del os.environ["MLFLOW_TRACKING_URI"]
    return grid, x, y


def _open(chromium, address: str, path: str) -> tuple[float, float]:
    """Seconds until the title is there, and until the script has run and its figures are drawn, in a new browser."""
    from browser import Page

    page = Page(chromium, address)
    found = page.open(path)
    page.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
