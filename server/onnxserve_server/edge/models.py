"""ModelService: which models there are, and what they are."""

from onnxserve.v1 import model_service_pb2 as model_service
from onnxserve.v1 import tensor_pb2
from onnxserve_server.edge.public import Methods
from onnxserve_server.engine.table import Table
from onnxserve_server.spec import InputRule, ModelSpec, TensorSpec


class ModelService:
    """Answers from the table of versions."""

    def __init__(self, table: Table) -> None:
        self._table = table

    @property
    def methods(self) -> Methods:
        """The methods of the service."""
        return {
            "ListModels": (model_service.ListModelsRequest, self.list_models),
            "GetModel": (model_service.GetModelRequest, self.get_model),
        }

    def list_models(self, _: model_service.ListModelsRequest) -> model_service.ListModelsResponse:
        """Return every version of every model; those that were stopped come last."""
        ready = [encode_model(model.spec, model_service.MODEL_STATE_READY) for model in self._table.models()]
        stopped = [encode_model(spec, model_service.MODEL_STATE_STOPPED) for spec in self._table.stopped()]
        return model_service.ListModelsResponse(models=ready + stopped)

    def get_model(self, request: model_service.GetModelRequest) -> model_service.GetModelResponse:
        """Return one model.

        Raises:
            ModelNotFound: there is none of that name and version.
        """
        stopped = self._table.find_stopped(request.model, request.version)
        if stopped is not None:
            model = encode_model(stopped, model_service.MODEL_STATE_STOPPED)
        else:
            model = encode_model(
                self._table.resolve(request.model, request.version).spec, model_service.MODEL_STATE_READY
            )
        return model_service.GetModelResponse(model=model)


def encode_model(spec: ModelSpec, state: model_service.ModelState) -> model_service.Model:
    """Return a model's spec and state as a Model message."""
    policy = spec.batching
    return model_service.Model(
        name=spec.name,
        version=spec.version,
        state=state,
        inputs=[_encode_spec(tensor) for tensor in spec.inputs],
        outputs=[_encode_spec(tensor) for tensor in spec.outputs],
        batching=model_service.Batching(
            enabled=policy.enabled,
            reason=policy.reason,
            max_rows=policy.max_rows if policy.enabled else 1,
            max_delay_us=round(policy.max_delay * 1e6),
            max_queue_rows=policy.max_queue_rows,
            max_queue_bytes=policy.max_queue_bytes,
            rows=model_service.RowVerdict(
                rows=f"ROWS_{policy.rows.rows.name}",
                reason=policy.rows.reason,
                node=policy.rows.node,
            ),
        ),
        runtime=model_service.Runtime(
            requested_providers=spec.requested_providers,
            providers=spec.providers,
            instances=spec.instances,
            threads=spec.threads,
            options=spec.provider_options,
        ),
        metadata=spec.metadata,
        description=spec.description,
        rules=[_encode_rule(rule) for rule in spec.rules],
        left_out=spec.left_out,
        untried=spec.untried,
    )


def _encode_rule(rule: InputRule) -> model_service.InputRule:
    return model_service.InputRule(
        conditions=[
            model_service.InputRule.Condition(input=name, axis=-1 if axis is None else axis, value=value)
            for name, axis, value in rule.conditions
        ],
        reason=rule.reason,
    )


def _encode_spec(spec: TensorSpec) -> tensor_pb2.TensorSpec:
    return tensor_pb2.TensorSpec(
        name=spec.name,
        data_type=tensor_pb2.DataType.Name(spec.data_type),
        shape=[
            tensor_pb2.Dimension(size=-1, name=size) if isinstance(size, str) else tensor_pb2.Dimension(size=size)
            for size in spec.shape
        ],
        labels=spec.labels,
        batch_axis=-1 if spec.batch_axis is None else spec.batch_axis,
        any_shape=spec.any_shape,
        optional=spec.default is not None,
    )
