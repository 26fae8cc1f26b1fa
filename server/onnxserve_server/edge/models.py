"""ModelService: tell which models there are."""

from typing import NoReturn

import grpc

from onnxserve.v1 import model_service_pb2 as model_service
from onnxserve.v1 import model_service_pb2_grpc
from onnxserve_server.edge.onnxserve_v1 import encode_model
from onnxserve_server.edge.status import status_of
from onnxserve_server.engine.engine import Engine
from onnxserve_server.errors import ServeError


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Answers from what the engine serves."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ListModels(
        self, request: model_service.ListModelsRequest, context: grpc.ServicerContext
    ) -> model_service.ListModelsResponse:
        """Return every version of every model."""
        return model_service.ListModelsResponse(models=[encode_model(model.spec) for model in self._engine.models()])

    def GetModel(
        self, request: model_service.GetModelRequest, context: grpc.ServicerContext
    ) -> model_service.GetModelResponse:
        """Return one model."""
        try:
            return model_service.GetModelResponse(model=encode_model(self._engine.spec(request.model, request.version)))
        except ServeError as error:
            _abort(context, error)


def _abort(context: grpc.ServicerContext, error: ServeError) -> NoReturn:
    code, details, trailing_metadata = status_of(error)
    context.set_trailing_metadata(tuple(trailing_metadata))
    context.abort(code, details)
    raise AssertionError("abort() raises")
