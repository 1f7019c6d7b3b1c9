"""The dashboard in a real browser, on a store of real tiny runs: pages open, and clicks change what they should."""

import re

import pytest

from browser import Page

pytestmark = pytest.mark.slow

PAGES = {
    "Grids": "Leaderboard",
    "Tracks": "16 of 16 tracks",
    "Signal": "Download as PDF",
    "Search": "6 trials",
    "Models": "Where it comes from",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_and_is_as_wide_as_the_window(
    chromium, address, grid_runs, search_run, name, width, scheme
):
    page = Page(chromium, address, width, scheme)
    first, x, y, *_ = grid_runs
    page.open(f"/?page={name}&grid={first}&x={x}&y={y}&run={x}&model=heads&search={search_run}")
    page.expect(PAGES[name], figures=int(name != "Models"))
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_views_of_a_grid(page, grid_runs):
    page.open(f"/?grid={grid_runs[0]}")
    page.expect(re.compile(r"Of 2 variants over 2 seeds, \w+ has the highest mean Pearson r"))
    for view, words in {
        "Effects": "An effect is the mean of the runs with a modification",
        "Categories": "category (n: tracks)",
        "Curves": "validation/pearson",
        "Time": "seconds",
    }.items():
        page.click(view, "radio")
        page.expect(words, figures=1)
    page.click("How to repeat", "radio")
    page.expect(figures=0, cell="python -m mlproject ablation")


def test_chosen_seeds_are_what_is_told_of(page, grid_runs):
    page.open(f"/?grid={grid_runs[0]}")
    page.choose("Seeds", "1")
    page.expect("Of 2 variants over 1 seed,")
    assert "seeds=1" in page.page.url


def test_an_address_opens_what_was_chosen(page, chromium, address, grid_runs):
    page.open(f"/?grid={grid_runs[0]}")
    page.choose("Variants", "rope")
    page.click("Effects", "radio")
    page.expect("one variant alone has no effects")
    other = Page(chromium, address)
    other.open(page.page.url.removeprefix(address))
    other.expect("one variant alone has no effects")
    assert other.text() == page.text()
    other.close()


def test_tracks_are_found_by_all_words(page, tracks_page):
    page.open(tracks_page)
    page.fill("Search", "dnase cell B")
    page.expect("1 of 16 tracks")
    page.fill("Search", "nothing of that name")
    page.expect("No track has all these words")


def test_tracks_that_are_brushed_are_listed(page, tracks_page):
    page.open(tracks_page)
    box = page.page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    page.page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2, steps=8)
    page.page.mouse.up()
    page.page.wait_for_selector("text=16 tracks brushed")
    page.expect(cell="human_DNASE_A")


def test_a_distribution_and_a_list_of_tracks(page, tracks_page):
    page.open(tracks_page)
    page.click("Distribution", "radio")
    page.expect(figures=1)
    page.click("List", "radio")
    page.expect(figures=0, cell="human_DNASE_A")


def test_signal_of_another_region_and_as_a_file(page, grid_runs):
    page.open(f"/?page=Signal&run={grid_runs[1]}")
    before = page.page.url
    page.choose("Region (0-based, half-open)", re.compile(r"^chr\S+:\d"), nth=1)
    page.expect(figures=1)
    assert page.page.url != before
    with page.page.expect_download() as download:
        page.page.get_by_role("button", name="Download as PDF").click()
    with open(download.value.path(), "rb") as file:
        assert file.read(5) == b"%PDF-"


def test_views_of_a_search(page, search_run):
    page.open(f"/?page=Search&search={search_run}")
    page.expect("best so far")
    for view, words in {
        "Importance": "share of importance",
        "Parallel coordinates": "num_heads",
        "Slices": "num_heads",
    }.items():
        page.click(view, "radio")
        page.expect(words, figures=1)
    page.click("Trials", "radio")
    page.expect(cell="complete")


def test_where_a_model_comes_from(page):
    page.open("/?page=Models&model=heads")
    page.expect(cell=re.compile(r"^models:/m-"))
    cells = page.cells()
    assert "champion" in cells
    assert any(re.fullmatch(r"\w+, digest [0-9a-f]{16}", cell) for cell in cells)
    page.expect("now this page only reads")
    assert page.page.get_by_role("button", name="Promote").count() == 0


def test_what_is_not_there_is_said(page):
    page.open("/?grid=00000000000000000000000000000000")
    page.expect("names something that is not there")
