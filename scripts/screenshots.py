#!/usr/bin/env python3
"""Take the pictures of the status page that the documents show: the examples' models under load, in headless Chromium.

    python scripts/screenshots.py [FOLDER]      docs/images by default

Needs what the tests need: Chromium and its driver (scripts/install-debian.sh), and the packages of `dev`.
"""

import base64
import math
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from onnxserve import Client, Stop

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]
from demo import running_server  # noqa: E402

from support.browsing import Page, chromium, write_png  # noqa: E402

WARM_UP = 100  # seconds of load before the first picture: the charts show a minute at least
CALLERS = 40
GENERATORS = 6
MAX_BYTES = 250_000


def main() -> None:
    """Start everything, take the pictures, and stop it."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/images"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        running_server(ROOT / "examples/models") as (_, address, url),
        load(address),
        chromium("--hide-scrollbars") as driver,
    ):
        page = Page(driver)
        page.emulate(width=1280, height=1160, prefers_color_scheme="light")
        page.open(int(url.rpartition(":")[2]))
        threading.Event().wait(WARM_UP)
        take(page, folder / "page-light.png")
        predict(page)
        page.emulate(prefers_color_scheme="dark")
        page.run("scrollTo(0, document.body.scrollHeight)")
        take(page, folder / "page-dark.png")
        page.emulate(width=360, height=800, scale=2, prefers_color_scheme="light")
        page.run("scrollTo(0, 0)")
        take(page, folder / "page-phone.png")


@contextmanager
def load(address: str) -> Iterator[None]:
    """Have callers read digits, more and fewer of them by turns, and others make up names, until the block ends."""
    images = np.load(ROOT / "examples/data/digits_test.npz")["image"]
    stop = threading.Event()

    def read_digits(client: Client, number: int) -> None:
        rng = np.random.default_rng(number)
        while not stop.is_set():
            quiet = 0.5 + 0.5 * math.sin(time.monotonic() / 9)
            row = int(rng.integers(len(images)))
            client.predict("digits", {"image": images[row, None]}, timeout=30, request_id=f"reader-{number}")
            stop.wait(float(rng.exponential(0.02 + 0.1 * quiet)))

    def make_names(client: Client, number: int) -> None:
        rng = np.random.default_rng(number)
        while not stop.is_set():
            random = rng.integers(1, 2**31 - 1, 1)
            first: dict[str, np.ndarray] = {"letter": np.zeros(1, np.int64), "temperature": np.ones(1, np.float32)}
            with client.sequence("names") as sequence:
                for _ in sequence.generate(first | {"random": random}, max_steps=20, stop=Stop("next_letter", 0)):
                    pass
            stop.wait(float(rng.exponential(0.2)))

    with Client(address) as client:
        work = [read_digits] * CALLERS + [make_names] * GENERATORS
        threads = [threading.Thread(target=one, args=(client, i)) for i, one in enumerate(work)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def predict(page: Page) -> None:
    """Have the page's form read a digit."""
    digit = np.load(ROOT / "examples/data/digit.npy")[0].transpose(1, 2, 0)
    with tempfile.TemporaryDirectory() as folder:
        page.model("digits")
        page.picture(write_png(Path(folder) / "digit.png", np.round(255 * digit).astype(np.uint8)))
        page.send()


def take(page: Page, path: Path) -> None:
    """Write a picture of what is seen."""
    shot = page.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    path.write_bytes(base64.b64decode(shot["data"]))
    print(f"{path}: {path.stat().st_size:,} bytes")
    if path.stat().st_size > MAX_BYTES:
        sys.exit(f"{path} is larger than {MAX_BYTES:,} bytes")


if __name__ == "__main__":
    main()
