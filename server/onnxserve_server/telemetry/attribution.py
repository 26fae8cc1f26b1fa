"""Attributes CPU time and energy to the models, in proportion to the time that their runs took.

No counter says which model a joule or the work of a thread pool belongs to. What the process used between two readings
is therefore divided like the models' run time, times their threads; if none ran, nobody is charged.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from onnxserve_server.telemetry import catalogue
from onnxserve_server.telemetry.catalogue import Instrument
from onnxserve_server.telemetry.metric_data import Labels, Metric

_POWERCAP = Path("/sys/class/powercap")


class Meter(Protocol):
    """A reading that only grows, such as the joules of a processor since the machine was started."""

    def read(self) -> float:
        """Return the reading."""
        ...


class CpuClock:
    """The CPU time of this process, in seconds."""

    def read(self) -> float:
        """See Meter."""
        return time.process_time()


class Rapl:
    """The energy of the CPU packages, in joules: Linux's powercap interface to the processor's own counters.

    They are of the whole machine: beside other loads a model's share is an upper bound.
    """

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones
        self._last = [_integer(zone / "energy_uj") for zone in zones]
        self._ranges = [_integer(zone / "max_energy_range_uj") + 1 for zone in zones]
        self._joules = 0.0

    @classmethod
    def find(cls, root: Path = _POWERCAP) -> "Rapl | None":
        """Return the counters of this machine; None if it has none, or this process may not read them."""
        zones = sorted(path for path in root.glob("intel-rapl:*") if path.name.count(":") == 1)
        try:
            return cls(zones) if zones else None
        except (OSError, ValueError):  # since Linux 5.10 only root may read it
            return None

    def read(self) -> float:
        """See Meter."""
        for i, zone in enumerate(self._zones):
            now = _integer(zone / "energy_uj")
            self._joules += (now - self._last[i]) % self._ranges[i] / 1e6  # the counter wraps
            self._last[i] = now
        return self._joules


class Nvml:
    """The energy of the GPUs, in joules, by NVIDIA's management library (package nvidia-ml-py, optional)."""

    def __init__(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._read = pynvml.nvmlDeviceGetTotalEnergyConsumption
        self._devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        self.read()

    @classmethod
    def find(cls) -> "Nvml | None":
        """Return the GPUs of this machine; None without a GPU, a driver, the package, or a counter in the GPU."""
        try:
            return cls()
        except Exception:  # ImportError, or one of NVML's two dozen
            return None

    def read(self) -> float:
        """See Meter."""
        return float(sum(self._read(device) for device in self._devices)) / 1e3


class Attribution:
    """Divides what meters say among the models.

    Args:
        run_seconds: returns the run time of each model so far.
        threads: returns the threads of one run of each model that serves; a model that was stopped keeps its last.
        meters: the meters, and the metric of each; several may count into one.
    """

    def __init__(
        self,
        run_seconds: Callable[[], Mapping[Labels, float]],
        threads: Callable[[], Mapping[Labels, int]],
        meters: list[tuple[Instrument, Meter]],
    ) -> None:
        self._run_seconds = run_seconds
        self._threads = threads
        self._meters = [(instrument, meter, [meter.read()]) for instrument, meter in meters]
        self._last_seconds: Mapping[Labels, float] = {}
        self._known_threads: dict[Labels, int] = {}
        self._charged: dict[Instrument, dict[Labels, float]] = {
            instrument: defaultdict(float) for instrument, _ in meters
        }

    def collect(self) -> Iterator[Metric]:
        """Attribute what was used since the last call. For one thread at a time."""
        work = self._work()
        total = sum(work.values())
        for instrument, meter, last in self._meters:
            reading = meter.read()
            used, last[0] = reading - last[0], reading
            if total > 0:
                for labels, part in work.items():
                    self._charged[instrument][labels] += used * part / total
        for instrument, charged in self._charged.items():
            yield Metric(instrument, list(charged.items()))

    def _work(self) -> dict[Labels, float]:
        """Return the run time of each model since the last call, times its threads."""
        self._known_threads |= self._threads()
        seconds, last = dict(self._run_seconds()), self._last_seconds
        self._last_seconds = seconds
        return {
            labels: (now - last.get(labels, 0.0)) * self._known_threads.get(labels, 1)
            for labels, now in seconds.items()
        }


def meters() -> list[tuple[Instrument, Meter]]:
    """Return the meters of this machine."""
    found: list[tuple[Instrument, Meter]] = [(catalogue.MODEL_CPU, CpuClock())]
    return found + [(catalogue.MODEL_ENERGY, meter) for meter in (Rapl.find(), Nvml.find()) if meter is not None]


def _integer(path: Path) -> int:
    return int(path.read_text())
