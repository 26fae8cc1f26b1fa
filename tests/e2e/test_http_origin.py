"""Who may ask by HTTP: the page that the server gave out, and programs; no page of another site."""

import json

import pytest

from support import zoo
from support.asking import double

MODELS = {"double": zoo.double()}


SAME = {"Origin": "http://localhost:1", "Host": "localhost:1"}
REFUSALS = {403: ("PERMISSION_DENIED", "OTHER_ORIGIN"), 415: ("INVALID_ARGUMENT", "NOT_JSON")}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program
        (SAME, 200),  # a browser at an address that it does not trust
        ({"Origin": "http://[::1]:1", "Host": "[::1]:1"}, 200),
        (SAME | {"Sec_Fetch_Site": "same-origin"}, 200),
        (
            {"Origin": "https://models.example", "Host": "127.0.0.1:1", "Sec_Fetch_Site": "same-origin"},
            200,
        ),  # by a proxy
        ({"Content_Type": "application/json; charset=utf-8"}, 200),
        ({"Content_Type": "text/plain"}, 415),  # what a form of another site could send
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": "text/plain; application/json"}, 415),
        (SAME | {"Origin": "http://evil.example", "Content_Type": "text/plain"}, 403),
        (SAME | {"Sec_Fetch_Site": "cross-site", "Content_Type": "text/plain"}, 403),
        (SAME | {"Sec_Fetch_Site": "cross-site"}, 403),
        (SAME | {"Sec_Fetch_Site": "same-site"}, 403),  # another port of localhost
        (SAME | {"Origin": "http://evil.example"}, 403),
        (SAME | {"Origin": "http://localhost:2"}, 403),
        (SAME | {"Origin": "null"}, 403),
        ({"Origin": "http://evil.example:1", "Host": "evil.example:1"}, 403),  # its name now leads here
        ({"Host": "evil.example:1"}, 403),
    ],
)
def test_no_page_of_another_site_can_have_a_model_run(http_port, headers, status):
    before = http_port.answers("OK")
    got, reply = http_port.predict(double(data=[[1, 2, 3]]), **headers)
    assert got == status, reply
    if status != 200:
        assert (reply["code"], reply["reason"]) == REFUSALS[status]
    assert http_port.answers("OK") == before + (status == 200)


@pytest.mark.parametrize("path", ["/api/status", "/metrics"])
@pytest.mark.parametrize("headers", [{"Host": "evil.example:1"}, {"Sec_Fetch_Site": "cross-site"}])
def test_no_page_of_another_site_can_read_what_is_told(http_port, path, headers):
    status, _, body = http_port.ask(path, **headers)
    assert (status, json.loads(body)["reason"]) == (403, "OTHER_ORIGIN")


@pytest.mark.parametrize("path", ["/api/status", "/metrics"])
@pytest.mark.parametrize(
    "host", ["[::1]", "[::1]:8501", "127.0.0.1", "127.0.0.1:8501", "LOCALHOST", "localhost.", "a.localhost:1"]
)
def test_names_of_the_loopback_interface_may_be_asked_for(http_port, path, host):
    assert http_port.ask(path, Host=host)[0] == 200


ODD = ["", "[", "]", "[::1", "::1", "[::1]]", "[::1]:x", "[x]:1", "localhost:x", "localhost:99999999", ":", "//", "a b"]
ODD += ["\xe9\xff", "%00", "http://localhost", "@", "@localhost:@", "x" * 10_000, "[fe80::1%25eth0]", "[v1.x]"]


@pytest.mark.parametrize("odd", ODD)
def test_odd_hosts_and_origins_are_refused_or_passed_over(http_port, odd):
    for path in ("/api/status", "/metrics", "/healthz", "/"):
        assert http_port.ask(path, Host=odd)[0] in (200, 400, 403)
    body = double(data=[[1, 2, 3]])
    for headers in ({"Host": odd}, {"Origin": odd}, {"Origin": f"http://{odd}"}, {"Host": odd, "Origin": odd}):
        assert http_port.ask("/api/predict", json.dumps(body), Content_Type="application/json", **headers)[0] in (
            200,
            400,
            403,
        )
    assert http_port.predict(body)[0] == 200


def test_nobody_is_granted_what_browsers_ask_for_first(http_port):
    status, headers, _ = http_port.ask(
        "/api/predict",
        method="OPTIONS",
        Origin="http://evil.example",
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="content-type",
    )
    assert status == 405
    assert not [name for name in headers if name.lower().startswith("access-control")]
