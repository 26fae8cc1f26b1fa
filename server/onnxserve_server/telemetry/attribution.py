"""What the models use of the machine: CPU time and energy, shared out by the time that their runs took.

Nothing tells which model a joule or the work of a thread pool went to. What the process used between two looks is
therefore divided as the models' run time (times their threads) was; when none ran, nobody is charged.
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
    """Something that only grows, such as the joules of a processor since the machine was started."""

    def read(self) -> float:
        """Return its state."""
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
        """Return what this machine has and lets us read; None: nothing."""
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
        """Return what this machine has; None: no GPU, no driver, no package, or GPUs without the counter."""
        try:
            return cls()
        except Exception:  # ImportError, or one of NVML's two dozen
            return None

    def read(self) -> float:
        """See Meter."""
        return float(sum(self._read(device) for device in self._devices)) / 1e3


class Shares:
    """Shares out what meters say.

    Args:
        work: tells the run time of each model so far, times its threads, in seconds.
        meters: what is shared out, and as which metric; several may count into one.
    """

    def __init__(self, work: Callable[[], Mapping[Labels, float]], meters: list[tuple[Instrument, Meter]]) -> None:
        self._work = work
        self._meters = [(instrument, meter, [meter.read()]) for instrument, meter in meters]
        self._done: dict[Labels, float] = {}
        self._charged: dict[Instrument, dict[Labels, float]] = {
            instrument: defaultdict(float) for instrument, _ in meters
        }

    def collect(self) -> Iterator[Metric]:
        """Share out what was used since the last call. For one thread at a time."""
        work = dict(self._work())
        parts = {labels: seconds - self._done.get(labels, 0.0) for labels, seconds in work.items()}
        self._done = work
        whole = sum(parts.values())
        for instrument, meter, last in self._meters:
            now = meter.read()
            used, last[0] = now - last[0], now
            if whole > 0:
                for labels, part in parts.items():
                    self._charged[instrument][labels] += used * part / whole
        for instrument, charged in self._charged.items():
            yield Metric(instrument, list(charged.items()))


def meters() -> list[tuple[Instrument, Meter]]:
    """Return the meters of this machine."""
    found: list[tuple[Instrument, Meter]] = [(catalogue.MODEL_CPU, CpuClock())]
    return found + [(catalogue.MODEL_ENERGY, meter) for meter in (Rapl.find(), Nvml.find()) if meter is not None]


def _integer(path: Path) -> int:
    return int(path.read_text())
