"""Replicas of a server behind one name, replaced as Kubernetes replaces the pods of a Deployment."""

import itertools
import random
import threading

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.naming import NameServer
from support.waiting import until

_SERVING = health_pb2.HealthCheckResponse.SERVING

LAG = 0.5
"""Seconds from a pod's SIGTERM until its address is out of the name.

In a cluster it is some seconds. What counts is that it comes after the SIGTERM and within the drain delay.
"""


class Replicas:
    """Servers in processes of their own. Each has an address of its own, as pods have, and all have the same port.

    Args:
        launch: the fixture.
        models, configs: as for it.
        flags: of `onnxserve serve`.

    Attributes:
        names: where the name is looked up.
        live: those that it leads to.
    """

    def __init__(self, launch, models, configs, *flags):
        self.names = NameServer()
        self.live = ()
        self._launch = lambda host, port: launch(models, "--host", host, "--port", port, *flags, configs=configs)
        self._hosts = (f"127.{random.randrange(1, 255)}.{random.randrange(255)}.{i}" for i in itertools.count(1))
        self._port = 0

    @property
    def target(self):
        """The name, as clients are given it."""
        return self.names.target(self._port)

    def __enter__(self):
        self.names.__enter__()
        return self

    def __exit__(self, *_):
        self.names.__exit__()

    def add(self):
        """Start a replica; once its startup probe succeeds, its address joins the name."""
        replica = self._launch(next(self._hosts), self._port)
        self._port = int(replica.address.rsplit(":", 1)[1])
        until(lambda: _probe(replica.address), 30)
        self.publish(*self.live, replica)
        return replica

    def retire(self, replica, lag=LAG):
        """Stop a replica: SIGTERM, and a little later its address leaves the name. Returns the exit code."""
        replica.popen.terminate()
        threading.Event().wait(lag)
        self.forget(replica)
        code, _ = replica.stop(sig=0)
        return code

    def forget(self, replica):
        """Take its address out of the name."""
        self.publish(*(other for other in self.live if other is not replica))

    def roll(self):
        """Replace every replica by a new one, one after the other; returns the exit codes of the old ones."""
        codes = []
        for replica in self.live:
            self.add()
            codes.append(self.retire(replica))
        return codes

    def publish(self, *live):
        """Have the name lead to these."""
        self.live = live
        self.names.addresses = tuple(replica.address.rsplit(":", 1)[0] for replica in live)


def _probe(address):
    """Whether the server is ready, as the kubelet's grpc probe asks."""
    with grpc.insecure_channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return answer.status == _SERVING
