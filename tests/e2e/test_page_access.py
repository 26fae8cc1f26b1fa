"""The page is for everybody: by keyboard, on a phone, in light and dark, read aloud, without motion."""

import itertools
import re

import numpy as np
import pytest

from support import zoo
from support.shown import LONG, digits, labelled
from support.waiting import until

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from support.browsing import number

PHONE = 360  # pixels
MODELS = {
    "digits": digits(),
    "double": zoo.double(),
    "slow": zoo.slow(),
    "hostile": labelled(),
    LONG: zoo.double(),
}


def test_the_form_can_be_used_by_keyboard_alone(opened):
    until(lambda: len(opened.all("#form-model option")) == len(MODELS))
    keys = ActionChains(opened.driver)

    def press(*pressed):
        for key in pressed:
            keys.send_keys(key)
        keys.perform()
        return opened.driver.switch_to.active_element

    focused = press(Keys.TAB)
    assert focused.text == "Skip to the content"
    assert focused.rect["y"] >= 0
    for _ in range(60):
        focused = press(Keys.TAB)
        width = opened.run("return getComputedStyle(arguments[0]).outlineWidth", focused)
        assert number(width.removesuffix("px")) >= 2, focused.get_attribute("outerHTML")
        if focused.get_attribute("id") == "form-model":
            break
    press("double")
    assert opened.find("#form-model").get_property("value") == "double"
    press(Keys.TAB)
    assert press(Keys.TAB).tag_name == "textarea"
    keys.key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL)
    press("[[1, 2, 4]]")
    assert press(Keys.TAB).get_attribute("id") == "send"
    press(Keys.ENTER)
    until(lambda: [pre.text.split() for pre in opened.all("#answer-body pre")] == [["2", "4", "8"]])
    assert opened.driver.switch_to.active_element.get_attribute("id") == "send"


BEYOND = """
    const sticksOut = (one) => one.getClientRects().length && one.getBoundingClientRect().right > innerWidth + 1;
    const found = [...document.querySelectorAll('main *')].filter((one) => sticksOut(one) && !one.closest('.unseen'));
    return found.map((one) => one.outerHTML.slice(0, 200));"""


@pytest.mark.parametrize("width", [PHONE, 1280])
def test_it_never_scrolls_sideways(page, http_server, width):
    page.emulate(width=width)
    page.open(http_server.app.http_port)
    until(lambda: len(page.all(".opener")) == len(MODELS))
    for opener in page.all(".opener"):
        page.run("arguments[0].click()", opener)
    http_server.client.predict("slow", {"x": np.full((1, 1), 20, np.float32)}, request_id="r" * 128)
    until(lambda: "r" * 128 in page.text("#slow-table"))
    for name in (LONG, "digits", "hostile"):
        page.model(name)
        page.send()
    assert page.run("return innerWidth") == width
    assert page.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    beyond = page.run(BEYOND)
    assert beyond == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_in_either_scheme(page, http_server, bare, scheme):
    page.emulate(prefers_color_scheme=scheme)
    port, loads = bare()
    loads.fail(loads.begin("broken", "1"), "it is broken")
    for number_of_port, state in ((port, "draining"), (http_server.app.http_port, "ready")):
        page.open(number_of_port, state)
        if state == "ready":
            page.model("hostile")
            page.send()
            until(lambda: page.all(".plot text"))
        texts = page.contrasts()
        assert len(texts) > 40
        assert [text for text in texts if text[0] < 4.5] == []
    ground = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 3 * 128) == (scheme == "light")


def test_everything_has_a_name_for_those_who_cannot_see_it(opened):
    opened.model("digits")
    until(lambda: len(opened.all(".opener")) == len(MODELS))
    opened.driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = opened.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    seen = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    roles = {role for role, _ in seen}
    assert {"banner", "main", "navigation", "contentinfo", "status", "table", "region", "combobox", "textbox"} <= roles
    named = {"button", "checkbox", "combobox", "textbox", "searchbox", "image", "img", "region", "table", "link"}
    assert [node for node in seen if node[0] in named and not node[1]] == []
    levels = [int(heading.tag_name[1]) for heading in opened.all("h1, h2, h3, h4") if heading.is_displayed()]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


MOVING = """
    const moves = ({ transitionDuration, animationName }) => transitionDuration !== '0s' || animationName !== 'none';
    const found = [...document.querySelectorAll('*')].filter((one) => moves(getComputedStyle(one)));
    return found.map((one) => one.tagName);"""


def test_it_moves_nothing_for_those_who_asked_for_that(opened):
    opened.model("digits")
    opened.send()
    opened.emulate(prefers_reduced_motion="no-preference")
    assert opened.run(MOVING)
    opened.emulate(prefers_reduced_motion="reduce")
    assert opened.run(MOVING) == []
    assert opened.run("return getComputedStyle(document.documentElement).scrollBehavior") == "auto"
