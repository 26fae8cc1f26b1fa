"""Make a model on disk serve: probe it in a child process, load it, warm it, describe it."""

import logging
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, Context

from onnxserve_server.engine.model import ServedModel
from onnxserve_server.engine.rules import explain
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.discovery import Found
from onnxserve_server.repository.files import check_within, sha256_of
from onnxserve_server.repository.state import feedback_of, policy_of, state_of
from onnxserve_server.runtime.axes import BatchAxes, share
from onnxserve_server.runtime.metadata import json_in
from onnxserve_server.runtime.probe import Findings
from onnxserve_server.runtime.prober import Prober
from onnxserve_server.runtime.row_hints import faults_of, report_of
from onnxserve_server.runtime.session import Session, SessionOptions
from onnxserve_server.runtime.verdict import Verdict, check_batch_axes
from onnxserve_server.runtime.warm_up import warm_up
from onnxserve_server.scheduling.services import Services
from onnxserve_server.spec import BatchPolicy, InputRule, ModelSpec, Rows, TensorSpec

logger = logging.getLogger(__name__)

_SHARE_IF_PROVED = 0.1  # of batching.spot_checks: all that is left to find is a fault of the analysis or of a kernel


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What the server's settings say of models whose model.yaml says nothing."""

    threads: int
    providers: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: {"CPUExecutionProvider": {}})
    allow_cpu_fallback: bool = False
    max_inline: float = 0.0


def load(found: Found, defaults: Defaults, prober: Prober, services: Services) -> ServedModel:
    """Return the model, ready to be started.

    Raises:
        ConfigurationError: it cannot be loaded as configured.
    """
    options = _session_options(found, defaults)
    batching = found.config.batching
    findings = prober.probe(found.path, options, max_rows=batching.max_rows, batched=batching.enabled is True)
    verdict = findings.verdict
    session = Session(found.path, options)
    for fault in session.ignored.values():
        _warn_of_metadata(found, fault)
    for fault in faults_of(report_of(session), session.inputs):
        logger.warning("%s: %s; the check of rows goes without it", report_of(session), fault)
    spec = _spec(found, session, options, findings)
    if batching.enabled is True and not (declared := check_batch_axes(session.inputs, spec.outputs)).batchable:
        raise ConfigurationError(
            f"{found.config_file}: batching.enabled: the model cannot be batched: {declared.reason}"
        )
    if not spec.batching.enabled:
        logger.info("model %s/%s runs one request at a time: %s", spec.name, spec.version, spec.batching.reason)
    if batching.enabled is True and not verdict.batchable:
        logger.warning(
            "model %s/%s is batched because model.yaml says so, although %s", spec.name, spec.version, verdict.reason
        )
    _report_contradiction(spec, verdict)
    missing = [provider for provider in spec.requested_providers if provider not in spec.providers]
    if missing:
        logger.warning(
            "model %s/%s runs on %s; requested, but not available: %s",
            spec.name,
            spec.version,
            spec.providers[0],
            ", ".join(missing),
        )
    for rule in spec.rules:
        logger.info("model %s/%s refuses what it would not survive: %s", spec.name, spec.version, explain(rule))
    if findings.untried:
        logger.warning("model %s/%s was not tried in full: %s", spec.name, spec.version, findings.untried)
    if failure := _warm_up(session, spec, findings):
        logger.warning("model %s/%s could not be warmed up: %s", spec.name, spec.version, failure)
    return ServedModel(spec, session, services, defaults.max_inline)


def _warm_up(session: Session, spec: ModelSpec, findings: Findings) -> str:
    """Do again what the child process has survived; return why that is nothing, "" for success."""
    if not findings.warm_up_rows:
        return findings.warm_up_failure
    rows = min(findings.warm_up_rows, spec.batching.max_rows if spec.batching.enabled else 1)
    return warm_up(session, rows, [rule.conditions for rule in findings.rules])[1]


def _libraries(found: Found) -> tuple[str, ...]:
    """Return the paths of the model's libraries of custom operators, each of which is the one that is listed."""
    directory = found.config_file.parent
    for i, library in enumerate(found.config.custom_operators):
        place, path = f"{found.config_file}: custom_operators[{i}]", directory / library.path
        try:
            check_within(path, directory.parent)
            digest = sha256_of(path)
        except ConfigurationError as error:
            raise ConfigurationError(f"{place}: {error}") from error
        if digest != library.sha256:
            raise ConfigurationError(
                f"{place}: {path} has the SHA-256 {digest} and not the one that is listed; if it is meant to, list that"
            )
    return tuple(str(directory / library.path) for library in found.config.custom_operators)


def _session_options(found: Found, defaults: Defaults) -> SessionOptions:
    """Return how a model is loaded: as its model.yaml says, else as the server's settings say."""
    config = found.config
    return SessionOptions(
        providers=config.providers or defaults.providers,
        allow_cpu_fallback=defaults.allow_cpu_fallback
        if config.allow_cpu_fallback is None
        else config.allow_cpu_fallback,
        threads=config.threads or defaults.threads,
        graph_optimization=config.graph_optimization,
        config=config.session_config,
        arena=config.arena,
        custom_operators=_libraries(found),
        axes=BatchAxes(file=str(found.config_file), batch_axis=config.batch_axis, shared=config.shared),
        tolerance=config.batching.tolerance,
    )


def _report_contradiction(spec: ModelSpec, verdict: Verdict) -> None:
    """Log that the analysis of the graph was wrong, if trying has shown that."""
    if verdict.analysed.rows is Rows.INDEPENDENT and verdict.rows.rows is Rows.DEPENDENT:
        logger.error(
            "model %s/%s: the analysis of its graph takes its rows for independent, but %s; please report this as a "
            "bug of onnxserve, with the model",
            spec.name,
            spec.version,
            verdict.reason,
        )


def _policy(found: Found, verdict: Verdict, *, is_random: bool) -> BatchPolicy:
    """Return how a model is batched. `is_random`: it draws random numbers, so that no row can be compared.

    Raises:
        ConfigurationError: model.yaml says that it is, but its rows change each other.
    """
    config = found.config.batching
    enabled, reason = verdict.batchable, verdict.reason
    match config.enabled:
        case True if verdict.rows.rows is Rows.DEPENDENT:
            raise ConfigurationError(
                f"{found.config_file}: batching.enabled: the model cannot be batched: {verdict.reason}; "
                f"{_cure(verdict.tolerance)}"
            )
        case True:
            enabled, reason = True, ""
        case False:
            enabled, reason = False, "model.yaml says so"
        case "proved" if enabled and verdict.rows.rows is not Rows.INDEPENDENT:
            enabled, reason = False, f"batching.enabled is proved, and this is not: {verdict.rows.reason}"
    is_proved = verdict.rows.rows is Rows.INDEPENDENT
    return BatchPolicy(
        enabled=enabled,
        reason=reason,
        max_rows=config.max_rows if enabled else 1,  # so a lone request is a full batch, and a queue of n takes n runs
        max_delay=config.max_delay_us / 1e6,
        max_queue_rows=config.max_queue_rows,
        max_queue_bytes=config.max_queue_bytes,
        ageing=config.ageing_ms / 1e3,
        split=config.oversize == "split",
        rows=verdict.rows,
        tolerance=config.tolerance or 0.0,
        spot_checks=0.0 if is_random else config.spot_checks * (_SHARE_IF_PROVED if is_proved else 1.0),
    )


def _cure(tolerance: float) -> str:
    """Return what may be done about rows that change each other by so much; infinity is more than can be allowed."""
    rounded = Context(prec=2, rounding=ROUND_CEILING).create_decimal_from_float(tolerance)
    if rounded < 1:
        return f"remove the line, or set batching.tolerance to {rounded:f} if so large a difference does not matter"
    return (
        "remove the line, for no batching.tolerance allows that; where only made-up values show it, give real ones as "
        "check.rows and check.ranges in report.json beside the model"
    )


def _spec(found: Found, session: Session, options: SessionOptions, findings: Findings) -> ModelSpec:
    metadata = dict(session.metadata)
    policy = _policy(found, findings.verdict, is_random=session.is_random)
    about_rows = [rule for rule in findings.rules if policy.enabled and _is_about_rows(rule, session.inputs)]
    state, feedback = state_of(found, session), feedback_of(found, session)
    fed = {*(pair.output.name for pair in state), *(each.output.name for each in feedback)}
    shared = set(findings.verdict.shared) - fed
    return ModelSpec(
        name=found.name,
        version=found.version,
        inputs=session.inputs + session.optional,
        outputs=_labelled(found, share(session.outputs, shared), metadata),
        batching=policy,
        requested_providers=tuple(options.providers),
        providers=session.providers,
        provider_options=session.provider_options,
        instances=found.config.instances,
        threads=options.threads,
        fixed_cost=session.fixed_cost,
        state=state,
        sequences=policy_of(found.config.sequences),
        feedback=feedback,
        rules=tuple(rule for rule in findings.rules if rule not in about_rows),
        untried=findings.untried,
        needs_rows=bool(about_rows),
        left_out=session.left_out,
        metadata=metadata,
        description=session.description,
    )


def _is_about_rows(rule: InputRule, inputs: tuple[TensorSpec, ...]) -> bool:
    """Whether it asks for no rows at all: a batched model then runs on one row of zeros."""
    batch_axes = {spec.name: spec.batch_axis for spec in inputs}
    return any(axis is not None and axis == batch_axes[name] for name, axis, _ in rule.conditions)


def _labelled(found: Found, outputs: tuple[TensorSpec, ...], metadata: dict[str, str]) -> tuple[TensorSpec, ...]:
    """Give the outputs their class names: those of model.yaml, else those of the metadata, where they are deleted."""
    labels = found.config.labels
    unknown = set(labels) - {output.name for output in outputs}
    if unknown:
        expected = ", ".join(output.name for output in outputs)
        raise ConfigurationError(
            f"{found.config_file}: labels.{min(unknown)}: unknown output; the model's outputs are {expected}"
        )
    if fault := _fault_of_labels(labels, outputs):
        raise ConfigurationError(f"{found.config_file}: {fault}")
    if not labels and (labels := _labels_in(metadata, {output.name for output in outputs})):
        if fault := _fault_of_labels(labels, outputs):
            _warn_of_metadata(found, fault)
            labels = {}
        else:
            del metadata["labels"]
    return tuple(replace(output, labels=tuple(labels.get(output.name, ()))) for output in outputs)


def _warn_of_metadata(found: Found, fault: str) -> None:
    """Log that metadata of a model file is ignored, for it may be another tool's."""
    logger.warning(
        "model %s/%s: metadata %s; it is ignored, as that of another tool: if it is meant, set it in model.yaml",
        found.name,
        found.version,
        fault,
    )


def _fault_of_labels(labels: Mapping[str, list[str]], outputs: tuple[TensorSpec, ...]) -> str:
    for output in outputs:
        names, classes = labels.get(output.name, ()), output.shape[-1] if output.shape else None
        if names and isinstance(classes, int) and len(names) != classes:
            return f"labels.{output.name}: {len(names)} names for {classes} classes"
    return ""


def _labels_in(metadata: Mapping[str, str], known: Container[str]) -> dict[str, list[str]]:
    """Return "labels" of the metadata if it is a JSON object of lists by output."""
    labels = json_in(metadata, "labels")
    if isinstance(labels, dict) and all(isinstance(names, list) and name in known for name, names in labels.items()):
        return {output: [str(name) for name in names] for output, names in labels.items()}
    return {}
