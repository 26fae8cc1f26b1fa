from onnxserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_STOPPED: _ClassVar[ModelState]
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_STOPPED: ModelState

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "state", "inputs", "outputs", "batching", "runtime", "metadata", "description", "rules", "left_out", "untried")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    BATCHING_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    UNTRIED_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    state: ModelState
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    batching: Batching
    runtime: Runtime
    metadata: _containers.ScalarMap[str, str]
    description: str
    rules: _containers.RepeatedCompositeFieldContainer[InputRule]
    left_out: _containers.RepeatedScalarFieldContainer[str]
    untried: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., batching: _Optional[_Union[Batching, _Mapping]] = ..., runtime: _Optional[_Union[Runtime, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., description: _Optional[str] = ..., rules: _Optional[_Iterable[_Union[InputRule, _Mapping]]] = ..., left_out: _Optional[_Iterable[str]] = ..., untried: _Optional[str] = ...) -> None: ...

class InputRule(_message.Message):
    __slots__ = ("conditions", "reason")
    class Condition(_message.Message):
        __slots__ = ("input", "axis", "value")
        INPUT_FIELD_NUMBER: _ClassVar[int]
        AXIS_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        input: str
        axis: int
        value: int
        def __init__(self, input: _Optional[str] = ..., axis: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    conditions: _containers.RepeatedCompositeFieldContainer[InputRule.Condition]
    reason: str
    def __init__(self, conditions: _Optional[_Iterable[_Union[InputRule.Condition, _Mapping]]] = ..., reason: _Optional[str] = ...) -> None: ...

class Batching(_message.Message):
    __slots__ = ("enabled", "reason", "max_rows", "max_delay_us", "max_queue_rows", "max_queue_bytes", "rows")
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_DELAY_US_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    enabled: bool
    reason: str
    max_rows: int
    max_delay_us: int
    max_queue_rows: int
    max_queue_bytes: int
    rows: RowVerdict
    def __init__(self, enabled: _Optional[bool] = ..., reason: _Optional[str] = ..., max_rows: _Optional[int] = ..., max_delay_us: _Optional[int] = ..., max_queue_rows: _Optional[int] = ..., max_queue_bytes: _Optional[int] = ..., rows: _Optional[_Union[RowVerdict, _Mapping]] = ...) -> None: ...

class RowVerdict(_message.Message):
    __slots__ = ("rows", "reason", "node")
    class Rows(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ROWS_UNSPECIFIED: _ClassVar[RowVerdict.Rows]
        ROWS_INDEPENDENT: _ClassVar[RowVerdict.Rows]
        ROWS_MEET: _ClassVar[RowVerdict.Rows]
        ROWS_DEPENDENT: _ClassVar[RowVerdict.Rows]
        ROWS_UNKNOWN: _ClassVar[RowVerdict.Rows]
    ROWS_UNSPECIFIED: RowVerdict.Rows
    ROWS_INDEPENDENT: RowVerdict.Rows
    ROWS_MEET: RowVerdict.Rows
    ROWS_DEPENDENT: RowVerdict.Rows
    ROWS_UNKNOWN: RowVerdict.Rows
    ROWS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    rows: RowVerdict.Rows
    reason: str
    node: str
    def __init__(self, rows: _Optional[_Union[RowVerdict.Rows, str]] = ..., reason: _Optional[str] = ..., node: _Optional[str] = ...) -> None: ...

class Runtime(_message.Message):
    __slots__ = ("requested_providers", "providers", "instances", "threads", "options")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUESTED_PROVIDERS_FIELD_NUMBER: _ClassVar[int]
    PROVIDERS_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    requested_providers: _containers.RepeatedScalarFieldContainer[str]
    providers: _containers.RepeatedScalarFieldContainer[str]
    instances: int
    threads: int
    options: _containers.ScalarMap[str, str]
    def __init__(self, requested_providers: _Optional[_Iterable[str]] = ..., providers: _Optional[_Iterable[str]] = ..., instances: _Optional[int] = ..., threads: _Optional[int] = ..., options: _Optional[_Mapping[str, str]] = ...) -> None: ...
