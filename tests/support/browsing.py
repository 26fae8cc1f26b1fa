"""The status page in headless Chromium: start it, look at it, use it."""

import contextlib
import struct
import zlib
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from support.waiting import until

NONE = "\N{EN DASH}"  # a figure that is not there
CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")  # where Debian has them

# For each text that is seen: its contrast to what is behind it, by WCAG 2.2, and how it begins.
_CONTRASTS = """
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const ground = (node) => {
      for (; node; node = node.parentElement) {
        const [r, g, b, alpha = 1] = channels(getComputedStyle(node).backgroundColor);
        if (alpha === 1) return [r, g, b];
      }
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const [text, node] = [walker.currentNode.data.trim(), walker.currentNode.parentElement];
      const seen = node.getClientRects().length && !node.closest('.unseen, title, option, script, noscript');
      if (!text || !seen) continue;
      const style = getComputedStyle(node);
      const color = channels(node.closest('svg') ? style.fill : style.color);
      const [dark, bright] = [luminance(color), luminance(ground(node))].sort((one, other) => one - other);
      found.push([(bright + 0.05) / (dark + 0.05), text.slice(0, 60)]);
    }
    return found;"""
_FACT = """
    const [within, name, value] = arguments;
    const term = [...document.querySelectorAll(`${within} dt`)].find((dt) => dt.textContent === name);
    const fact = term?.nextElementSibling;
    return fact ? (fact.querySelector(value) ?? fact).textContent : null;"""
_HIDE = """
    Object.defineProperty(document, 'hidden', { value: arguments[0], configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));"""


@contextlib.contextmanager
def chromium(*arguments):
    """Run Chromium without a screen until the block ends."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    # A page that scrolls smoothly is still on its way when the driver clicks.
    always = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-prefers-reduced-motion")
    for argument in (*always, *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        driver.set_script_timeout(30)
        yield driver
    finally:
        driver.quit()


class Page:
    """The page in a browser. `expected` are parts of what may stand in the browser's log as severe."""

    def __init__(self, driver):
        self.driver = driver
        self.expected = []

    def open(self, port, state="ready"):
        self.driver.get(f"http://localhost:{port}/")
        self.wait_for_state(state)
        return self

    def wait_for_state(self, state):
        until(lambda: self.find("#state").get_attribute("data-state") == state, 30)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        """The text of an element, seen or not."""
        return self.find(selector).get_attribute("textContent")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def module(self, name, body, *arguments):
        """Run a function's body with a module of the page as `m` and the arguments as `a`."""
        script = (
            f"const a = [...arguments]; const done = a.pop(); import('/{name}').then((m) => {{ {body} }}).then(done);"
        )
        return self.driver.execute_async_script(script, *arguments)

    def tile(self, name):
        """The figure of a tile."""
        return self.run(_FACT, "#tiles", name, "span")

    def fact(self, name):
        """The text beside a name in a card; None where there is none."""
        return self.run(_FACT, "#charts", name, "none")

    def chart(self, title):
        """What a chart says to those who cannot see it."""
        labels = [svg.get_attribute("aria-label") for svg in self.all(".plot svg")]
        return next(label for label in labels if label and label.startswith(f"{title}: "))

    def choose(self, selector, value):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))"
        self.run(script, self.find(selector), value)

    def type(self, text, field="#form textarea"):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.run(script, self.find(field), text)

    def model(self, name):
        """Choose a model in the form, once it is offered."""
        until(lambda: name in [option.get_attribute("value") for option in self.all("#form-model option")])
        self.choose("#form-model", name)

    def picture(self, path):
        """Choose a file for the form's first picture."""
        self.find("#form input[type=file]").send_keys(str(path))

    def send(self):
        """Send the form and return the answer's text once it is there."""
        self.run("window.before = document.querySelector('#answer-body > *')")
        self.find("#send").click()
        until(lambda: self.run("return !window.before.isConnected"), 60)
        return self.text("#answer-body")

    def emulate(self, width=None, height=780, scale=1, **media):
        """Give the window a size, and media features values: prefers_color_scheme="dark"."""
        if width is not None:
            size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        if media:
            features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def hide(self, hidden):
        """Have the page believe that nobody looks at it, or that somebody does."""
        self.run(_HIDE, hidden)

    def contrasts(self):
        """The contrast of each text that is seen, and its beginning."""
        return self.run(_CONTRASTS)

    def layouts(self):
        """How many times the browser has laid the page out."""
        self.driver.execute_cdp_cmd("Performance.enable", {})
        metrics = self.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "LayoutCount")

    def severe(self):
        """What stands in the browser's log as severe and was not expected."""
        messages = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [message for message in messages if not any(part in message for part in self.expected)]

    def leave(self):
        """Put the browser back into the state that it began in."""
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        self.driver.get("about:blank")
        self.driver.get_log("browser")


def number(text):
    """The first number of a text; 0 where there is none."""
    return 0.0 if text == NONE else float(text.replace(",", "").split()[0])


def write_png(path, image):
    """Write uint8 [H, W, 3] as a PNG file (RFC 2083) and return its path."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = image.shape
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path
