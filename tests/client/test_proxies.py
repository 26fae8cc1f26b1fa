"""A proxy that the environment names is in the way: errors of the connection say so, and how to get around it."""

import pytest

import onnxserve
from onnxserve._proxy import proxy_hint
from support.ports import free_port

VARIABLES = ["grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize("variable", VARIABLES[:3])
def test_a_proxy_in_the_way_is_named(serve_functions, either, monkeypatch, variable, retries):
    server = serve_functions({"m": lambda inputs: {}})
    proxy = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(variable, f"http://user:secret@{proxy}")
    target = server.target.replace("127.0.0.1", "localhost")
    client = either.connect(target, retries=retries)
    with pytest.raises(onnxserve.Unavailable) as caught:
        client.predict("m", {}, timeout=1)
    assert f"the environment variable {variable} has gRPC connect through the proxy {proxy}" in str(caught.value)
    assert "add localhost to the environment variable no_proxy" in str(caught.value)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("no_proxy", "localhost")
    assert dict(either.connect(target).predict("m", {})) == {}


@pytest.mark.parametrize(
    ("target", "excluded", "named"),
    [
        ("models:8500", "", True),
        ("dns:///models.internal:8500", ".internal", False),
        ("ipv4:10.1.2.3:8500", "10.0.0.0/8", False),
        ("ipv4:10.1.2.3:8500", "11.0.0.0/8", True),
        ("unix:/run/socket", "", False),
    ],
)
def test_only_a_proxy_that_grpc_uses_is_named(monkeypatch, target, excluded, named):
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", excluded)
    assert ("through the proxy proxy:3128" in proxy_hint(target)) is named
