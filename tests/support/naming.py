"""A DNS server for one name whose addresses change, as a headless Service's do."""

import socket
import struct
import threading

_HEADER = struct.Struct(">HHHHHH")
_ANSWER = struct.Struct(">HHHIH")
_ADDRESS, _INTERNET = 1, 1  # the type of a question for IPv4 addresses, and the class
_QUESTION_NAME = 0xC00C  # a pointer to the name in the question
_AUTHORITATIVE = 0x8580  # a response without an error


class NameServer:
    """Answers every question over UDP, on loopback, until the block ends.

    Attributes:
        addresses: IPv4 addresses of the name, whatever name is asked for.
        asked: how often they were asked for.
    """

    def __init__(self):
        self.addresses = ()
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    def target(self, port):
        """What a client is given, for servers that all listen on a port."""
        return f"dns://127.0.0.1:{self._socket.getsockname()[1]}/model.test:{port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join(10)
        self._socket.close()

    def _serve(self):
        while True:
            query, sender = self._socket.recvfrom(512)
            if not query:
                return
            self._socket.sendto(self._answer(query), sender)

    def _answer(self, query):
        end = query.index(0, _HEADER.size) + 5
        kind = int.from_bytes(query[end - 4 : end - 2], "big")
        addresses = self.addresses if kind == _ADDRESS else ()
        self.asked += kind == _ADDRESS
        header = _HEADER.pack(int.from_bytes(query[:2], "big"), _AUTHORITATIVE, 1, len(addresses), 0, 0)
        records = (
            _ANSWER.pack(_QUESTION_NAME, _ADDRESS, _INTERNET, 0, 4) + socket.inet_aton(address) for address in addresses
        )
        return header + query[_HEADER.size : end] + b"".join(records)
