"""The documentation as a site: built without warnings, and opened page by page in a browser."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
WIDTHS = (1280, 390)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("mkdocs"), reason='needs pip install ".[docs]"'),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_nothing_is_loaded_from_the_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    loaded = r'<(?:script|img|link)[^>]*(?:src|href)="(https?://[^"]+)"'
    for page in pages:
        text = page.read_text()
        assert re.findall(loaded, text) == [], page
        assert "<blockquote>" not in text, f"{page}: a doctest is not in a fence"
        for source in re.findall(r'<img[^>]*src="([^"]+)"', text):
            target = site / source[1:] if source.startswith("/") else page.parent / source
            assert target.is_file(), (page, source)


@pytest.mark.parametrize(
    "name",
    [
        *("fit", "compile", "evaluate", "predict", "export", "save_to_preset", "from_preset"),
        *("freeze", "unfreeze", "enable_lora", "capabilities"),
        *("sample", "complete", "log_likelihood_map", "pixel_likelihood", "prior_distribution"),
        *("losses_per_image", "endpoints", "evaluation.evaluate", "training.build"),
        *("tune_allocator", "sample_quality", "METRICS", "DownloadError"),
    ],
)
def test_what_the_guides_call_is_in_the_api(site, name):
    pages = "".join(page.read_text() for page in (site / "api").rglob("index.html"))
    assert re.search(rf'id="tfgen(\.\w+)*\.{name}"', pages)


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser():
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromium-driver, as .ci/run installs")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_in_a_browser(site, address, browser, width):
    """Pictures load, nothing is logged as an error, and the page is not wider than the window.

    TFGEN_SCREENSHOTS names a folder to put a picture of each page in.
    """
    pictures = os.environ.get("TFGEN_SCREENSHOTS")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    for page in sorted(site.rglob("index.html")):
        name = page.parent.relative_to(site).as_posix()
        browser.get(f"{address}/{name}/")
        broken = "return [...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
        assert browser.execute_script(broken) == [], name
        wide = "return document.documentElement.scrollWidth - window.innerWidth"
        assert browser.execute_script(wide) <= 0, name
        errors = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
        assert errors == [], name
        if pictures:
            Path(pictures).mkdir(parents=True, exist_ok=True)
            file = Path(pictures) / f"{name.replace('/', '_') or 'start'}_{width}.png"
            browser.get_screenshot_as_file(str(file))
