"""The page of `tfgen serve` in a real browser, on models of the zoo."""

import base64
import contextlib
import functools
import io
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from serving_support import running

from tfgen import zoo
from tfgen_command.process import Settings

NAMES = ("vae_2d_mnist", "gan_mnist", "cgan_mnist", "pixelcnn_binarized_mnist", "gan_emoji")
# One of each other kind: no samples, classes with seeds and images, a critic, pixels with classes,
# an ensemble, pixels in colour.
KINDS = (
    *("ae_mnist", "cvae_mnist", "wgan_gp_mnist", "cpixelcnn_mnist", "pixelcnn_mnist"),
    "pixelcnn_cifar10_jpeg",
)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver, as .ci/run installs"
    ),
]


# Whether an element takes Alt and the left arrow, with which a browser goes back.
BROWSERS_OWN = """
const event = new KeyboardEvent("keydown", { key: "ArrowLeft", altKey: true, cancelable: true });
document.getElementById(arguments[0]).dispatchEvent(event);
return event.defaultPrevented;
"""

# Predictions wait in `held`, in the order in which they were asked for.
HOLD = """
const plain = window.fetch;
window.held = [];
window.fetch = (path, options) => (options ? new Promise((resolve, reject) => {
  const { signature_name: signature, inputs } = JSON.parse(options.body);
  const go = () => {
    const answer = plain(path, options);
    resolve(answer);
    return answer;
  };
  held.push({ path, signature, inputs, go, fail: () => reject(new Error("late")) });
  options.signal.addEventListener("abort", () => reject(options.signal.reason));
}) : plain(path));
"""

# Those of one endpoint go on, the newest first; each is shown, if it is, before the next one.
RELEASE = """
const [signature, done] = arguments;
const [chosen, others] = [true, false].map((its) => (
  held.filter((one) => (one.signature === signature) === its)));
window.held = others;
(async () => {
  for (const { go } of chosen.reverse()) {
    await go().catch(() => {}); // what was cut off
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  done();
})();
"""

PASTE = """
const paste = (content) => {
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([content], "pasted.png", { type: "image/png" }));
  document.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
};
"""


def write_completer(path):
    """A stand-in for a pixel model: what is hidden gets one grey value, chosen by the seed."""
    images = tf.TensorSpec((None, 28, 28, 1), tf.uint8, "images")
    mask = tf.TensorSpec((None, 28, 28, 1), tf.bool, "mask")
    seed = tf.TensorSpec((None,), tf.int64, "seed")

    class Completer(tf.Module):
        @tf.function(input_signature=[images, mask, seed])
        def complete(self, images, mask, seed):
            grey = tf.cast(tf.reshape(seed % 7 * 30 + 60, (-1, 1, 1, 1)), tf.uint8)
            return {"images": tf.where(mask, images, tf.zeros_like(images) + grey)}

    module = Completer()
    tf.saved_model.save(module, str(path), {"complete": module.complete})


@pytest.fixture(scope="module")
def models():
    return {name: zoo.load(name) for name in (*NAMES, *KINDS)}


@pytest.fixture(scope="module")
def served(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for name, model in models.items():
        model.export(folder / name)
    write_completer(folder / "completer" / "1")
    with running(folder, timeout=120.0) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1100,1400")
    logged = {"browser": "ALL", "performance": "ALL"}
    options.set_capability("goog:loggingPrefs", logged)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


class Page:
    """The page with one model chosen."""

    def __init__(self, browser, server, name: str):
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser, self.wait = browser, WebDriverWait(browser, 60)
        browser.get("about:blank")  # else only the hash would change
        browser.get(f"http://127.0.0.1:{server.port}/#{name}")
        chosen = "return document.body.dataset.model"
        self.until(lambda: self.run(chosen) == name if name else self.run(chosen))

    def run(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    def until(self, condition) -> None:
        self.wait.until(lambda _: condition())

    def hold(self) -> None:
        """Lets predictions wait from now on."""
        self.run(HOLD)

    def release(self, signature: str) -> None:
        self.browser.execute_async_script(RELEASE, signature)

    def pick(self, name: str) -> None:
        self.run(
            "const box = document.getElementById('model'); box.value = arguments[0];"
            "box.dispatchEvent(new Event('change'))",
            name,
        )

    def choose(self, name: str) -> None:
        self.pick(name)
        self.until(lambda: self.run("return document.body.dataset.model") == name)

    def demos(self) -> set[str]:
        shown = "return [...document.querySelectorAll('main section[id]:not([hidden])')]"
        return set(self.run(f"{shown}.map((section) => section.id)"))

    def grey(self, selector: str) -> np.ndarray | None:
        """The red channel of a canvas, uint8 (height, width); None while it is empty."""
        values = self.run(
            """
            const canvas = document.querySelector(arguments[0]);
            if (!canvas || canvas.width === 300) return null;
            const {width, height} = canvas;
            const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
            return [height, width, [...data].filter((_, i) => i % 4 === 0)];
            """,
            selector,
        )
        return values and np.array(values[2], np.uint8).reshape(values[0], values[1])

    def shows(self, selector: str, image: np.ndarray) -> None:
        """Waits until a canvas shows an image, to one grey level."""

        def same():
            found = self.grey(selector)
            if found is None or found.shape != image.shape[:2]:
                return False
            return np.abs(found.astype(int) - image[..., 0].astype(int)).max() <= 1

        self.until(same)

    def set(self, field: str, value) -> None:
        self.run(
            "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
            "field.dispatchEvent(new Event('input'))",
            field,
            str(value),
        )

    def drag(self, field: str, *points: tuple[float, float]) -> None:
        """Presses at the first place, each in [0, 1] x [0, 1] of an element, and moves on."""
        from selenium.webdriver.common.action_chains import ActionChains

        element = self.browser.find_element("id", field)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        width, height = element.size["width"], element.size["height"]
        chain = ActionChains(self.browser, duration=20)
        for index, (x, y) in enumerate(points):
            place = round((x - 0.5) * width), round((y - 0.5) * height)
            chain.move_to_element_with_offset(element, *place)
            if not index:
                chain.click_and_hold()
        chain.release().perform()

    def press(self, section: str, text: str) -> None:
        buttons = self.browser.find_elements("css selector", f"#{section} button")
        next(button for button in buttons if button.text == text).click()

    def problem(self) -> str:
        return self.run(
            "const box = document.getElementById('problem');"
            "return box.hidden ? '' : box.textContent"
        )


@pytest.fixture
def page(browser, served):
    yield lambda name: Page(browser, served, name)
    complaints = browser.get_log("browser")
    assert not [entry for entry in complaints if entry["level"] == "SEVERE"]
    for entry in browser.get_log("performance"):  # nothing comes from elsewhere
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            own = f"http://127.0.0.1:{served.port}/"
            assert url.startswith((own, "data:", "about:", "chrome")), url


def test_each_model_shows_the_demos_that_it_can(page):
    expected = {
        "vae_2d_mnist": {"draw", "map", "morph", "reconstruct", "judge"},
        "gan_mnist": {"draw", "morph", "judge"},
        "pixelcnn_binarized_mnist": {"draw", "judge", "complete"},
        "completer": {"complete"},
    }
    for name, demos in expected.items():
        shown = page(name)
        assert shown.demos() == demos
        options = shown.run("return [...document.getElementById('model').options].map(o => o.text)")
        assert options == sorted(["completer", *NAMES, *KINDS])


def test_models_are_chosen_in_the_list(page):
    """Even while the demos of the one before still wait for answers."""
    shown = page("vae_2d_mnist")
    for _ in range(5):
        shown.choose("gan_mnist")
        shown.choose("vae_2d_mnist")
    shown.choose("gan_mnist")
    assert shown.demos() == {"draw", "morph", "judge"}
    shown.until(lambda: shown.run("return document.getElementById('share').value") != "")
    assert shown.problem() == ""


def test_nothing_of_the_model_before_stays(page):
    """Its pictures go with it, and the new one is asked without waiting for its answers."""
    shown = page("gan_mnist")
    count = "return document.querySelectorAll('#samples img').length"
    shown.until(lambda: shown.run(count) == 24 and told(shown, "share") and told(shown, "own"))
    assert shown.grey("#between").any()
    shown.hold()
    shown.set("first", 24)
    assert shown.run("return held.some((one) => one.signature === 'sample_png')")
    shown.choose("vae_2d_mnist")
    assert shown.run(count) == 0
    assert shown.run("return document.getElementById('download').disabled") is True
    assert not shown.grey("#between").any()
    assert told(shown, "share") == ""
    asked = "return held.filter((one) => one.signature === 'sample_png').map((one) => one.path)"
    shown.until(lambda: "vae_2d_mnist" in shown.run(asked)[-1])  # no answer was let through
    shown.release("sample_png")
    shown.until(lambda: shown.run(count) == 24)
    assert shown.run("return document.getElementById('download').disabled") is False
    assert shown.problem() == ""


def test_a_model_that_cannot_be_chosen(page):
    """The one before stays, in the list too."""
    shown = page("gan_mnist")
    shown.run(
        """
        const plain = window.fetch;
        window.fetch = (path, options) => (path.endsWith("/metadata")
          ? Promise.reject(new Error("no answer")) : plain(path, options));
        """
    )
    shown.pick("vae_2d_mnist")
    shown.until(lambda: shown.problem() == "no answer")
    assert shown.run("return document.getElementById('model').value") == "gan_mnist"
    assert shown.run("return document.body.dataset.model") == "gan_mnist"


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_model(page, models, name):
    shown, can = page(name), models[name].capabilities
    demos = shown.demos()
    assert ("draw" in demos) == ("sample" in can)
    assert ("complete" in demos) == ("complete" in can)
    assert ("reconstruct" in demos) == ("reconstruct" in can)
    assert ("judge" in demos) == bool(can & {"log_likelihood", "score"})
    if "judge" in demos:
        shown.until(lambda: told(shown, "own") or shown.problem())
    if "complete" in demos:
        shown.press("complete", "Complete 8 ways")
        count = "return document.querySelectorAll('#completions canvas').length"
        shown.until(lambda: shown.run(count) == 8 or shown.problem())
    assert shown.problem() == ""


def test_the_mean_of_a_version_goes_with_it(page):
    """A model that is chosen again may have a new version."""
    shown = page("gan_mnist")
    shown.until(lambda: told(shown, "own"))
    shown.run("own.mean = 12345")
    shown.choose("vae_2d_mnist")
    shown.choose("gan_mnist")
    shown.until(lambda: told(shown, "own"))
    assert "12345" not in told(shown, "own")


@contextlib.contextmanager
def opened_with(browser, source: str):
    """The page, opened anew after a script of its own."""
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    try:
        browser.refresh()
        yield
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_models_that_cannot_be_listed(page, browser):
    shown = page("gan_mnist")
    with opened_with(browser, "window.fetch = () => Promise.reject(new Error('gone'))"):
        shown.until(lambda: "gone" in shown.problem())
        assert told(shown, "about") == ""


def test_no_model_is_loaded(page, browser):
    shown = page("gan_mnist")
    source = 'window.fetch = async () => new Response(\'{"models": [], "max_batch_size": 1}\')'
    with opened_with(browser, source):
        shown.until(lambda: told(shown, "about").startswith("No model is loaded; the server's log"))
        assert "tfgen export NAME --out DIR" in told(shown, "about")


def test_large_requests_are_sent_in_parts(page):
    """Of as many rows as the server takes."""
    shown = page("vae_2d_mnist")
    assert shown.run("return mostRows") == Settings.max_batch_size
    shown.until(lambda: shown.grey("#atlas") is not None)
    at_once = shown.grey("#atlas").astype(int)
    shown.browser.execute_async_script(
        """
        const done = arguments[0], plain = window.fetch;
        window.sent = [];
        window.fetch = (path, options) => {
          const { latents } = JSON.parse(options.body).inputs;
          if (latents && latents.length > 2) sent.push(latents.length);
          return plain(path, options);
        };
        mostRows = 100;
        drawMap().then(() => done());
        """
    )
    assert shown.run("return sent") == [100, 69]
    np.testing.assert_allclose(shown.grey("#atlas"), at_once, atol=1)
    assert shown.problem() == ""


def test_a_card_that_is_hidden_asks_for_nothing(page):
    """Its work may have been called again while the model before still answered."""
    shown = page("gan_mnist")
    works = "[drawMap, decodePoint, rebuild, complete]"
    shown.run(f"Promise.all({works}.map((work) => work())).then(() => window.rested = 1)")
    shown.until(lambda: shown.run("return window.rested"))
    assert shown.problem() == ""


def test_drawing(page, models):
    shown = page("gan_mnist")
    sources = "return [...document.querySelectorAll('#samples img')].map((image) => image.src)"
    shown.until(lambda: len(shown.run(sources)) == 24)
    first = shown.run(sources)
    assert len(set(first)) == 24
    assert all(re.match(r"data:image/png;base64,iVBOR", source) for source in first)
    shown.press("draw", "Next 24")
    shown.until(lambda: not set(shown.run(sources)) & set(first))
    assert shown.run("return document.getElementById('first').value") == "24"
    shown.set("first", 0)
    shown.until(lambda: shown.run(sources) == first)


def test_the_latent_map_answers_a_drag(page, models):
    model = models["vae_2d_mnist"]
    shown = page("vae_2d_mnist")
    shown.until(lambda: shown.grey("#atlas") is not None)
    shown.shows("#decoded", model.decode([[0.0, 0.0]])[0])
    assert shown.grey("#atlas").shape == (13 * 28, 13 * 28)
    centre = shown.grey("#atlas")[6 * 28 : 7 * 28, 6 * 28 : 7 * 28]
    np.testing.assert_allclose(centre.astype(int), shown.grey("#decoded"), atol=1)
    seen = []
    for goal in ((0.2, 0.9), (0.9, 0.1)):
        shown.drag("plane", (0.5, 0.5), (0.4, 0.6), goal)
        shown.until(lambda g=goal: np.allclose(shown.run("return [ring.x, ring.y]"), g, atol=0.01))
        latents = shown.run("return latentsAt(ring.x, ring.y)")
        assert np.sign(latents).tolist() == [np.sign(goal[0] - 0.5), np.sign(0.5 - goal[1])]
        shown.shows("#decoded", model.decode([latents])[0])
        seen.append(shown.grey("#decoded"))
    assert (seen[0] != seen[1]).any()


def test_a_browser_that_refuses_a_new_address(page, models):
    """Safari and Firefox do where it changes too often; the map goes on."""
    shown = page("vae_2d_mnist")
    shown.run(
        """
        window.asked = 0;
        history.replaceState = () => {
          asked += 1;
          throw new DOMException("too often", "SecurityError");
        };
        for (let i = 0; i <= 100; i++) moveRing(i / 100, 0.25);
        """
    )
    latents = shown.run("return latentsAt(ring.x, ring.y)")
    np.testing.assert_allclose(latents, [2.6, 1.3])
    shown.shows("#decoded", models["vae_2d_mnist"].decode([latents])[0])
    shown.until(lambda: shown.run("return asked"))
    assert shown.run("return asked") <= 2


def test_sliding_between_two_seeds(page, models):
    for name in ("gan_mnist", "vae_2d_mnist"):
        model, shown = models[name], page(name)
        shown.set("seedA", 21)
        shown.set("seedB", 34)
        shown.shows("#ends-a", model.sample(1, seed=21)[0])
        shown.shows("#ends-b", model.sample(1, seed=34)[0])
        if name == "gan_mnist":
            ends = model.latents(2, seed=[21, 34])
        else:
            ends = model.encode(model.sample(2, seed=[21, 34]))
        for share in (0.0, 0.3, 1.0):
            shown.set("slide", share)
            latents = (1 - share) * ends[:1] + share * ends[1:]
            shown.shows("#between", model.decode(latents)[0])
        assert shown.problem() == ""


def test_classes_of_a_conditional_model(page, models):
    shown = page("cgan_mnist")
    buttons = "return [...document.querySelectorAll('#class button')].map((b) => b.textContent)"
    assert shown.run(buttons) == [str(label) for label in range(10)]
    shown.run("document.querySelectorAll('#class button')[7].click()")
    pressed = "return document.querySelector('#class [aria-pressed=true]').textContent"
    assert shown.run(pressed) == "7"
    shown.shows("#ends-a", models["cgan_mnist"].sample(1, seed=1, labels=7)[0])
    assert page("gan_mnist").run("return document.getElementById('class').hidden") is True


def test_it_opens_on_the_best_model(page):
    """The one whose samples were closest to real images, of those measured with 10,000 images."""
    found = {name: zoo.info(name)["results"] for name in NAMES}
    enough = {n: r for n, r in found.items() if any("10000 images against" in key for key in r)}
    label = "Frechet distance, samples / real images"
    measured = {name: results[label]["value"] for name, results in enough.items()}
    assert len(measured) < sum(label in results for results in found.values())
    assert len(measured) > 1
    shown = page("")
    assert shown.run("return document.body.dataset.model") == min(measured, key=measured.get)


def test_the_address_holds_the_state(page, browser, served):
    shown = page("cgan_mnist")
    shown.set("first", 48)
    shown.set("labels", 4)
    shown.until(lambda: browser.current_url.endswith("#cgan_mnist&first=48&labels=4"))
    address = browser.current_url
    browser.get("about:blank")
    browser.get(address)
    shown.until(lambda: shown.run("return document.body.dataset.model") == "cgan_mnist")
    assert shown.run("return [first.value, labels.value]") == ["48", "4"]


def test_the_address_holds_the_place_on_the_map(page, browser):
    shown = page("vae_2d_mnist")
    shown.drag("plane", (0.5, 0.5), (0.2, 0.9))
    place = shown.run("return [ring.x, ring.y]")
    x, y = shown.run("return [mapX.value, mapY.value]")
    shown.until(lambda: browser.current_url.endswith(f"#vae_2d_mnist&mapX={x}&mapY={y}"))
    address = browser.current_url
    browser.get("about:blank")
    browser.get(address)
    shown.until(lambda: shown.run("return document.body.dataset.model") == "vae_2d_mnist")
    np.testing.assert_allclose(shown.run("return [ring.x, ring.y]"), place, atol=1e-3)


def test_an_address_typed_into_the_open_page(page):
    shown, chosen = page("gan_mnist"), "return document.body.dataset.model"
    shown.run("location.hash = '#cgan_mnist&first=48&labels=3'")
    shown.until(lambda: shown.run(chosen) == "cgan_mnist")
    assert shown.run("return [first.value, labels.value]") == ["48", "3"]
    shown.run("location.hash = '#cgan_mnist&labels=5'")
    pressed = "return document.querySelector('#class [aria-pressed=true]')?.textContent"
    shown.until(lambda: shown.run(pressed) == "5")
    assert shown.run("return first.value") == "0"
    assert shown.problem() == ""


def test_a_damaged_address(page, browser, served):
    """Opens the page all the same, on the model that is there; a place stays on the map."""
    shown, chosen = page("vae_2d_mnist"), "return document.body.dataset.model"
    shown.run("location.hash = '#vae_2d_mnist&mapX=9&mapY=-1'")
    shown.until(lambda: shown.run("return [ring.x, ring.y]") == [1, 0])
    assert shown.run("return [mapX.value, mapY.value]") == ["1", "0"]
    shown.run("location.hash = '#vae%'")
    shown.until(lambda: browser.current_url.endswith("#vae_2d_mnist"))
    assert shown.problem() == ""
    browser.get("about:blank")
    browser.get(f"http://127.0.0.1:{served.port}/#vae%")
    shown.until(lambda: shown.run(chosen))
    assert shown.problem() == ""


@pytest.mark.parametrize("name", ["pixelcnn_binarized_mnist", "vae_2d_mnist", "gan_mnist"])
def test_what_the_model_thinks_of_an_image(page, models, name):
    """The number is the method's; that of the model's own images stands next to it."""
    model, shown = models[name], page(name)
    if name == "gan_mnist":
        judge = model.score
    else:
        judge = functools.partial(model.log_likelihood, seed=10**9)  # not that of the samples
    image = model.sample(1, seed=1)
    shown.shows("#judge-pad canvas", image[0])
    shown.until(lambda: np.isclose(number(shown, "value"), judge(image)[0], atol=0.2))
    shown.until(lambda: told(shown, "own"))
    mean = judge(model.sample(8, seed=0)).mean()
    assert np.isclose(number(shown, "own"), mean, atol=1.0)
    shown.press("judge", "clear")
    black = judge(np.zeros_like(image))[0]
    shown.until(lambda: np.isclose(number(shown, "value"), black, atol=0.2))
    sign = {"gan_mnist": "taken for", "vae_2d_mnist": "≥"}.get(name, "=")
    assert sign in told(shown, "value")
    if name == "gan_mnist":
        logit = "return [logit(0.4, null), logit(0.4), logit(0.4, 0.5)]"
        critic, above, below = (text.split(": ")[1] for text in shown.run(logit))
        assert [critic, above] == ["the higher, the more real", "taken for a real image"]
        assert below == "taken for a drawn one"


def test_the_map_of_surprise(page, models):
    """Brightest where the model expected the pixel least."""
    model, shown = models["pixelcnn_binarized_mnist"], page("pixelcnn_binarized_mnist")
    image = model.sample(1, seed=1)
    bits = -model.log_likelihood_map(image)[0, ..., 0] / np.log(2)
    scale = f"0 to {bits.max():.1f} bits"
    shown.until(lambda: told(shown, "surprise-scale").startswith(scale))
    drawn = shown.grey("#surprise")
    assert drawn.shape == (28, 28)
    assert drawn[np.unravel_index(bits.argmax(), bits.shape)] == drawn.max() >= 250
    assert drawn[bits < 0.01].max() < 20


def told(shown, field):
    return shown.run("return document.getElementById(arguments[0]).value", field)


def number(shown, field):
    found = re.search(r"-?\d+\.?\d*", told(shown, field))
    return float(found[0]) if found else np.nan


LOAD = "return rebuildPad.load(file)"


def with_drawn(shown, use, width, height, *rectangles):
    """Runs `use` with `file`, a transparent PNG on which rectangles of colours are drawn."""
    drawn = "".join(
        f"context.fillStyle = '{colour}'; context.fillRect({x}, {y}, {w}, {h});"
        for colour, x, y, w, h in rectangles
    )
    shown.browser.execute_async_script(
        "const done = arguments[0], canvas = document.createElement('canvas');"
        f"canvas.width = {width}; canvas.height = {height};"
        f"const context = canvas.getContext('2d'); {drawn}"
        f"const use = async (file) => {{ {use} }};"
        "canvas.toBlob((file) => use(file).then(done));"
    )


def test_an_image_of_ones_own(page):
    """A file of another size and in colour is fitted into the model's size."""
    shown = page("vae_2d_mnist")
    shown.until(lambda: shown.run("return rebuildPad.image.flat(2).some((value) => value > 0)"))
    with_drawn(shown, LOAD, 60, 30, ("#000", 0, 0, 60, 30), ("#fff", 20, 0, 20, 30))
    grey = shown.grey("#reconstruct-pad canvas")
    assert (grey[9:19, 11:17] == 255).all()  # the bright third in the middle
    assert not grey[:6].any()  # black above and below
    assert not grey[:, :8].any()
    shown.press("reconstruct", "invert")
    inverted = shown.grey("#reconstruct-pad canvas")
    np.testing.assert_array_equal(inverted[7:21], 255 - grey[7:21])
    assert not inverted[:7].any()  # the margins stay
    assert not inverted[21:].any()
    shown.press("reconstruct", "clear")
    shown.press("reconstruct", "invert")
    assert (shown.grey("#reconstruct-pad canvas") == 255).all()


def test_what_is_transparent_is_white(page):
    """As in files that the commands read; a photo's edges fall between no two pixels."""
    shown = page("vae_2d_mnist")
    shown.until(lambda: shown.run("return rebuildPad.image.flat(2).some((value) => value > 0)"))
    with_drawn(shown, LOAD, 40, 30, ("#000", 0, 0, 10, 30))
    grey = shown.grey("#reconstruct-pad canvas")
    assert (grey[3:24, 8:] == 255).all()
    assert not grey[3:24, :6].any()
    assert not grey[:3].any()
    assert not grey[24:].any()


def test_a_class_is_part_of_what_is_judged(page):
    shown = page("cpixelcnn_mnist")
    shown.until(lambda: told(shown, "value").startswith("log p(x | class) = "))
    shown.choose("cgan_mnist")
    text = "return document.getElementById('judge-text').textContent"
    shown.until(lambda: "of the class chosen above" in shown.run(text))
    shown.choose("gan_mnist")
    shown.until(lambda: "class" not in shown.run(text))


def test_a_problem_is_seen_and_moves_nothing(page):
    shown = page("vae_2d_mnist")
    shown.until(lambda: told(shown, "own"))
    shown.run("window.scrollTo(0, document.body.scrollHeight)")
    place = "return document.getElementById('judge-pad').getBoundingClientRect().top"
    before = shown.run(place)
    shown.run(f"{PASTE} paste('no image')")
    shown.until(shown.problem)
    box = "const box = document.getElementById('problem').getBoundingClientRect();"
    assert shown.run(f"{box} return box.top >= 0 && box.bottom <= window.innerHeight")
    assert shown.run(place) == before


def test_a_pasted_image(page):
    """Goes to every pad that is shown."""
    shown = page("vae_2d_mnist")
    paste_black(shown)
    for pad in ("reconstruct", "judge"):
        shown.shows(f"#{pad}-pad canvas", np.zeros((28, 28, 1), np.uint8))


def paste_black(shown):
    with_drawn(shown, f"{PASTE} paste(file)", 28, 28, ("#000", 0, 0, 28, 28))


def test_a_problem_of_a_pad_goes_away(page):
    """With the next image that can be read, or with the model."""
    shown = page("vae_2d_mnist")
    shown.until(lambda: told(shown, "own"))
    shown.run(f"{PASTE} paste('no image')")
    shown.until(shown.problem)
    paste_black(shown)
    shown.until(lambda: not shown.problem())
    shown.hold()
    shown.press("judge", "sample")
    shown.choose("gan_mnist")
    shown.run("held.find((one) => one.signature === 'sample').fail()")
    assert shown.problem() == ""


def test_the_page_asks_next_to_itself(page, browser):
    """So that it works behind a proxy with a prefix."""
    shown = page("vae_2d_mnist")
    source = (
        "const plain = fetch; window.asked = [];"
        "window.fetch = (path, options) => { asked.push(path); return plain(path, options); };"
    )
    with opened_with(browser, source):
        shown.until(lambda: told(shown, "own"))
        asked = shown.run("return asked")
    assert asked
    assert not [path for path in asked if path.startswith("/")]


def test_what_is_hidden_is_seen_while_the_example_is_drawn(page):
    shown = page("vae_2d_mnist")
    shown.hold()
    shown.choose("pixelcnn_binarized_mnist")
    below = "return completePad.cover.getContext('2d').getImageData(0, 27, 1, 1).data[3]"
    assert shown.run(below) == 255


def test_ink_on_paper_is_inverted(page):
    shown = page("vae_2d_mnist")
    shown.until(lambda: shown.run("return rebuildPad.image.flat(2).some((value) => value > 0)"))
    before = shown.grey("#reconstruct-pad canvas")
    shown.press("reconstruct", "invert")
    np.testing.assert_array_equal(shown.grey("#reconstruct-pad canvas"), 255 - before)


def test_a_model_of_colour_paints_in_colour_on_white(page):
    shown = page("gan_emoji")
    shown.press("judge", "clear")
    assert (shown.grey("#judge-pad canvas") == 255).all()
    shown.run("judgePad.colour.value = '#207f00'")
    shown.drag("judge-pad", (0.5, 0.5), (0.52, 0.5))
    assert shown.run("return judgePad.image[32][32]") == [0x20, 0x7F, 0]
    assert shown.run("return judgePad.image[2][2]") == [255, 255, 255]
    hidden = "return judgePad.buttons.filter((b) => b.hidden).map((b) => b.textContent)"
    assert shown.run(hidden) == ["invert"]
    assert page("gan_mnist").run("return judgePad.colour.hidden") is True


def test_saving_a_png(page, models):
    """One sheet with each sample once, named after the model and the first number."""
    shown = page("gan_mnist")
    count = "return document.querySelectorAll('#samples img').length"
    shown.until(lambda: shown.run(count) == 24)
    shown.hold()
    shown.press("draw", "Next 24")  # which do not come
    name, sheet = shown.run(
        """
        let saved;
        HTMLAnchorElement.prototype.click = function () { saved = [this.download, this.href]; };
        document.getElementById("download").click();
        return saved;
        """
    )
    assert name == "gan_mnist-0.png"
    with Image.open(io.BytesIO(base64.b64decode(sheet.split(",")[1]))) as picture:
        assert picture.size == (8 * 28, 3 * 28)
        tiles = np.asarray(picture.convert("L"), int).reshape(3, 28, 8, 28).swapaxes(1, 2)
    drawn = models["gan_mnist"].sample(24, seed=0)[..., 0]
    assert np.abs(tiles.reshape(24, 28, 28) - drawn).max() <= 1


def test_nothing_overflows_a_phone(page):
    for name in ("cgan_mnist", "vae_2d_mnist", "pixelcnn_binarized_mnist"):
        shown = page(name)
        size = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
        count = "return document.querySelectorAll('#samples > *').length"
        shown.until(lambda: shown.run(count) == 24)  # noqa: B023
        shown.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            assert shown.run("return document.documentElement.scrollWidth") <= 390
            tops = "return [...document.querySelectorAll('#draw .row > *')].map((e) => e.offsetTop)"
            assert np.ptp(shown.run(tops)) < 20, "a button wraps under its partner"
            high = "return [...document.querySelectorAll('button')].map((b) => b.offsetHeight)"
            assert max(shown.run(high)) < 45, "a button's text wraps"
        finally:
            shown.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_painting_and_reconstructing(page, models):
    shown, model = page("vae_2d_mnist"), models["vae_2d_mnist"]
    example = model.sample(1, seed=1)
    shown.shows("#reconstruct-pad canvas", example[0])  # it opens with something to look at
    shown.shows("#rebuilt", model.reconstruct(example)[0])
    shown.press("reconstruct", "clear")
    shown.shows("#rebuilt", model.reconstruct(np.zeros((1, 28, 28, 1), np.uint8))[0])
    shown.drag("reconstruct-pad", (0.5, 0.2), (0.5, 0.5), (0.5, 0.8))
    painted = shown.grey("#reconstruct-pad canvas")
    assert (painted[7:22, 14] == 255).all()  # a line, whatever few places the pointer told
    assert painted[14, 2] == 0
    shown.shows("#rebuilt", model.reconstruct(painted[None, ..., None])[0])
    shown.press("reconstruct", "erase")
    shown.drag("reconstruct-pad", (0.5, 0.5), (0.52, 0.5))
    assert shown.grey("#reconstruct-pad canvas")[14, 14] == 0
    shown.press("reconstruct", "clear")
    assert not shown.grey("#reconstruct-pad canvas").any()


def test_an_answer_that_is_no_longer_wanted(page, models):
    """A sample replaces neither what was painted nor what was asked for after it."""
    shown, canvas = page("vae_2d_mnist"), "#reconstruct-pad canvas"
    shown.until(lambda: told(shown, "own"))
    shown.press("reconstruct", "clear")
    shown.hold()
    shown.press("reconstruct", "sample")
    shown.drag("reconstruct-pad", (0.5, 0.2), (0.5, 0.8))
    painted = shown.grey(canvas)
    assert painted.any()
    shown.release("sample")
    np.testing.assert_array_equal(shown.grey(canvas), painted)
    shown.press("reconstruct", "sample")
    shown.press("reconstruct", "sample")
    asked = "return held.filter((one) => one.signature === 'sample').map((one) => one.inputs.seed)"
    _, (seed,) = shown.run(asked)
    shown.release("sample")
    shown.shows(canvas, models["vae_2d_mnist"].sample(1, seed=seed)[0])


def test_only_the_first_button_of_a_mouse_paints(page):
    from selenium.webdriver.common.action_chains import ActionChains

    shown = page("vae_2d_mnist")
    shown.until(lambda: shown.run("return rebuildPad.image.flat(2).some((value) => value > 0)"))
    shown.press("reconstruct", "clear")
    shown.run("addEventListener('contextmenu', (event) => event.preventDefault())")
    pad = shown.browser.find_element("id", "reconstruct-pad")
    ActionChains(shown.browser).context_click(pad).perform()
    assert not shown.grey("#reconstruct-pad canvas").any()
    ActionChains(shown.browser).click(pad).perform()
    assert shown.grey("#reconstruct-pad canvas").any()


def test_what_a_screen_reader_is_told(page, models):
    shown = page("vae_2d_mnist")
    pressed = "return [...document.querySelectorAll('.tools [aria-pressed]')]"
    assert set(shown.run(f"{pressed}.map((b) => b.textContent)")) == {"paint", "erase", "hide"}
    down = "return [...document.querySelectorAll('#reconstruct-tools [aria-pressed=true]')]"
    for tool in ("paint", "erase"):
        shown.press("reconstruct", tool)
        assert shown.run(f"{down}.map((b) => b.textContent)") == [tool]
    shown.shows("#decoded", models["vae_2d_mnist"].decode(np.zeros((1, 2), np.float32))[0])
    nameless = (
        "return [...document.querySelectorAll('main canvas')].filter((c) => c.offsetParent"
        " && !c.closest('.map') && !c.matches('.pad canvas + canvas')"
        " && !(c.role === 'img' && c.ariaLabel)).map((c) => c.id)"
    )
    shown.until(lambda: shown.run(nameless) == [])
    labels = "return [...document.querySelectorAll('main canvas')].filter((c) => c.offsetParent"
    names = shown.run(f"{labels} && c.role === 'img').map((c) => [c.id, c.ariaLabel])")
    assert not [name for name, label in names if name and name == label]
    assert {"Reconstruction", "From", "To"} <= {label for _, label in names}
    assert (
        shown.run("return document.getElementById('plane').getAttribute('role')") == "application"
    )
    assert shown.run(BROWSERS_OWN, "plane") is False


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_problem_can_be_read(page, browser, scheme):
    """With the contrast that WCAG asks for, 4.5."""

    def luminance(colour: str) -> float:
        levels = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    shown = page("gan_mnist")
    wanted = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
    colours = shown.run(
        "const style = getComputedStyle(document.getElementById('problem'));"
        "return [style.color, style.backgroundColor]"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    dark, light = sorted(map(luminance, colours))
    assert (light > 0.5) == (scheme == "light")
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_hiding_and_completing(page):
    shown = page("completer")
    hidden = "return completePad.keep.flat().filter((kept) => !kept).length"
    assert shown.run(hidden) == 14 * 28  # it opens with half of an image hidden
    assert shown.grey("#complete-pad canvas").any()
    shown.drag("complete-pad", (0.3, 0.2), (0.7, 0.2))
    shown.press("complete", "hide half")
    shown.press("complete", "Complete 8 ways")
    count = "return document.querySelectorAll('#completions canvas').length"
    shown.until(lambda: shown.run(count) == 8)
    painted = shown.grey("#complete-pad canvas")
    ways = [shown.grey(f"#completions canvas:nth-child({i + 1})") for i in range(8)]
    for way in ways:
        np.testing.assert_array_equal(way[:14], painted[:14])  # what was kept
        assert len(np.unique(way[14:])) == 1
        assert way[20, 20] >= 60
    assert len({int(way[20, 20]) for way in ways}) == 7  # seeds in a row, one of 7 greys each
    third = "return document.querySelector('#completions canvas:nth-child(3)')"
    assert shown.run(f"{third}.getAttribute('role')") == "img"
    assert shown.run(f"{third}.getAttribute('aria-label')") == "completion 3"
    shown.press("complete", "clear")
    shown.press("complete", "hide")
    shown.drag("complete-pad", (0.1, 0.1), (0.12, 0.12))
    assert 4 <= shown.run(hidden) <= 60


def test_a_pixel_model_completes_half_a_digit(page, models):
    model, name = models["pixelcnn_binarized_mnist"], "pixelcnn_binarized_mnist"
    shown = page(name)
    shown.run("Math.random = () => 0")  # seeds from 0 on
    digit = model.sample(1, seed=0)[0]
    shown.press("complete", "sample")
    shown.shows("#complete-pad canvas", digit)
    shown.press("complete", "hide half")
    shown.press("complete", "Complete 8 ways")
    mask = np.zeros((8, 28, 28, 1), bool)
    mask[:, :14] = True
    expected = model.complete(np.repeat(digit[None], 8, 0), mask, seed=0, batch_size=8)
    assert (expected[:, :14] == digit[:14]).all()
    assert len({way.tobytes() for way in expected}) == 8
    for index, way in enumerate(expected):
        shown.shows(f"#completions canvas:nth-child({index + 1})", way)


def test_an_error_is_shown(page, browser):
    """It stays while other work goes well, until the same work does, or another model is chosen."""
    shown = page("cgan_mnist")
    shown.until(lambda: shown.run("return document.getElementById('share').value") != "")
    shown.run("model.name = 'gone'; draw()")
    shown.until(lambda: "gone" in shown.problem())
    assert "Models: ae_mnist, cgan_mnist" in shown.problem()
    shown.run("model.name = 'cgan_mnist'; ends.seeds = ''; morph().then(() => window.morphed = 1)")
    shown.until(lambda: shown.run("return window.morphed"))
    assert "Models: ae_mnist, cgan_mnist" in shown.problem()
    shown.run("draw()")
    shown.until(lambda: not shown.problem())
    with contextlib.suppress(IndexError):
        browser.get_log("browser")  # the browser notes the 404, as it should
