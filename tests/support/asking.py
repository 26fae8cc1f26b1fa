"""Ask the HTTP port of a server as programs do."""

import contextlib
import http.client
import json
import re
import socket

HEAD = b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Http:
    """Asks the HTTP port of a server."""

    def __init__(self, port):
        self.port = port

    def ask(self, path, body=None, method=None, **headers):
        """Return status, headers and body of an answer; underscores in names of headers are hyphens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(connection):
            connection.request(method or ("GET" if body is None else "POST"), path, body, names)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def status(self, path):
        """Return an answer's status; None where nobody listens."""
        try:
            return self.ask(path)[0]
        except OSError:
            return None

    def predict(self, body, **headers):
        """Return status and JSON of a prediction."""
        text = body if isinstance(body, (bytes, str)) else json.dumps(body)
        status, _, reply = self.ask("/api/predict", text, **{"Content_Type": "application/json"} | headers)
        return status, json.loads(reply)

    def connect(self, sent=b""):
        """Return a connection on which so much was sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(sent)
        return connection

    def send(self, body):
        """Send a prediction and return its socket, from which nobody reads."""
        text = json.dumps(body).encode()
        return self.connect(HEAD % len(text) + text)

    def fetch_status(self):
        """Return /api/status, read as JSON."""
        return json.loads(self.ask("/api/status")[2])

    def answers(self, code):
        """Return how many predictions of this port were answered with a code."""
        points = self.fetch_status()["metrics"].get("onnxserve.requests", {}).get("points", [])
        ours = [point["attributes"] | point for point in points if point["attributes"]["rpc.method"] == "Page"]
        return sum(point["value"] for point in ours if point["rpc.response.status_code"] == code)


def port_of(log):
    """Return the HTTP port that a server's log names."""
    (port,) = re.findall(r"status page on http://127\.0\.0\.1:(\d+)", log.read_text())
    return int(port)


def double(**fields):
    """A prediction of the model "double" with such fields of its input."""
    return {"model": "double", "inputs": {"x": fields}}
