"""The engine without a server around it: its services, its table, and what telemetry looks at."""

import time

from onnxserve_server.edge.inflight import StreamBudget, Window
from onnxserve_server.engine.engine import Engine
from onnxserve_server.engine.table import Table
from onnxserve_server.scheduling.deadlines import DeadlineWatch
from onnxserve_server.scheduling.services import Services
from onnxserve_server.telemetry.metrics import Sources


def make_services(clock=time.monotonic, **others):
    """Services on a clock; nobody watches the deadlines unless the test starts the watch."""
    return Services(clock=clock, deadlines=DeadlineWatch(clock), **others)


def make_engine(clock=time.monotonic, **others):
    """An engine without models."""
    return Engine(Table(), make_services(clock, **others))


def make_sources(engine=None):
    """What telemetry looks at: an engine's models, and no streams."""
    engine = engine or make_engine()
    window = Window(requests=1, nbytes=1, all_requests=1)
    return Sources(table=engine.table, backlog=engine.services.backlog, streams=StreamBudget(window))
