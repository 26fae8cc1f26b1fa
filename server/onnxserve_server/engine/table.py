"""The versions that serve, by name. Replaced as a whole and never changed, so that readers need no lock."""

import threading
from collections.abc import Mapping, Sequence

from onnxserve_server.engine.servable import Servable
from onnxserve_server.errors import InvalidRequest, ModelNotFound, ModelStopped, Violation
from onnxserve_server.spec import ModelSpec

_Key = tuple[str, str]


class Table:
    """Finds the version that a request names. Everything may be called from any thread.

    A version that was removed stays known by its spec alone: until it is added again, requests for it are refused with
    MODEL_STOPPED rather than NOT_FOUND.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By name and version; (name, "") is the newest version of those that serve.
        self._serving: Mapping[_Key, Servable] = {}
        self._stopped: Mapping[_Key, ModelSpec] = {}

    def add(self, model: Servable) -> None:
        """Serve a version from now on.

        Raises:
            ValueError: one of that name and version serves already; see swap().
        """
        key = _key(model.spec)
        with self._lock:
            if key in self._serving:
                raise ValueError(f"{key[0]}/{key[1]} is in the table already")
            self._replace([*self._versions(), model])

    def swap(self, old: Servable, new: Servable) -> None:
        """Serve one version in the place of another, with no moment in between.

        Raises:
            KeyError: the old one is not in the table.
        """
        with self._lock:
            others = self._without(old)
            self._note_stopped(old.spec)
            self._replace([*others, new])

    def remove(self, model: Servable) -> None:
        """Refuse requests for a version from now on.

        Raises:
            KeyError: it is not in the table.
        """
        with self._lock:
            others = self._without(model)
            self._note_stopped(model.spec)
            self._replace(others)

    def resolve(self, name: str, version: str = "") -> Servable:
        """Return the version that a request names; without a version, the newest of that name.

        Raises:
            ModelNotFound: no model has that name, or it has no such version.
            ModelStopped: it was removed.
            InvalidRequest: the name is empty.
        """
        model = self._serving.get((name, version))
        if model is None:
            with self._lock:  # what serves and what was stopped are replaced one after the other
                model = self._serving.get((name, version))
                if model is None:
                    raise self._refusal(name, version)
        return model

    def find(self, name: str, version: str = "") -> ModelSpec | None:
        """Return what is known of a version that serves; None: it does not."""
        model = self._serving.get((name, version))
        return None if model is None else model.spec

    def find_stopped(self, name: str, version: str = "") -> ModelSpec | None:
        """Return what is known of a version that was removed; without a version, the newest, if none serves."""
        if version:
            return self._stopped.get((name, version))
        if (name, "") in self._serving:
            return None
        return next((spec for spec in reversed(self.stopped()) if spec.name == name), None)

    def models(self) -> list[Servable]:
        """Return every version that serves, by name, oldest version first."""
        return sorted(self._versions(), key=lambda model: _by_name_and_age(model.spec))

    def stopped(self) -> list[ModelSpec]:
        """Return what is known of the versions that were removed, in the same order."""
        return sorted(self._stopped.values(), key=_by_name_and_age)

    def _versions(self) -> list[Servable]:
        return [model for (_, version), model in self._serving.items() if version]

    def _without(self, model: Servable) -> list[Servable]:
        if self._serving.get(_key(model.spec)) is not model:
            raise KeyError("{}/{} is not in the table".format(*_key(model.spec)))
        return [other for other in self._versions() if other is not model]

    def _note_stopped(self, spec: ModelSpec) -> None:
        self._stopped = {**self._stopped, _key(spec): spec}

    def _replace(self, models: Sequence[Servable]) -> None:
        ordered = sorted(models, key=lambda model: _by_name_and_age(model.spec))
        newest = {(model.spec.name, ""): model for model in ordered}
        self._serving = {_key(model.spec): model for model in ordered} | newest
        self._stopped = {key: spec for key, spec in self._stopped.items() if key not in self._serving}

    def _refusal(self, name: str, version: str) -> InvalidRequest | ModelNotFound | ModelStopped:
        if not name:
            return InvalidRequest([Violation("model", "the name of a model is required")])
        if self.find_stopped(name, version) is not None:
            return ModelStopped(f"model {name!r} was stopped on this server", model=name)
        serving = [key for key in self._serving if key[1]]
        versions = [known for model, known in serving if model == name]
        if versions:
            message = f"model {name!r} has no version {version!r}; available versions: {', '.join(versions)}"
            return ModelNotFound(message, f"{name}/{version}")
        names = ", ".join(sorted({model for model, _ in serving})) or "none"
        return ModelNotFound(f"unknown model {name!r}; available models: {names}", name)


def _key(spec: ModelSpec) -> _Key:
    return spec.name, spec.version


def _by_name_and_age(spec: ModelSpec) -> tuple[str, int, str]:
    return spec.name, int(spec.version) if spec.version.isdecimal() else 0, spec.version
