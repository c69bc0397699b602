"""docs/latent-map.md: a decoder in the browser, without a server and without the network."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import runs
from test_serving_page import BROWSERS_OWN
from test_site import ROOT, address, browser, site  # noqa: F401, fixtures

import tfgen

pytestmark = pytest.mark.slow
SCRIPT = ROOT / "docs" / "browser.py"


@pytest.fixture(scope="module")
def files():
    return runs.script_of(SCRIPT)


@pytest.fixture(scope="module")
def vendored(files):
    """What the page needs; before the site is built."""
    if not files.complete(files.FOLDER):
        done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
        if done.returncode and "npm" in done.stderr.splitlines()[-1]:
            pytest.skip(done.stderr.splitlines()[-1])
        assert done.returncode == 0, done.stderr
    return files.FOLDER


@pytest.fixture(scope="module")
def page(vendored, site, address, browser):  # noqa: F811
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 1000, "height": 1400, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get(f"{address}/latent-map/")
    status = "return document.getElementById('latent-map-status').textContent"
    WebDriverWait(browser, 120).until(lambda driver: "decoded in" in driver.execute_script(status))
    return browser


def shown(page) -> np.ndarray:
    """The grey levels of the large digit on the page."""
    levels = page.execute_script(
        "const c = document.getElementById('latent-map-image');"
        "return [...c.getContext('2d').getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 < 1)"
    )
    return np.array(levels).reshape(28, 28, 1)


def point(page) -> list[float]:
    return page.execute_script("return window.latentMap.point()")


def wait_for_image(page) -> None:
    page.execute_async_script(
        "const done = arguments[0];"
        "window.latentMap.moveTo(...window.latentMap.point()).then(() => done())"
    )


def test_dragging_and_keys_show_what_python_decodes(page):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    decoder = tfgen.load("vae_2d_mnist")
    plane = page.find_element(By.ID, "latent-map-plane")
    drag = ActionChains(page).move_to_element(plane).click_and_hold()
    drag.move_by_offset(90, -120).release().perform()
    wait_for_image(page)
    x, y = point(page)
    assert 0.8 < x < 1.1
    assert 1.1 < y < 1.5
    python = decoder.decode(np.array([[x, y]], np.float32))[0]
    assert np.abs(shown(page) - python.astype(int)).max() <= 1
    plane.send_keys(Keys.ARROW_LEFT)
    wait_for_image(page)
    assert point(page)[0] == pytest.approx(x - 0.1)
    plane.send_keys(Keys.ARROW_UP * 60)
    wait_for_image(page)
    assert point(page)[1] == 3, "the plane ends there"
    assert plane.get_attribute("role") == "application"  # a screen reader leaves it the arrow keys
    before = point(page)
    assert page.execute_script(BROWSERS_OWN, "latent-map-plane") is False
    assert point(page) == before


def test_a_batch_gives_the_bytes_of_python(page):
    latents = np.random.default_rng(0).uniform(-3, 3, (25, 2)).round(3)
    levels = page.execute_async_script(
        "window.latentMap.decode(arguments[0]).then(levels => arguments[1]([...levels]))",
        latents.tolist(),
    )
    python = tfgen.load("vae_2d_mnist").decode(latents.astype(np.float32))
    difference = np.abs(np.array(levels).reshape(python.shape) - python.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_nothing_comes_from_the_network(page, address):  # noqa: F811
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert any(name.endswith(".wasm") for name in loaded)
    assert all(name.startswith((address, "blob:", "data:")) for name in loaded), loaded


# Without a network


def test_a_site_without_the_files_says_what_to_run(files, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    markdown = (ROOT / "docs" / files.PAGE).read_text()
    page = SimpleNamespace(file=SimpleNamespace(src_uri=files.PAGE))
    text = files.on_page_markdown(markdown, page, None, None)
    assert "python docs/browser.py" in text
    assert "<script" not in text
    assert files.on_files([], None) == []


def test_another_package_is_refused(files, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "SHA256", "0" * 64)
    monkeypatch.setattr(files.shutil, "which", lambda name: name)

    def packs(command, **_):
        (Path(command[command.index("--pack-destination") + 1]) / "some.tgz").write_bytes(b"other")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(files.subprocess, "run", packs)
    with pytest.raises(SystemExit, match=r"has SHA-256 [0-9a-f]{64}; expected 0000"):
        files.fetch(tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_registry_is_told_in_one_line(files, monkeypatch, tmp_path):
    failed = subprocess.CompletedProcess([], 1, "", "npm error network unreachable")
    monkeypatch.setattr(files.shutil, "which", lambda name: name)
    monkeypatch.setattr(files.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit, match=r"npm could not fetch onnxruntime-web.*unreachable"):
        files.fetch(tmp_path)
    assert not list(tmp_path.iterdir())
