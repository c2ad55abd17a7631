"""Look at the site that was built, page by page, in a real browser: `nox -s site`."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

SITE = Path(__file__).parent / "_build" / "html"
PAGES = sorted(page.relative_to(SITE).as_posix() for page in SITE.rglob("*.html"))
RECIPES = [page for page in PAGES if page.startswith("recipes/") and page != "recipes/index.html"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 390, "height": 844}  # a phone, held upright
LIGHTNESS = """() => {
    const numbers = getComputedStyle(document.body).backgroundColor.match(/\\d+/g)
    return (Number(numbers[0]) + Number(numbers[1]) + Number(numbers[2])) / 3 / 255
}"""
BROKEN = "() => [...document.images].filter(each => !each.naturalWidth).map(each => each.src)"
# What scrolls sideways, but for code, tables and pictures, which may.
TOO_WIDE = """() => [...document.querySelectorAll('*')].filter(each =>
    each.scrollWidth > each.clientWidth + 1
    && (each.tagName == 'HTML' || /auto|scroll/.test(getComputedStyle(each).overflowX))
    && !each.closest('pre, .table-wrapper, figure.picture')
).map(each => `${each.tagName} ${each.className}`)"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and prints nothing."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address of the site."""
    if not PAGES:
        pytest.exit("there is no site to look at: build it with `nox -s docs`", returncode=1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """What drives the browser."""
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Chromium."""
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.exit(
            "Chromium was not found. Install it, such as by `apt-get install chromium`, or say "
            "where it is: CHROMIUM=/path/to/chromium nox -s site",
            returncode=1,
        )
    browser = playwright.chromium.launch(executable_path=chromium, args=list(OPTIONS))
    yield browser
    browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page, which is closed in the end."""
    page = browser.new_page(viewport=WIDE)
    yield page
    page.close()


@pytest.mark.parametrize("path", PAGES)
def test_page_loads_and_fits(page: Page, site: str, path: str) -> None:
    """No error in the console, no request that fails or leaves the site, nothing too wide."""
    errors: list[str] = []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(f"failed: {request.url}"))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    answer = page.goto(f"{site}/{path}", wait_until="load")

    assert answer is not None
    assert answer.ok
    assert not errors
    assert [url for url in asked if not url.startswith((site, "data:"))] == []
    assert page.evaluate(BROKEN) == []
    for size in (WIDE, NARROW):
        page.set_viewport_size(size)
        assert page.evaluate(TOO_WIDE) == []


@pytest.mark.parametrize("path", ["index.html", *RECIPES])
def test_example_has_a_picture(page: Page, site: str, path: str) -> None:
    """The picture is there, and large enough to be read."""
    page.goto(f"{site}/{path}")
    box = page.locator("figure.picture svg").bounding_box()
    assert box is not None
    assert min(box["width"], box["height"]) > 150


@pytest.mark.parametrize("path", ["index.html", *RECIPES[:1]])
def test_site_is_light_or_dark_as_the_system_is(page: Page, site: str, path: str) -> None:
    """Without a choice of the reader the page follows the system."""
    page.goto(f"{site}/{path}")
    page.emulate_media(color_scheme="light")
    assert page.evaluate(LIGHTNESS) > 0.9
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(LIGHTNESS) < 0.2


def test_search_finds(page: Page, site: str) -> None:
    """The key `/` leads to the search, which finds the rules about depthwise convolutions."""
    page.goto(f"{site}/index.html")
    page.keyboard.press("/")
    page.keyboard.type("depthwise")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=depthwise*")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li > a").all_inner_texts()
    assert "depthwise_conv_batchnorm" in found
    assert "grouped_depthwise" in found


def test_keyboard_leads_to_the_content(page: Page, site: str) -> None:
    """The first stop of the key Tab skips the navigation."""
    page.goto(f"{site}/recipes/index.html")
    page.keyboard.press("Tab")
    assert (
        page.evaluate("() => document.activeElement.getAttribute('href')") == "#furo-main-content"
    )
