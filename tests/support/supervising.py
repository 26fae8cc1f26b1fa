"""Servers that are started again whenever they end, as a supervisor does it."""

import threading

from support.ports import free_port


class Supervised:
    """Servers in processes of their own; each keeps its port. A thread for each waits for its end and starts the next.

    Args:
        launch: the fixture; not for two threads at once.
        models: as for it.
        count: the number of servers.
        flags: of `onnxserve serve`.

    Attributes:
        deaths: the exit codes of those that ended.
    """

    def __init__(self, launch, models, count, *flags):
        self.deaths = []
        self._launch = lambda port: launch(models, "--port", port, *flags)
        self._launching = threading.Lock()
        self._ports = [free_port() for _ in range(count)]
        self._running = {}
        self._changed = threading.Condition()
        self._ending = False
        self._threads = [threading.Thread(target=self._keep, args=(port,)) for port in self._ports]

    @property
    def target(self):
        """The name of all of them, as clients are given it."""
        return "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self._ports)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self.wait_for_all()
        return self

    def __exit__(self, *_):
        with self._changed:
            self._ending = True
            for server in self._running.values():
                server.popen.kill()
        for thread in self._threads:
            thread.join(60)

    def wait_for_all(self, deaths=0):
        """Wait until so many have died, and all run."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: len(self.deaths) >= deaths and len(self._running) == len(self._ports), 120
            )

    def _keep(self, port):
        while not self._ending:
            with self._launching:
                server = self._launch(port)
            with self._changed:
                self._running[port] = server
                self._changed.notify_all()
                if self._ending:
                    server.popen.kill()
            code = server.popen.wait()
            with self._changed:
                del self._running[port]
                if not self._ending:
                    self.deaths.append(code)
                self._changed.notify_all()
