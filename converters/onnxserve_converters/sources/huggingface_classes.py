"""Chooses the class of a Hugging Face model, and loads its weights. Import it after import_transformers()."""

import importlib
import inspect
from typing import Any

import torch
import transformers

from onnxserve_converters.errors import BadRequest, one_line
from onnxserve_converters.sources.huggingface_folder import Folder

# The automatic class of each task, by the names that transformers' pipelines have for them.
_TASKS = {
    "audio-classification": "AutoModelForAudioClassification",
    "automatic-speech-recognition": "AutoModelForCTC",
    "depth-estimation": "AutoModelForDepthEstimation",
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "image-classification": "AutoModelForImageClassification",
    "image-feature-extraction": "AutoModel",
    "image-segmentation": "AutoModelForSemanticSegmentation",
    "object-detection": "AutoModelForObjectDetection",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
    "token-classification": "AutoModelForTokenClassification",
    "zero-shot-image-classification": "AutoModelForZeroShotImageClassification",
}
_TOWERS = {"feature-extraction": "Text", "image-feature-extraction": "Vision"}  # of models of texts and images
_POOLER = "pooler."
_IN_TRAINING = ("masked_spec_embed", "mask_token")  # the ends of names of weights without which a model answers alike
_SHOWN = 3  # names of weights in a message


def load_model(folder: Folder, task: str | None) -> tuple[Any, list[str]]:
    """Return the model of a directory, in float32 and without cache, and notes on it.

    Args:
        folder: its directory.
        task: one of the tasks of transformers' pipelines; None: the architecture that config.json names.

    Raises:
        BadRequest: the task or the architecture is unknown, or the directory lacks weights of it.
    """
    config = _config(folder)
    kind = _architecture(folder, config) if task is None else _class_of_task(folder, config, task)
    model, notes = _loaded(folder, kind, config)
    stored = getattr(config, "dtype", None)
    if stored not in (None, torch.float32):
        notes.append(f"the weights are stored as {str(stored).removeprefix('torch.')} and computed with in float32")
    if _decodes(model):
        notes.append(
            f"{type(model).__name__} writes its answer step by step with a decoder, which is not converted: "
            "this is its encoder"
        )
        model = model.get_encoder()
    if (folder.path / "modules.json").is_file():
        notes.append("modules.json: this is the transformer alone; pooling and normalization are left to the caller")
    return model.eval(), notes


def _config(folder: Folder) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of a dozen classes
        raise BadRequest(
            f"{folder.path}: transformers {transformers.__version__} cannot read config.json: {one_line(error)}; "
            "update transformers if the model is newer"
        ) from error
    parts = [getattr(config, name) for name in getattr(config, "sub_configs", ()) if hasattr(config, name)]
    for part in (config, *parts):
        if getattr(part, "use_cache", False):
            part.use_cache = False
        part.return_dict = True
    return config


def _architecture(folder: Folder, config: Any) -> Any:
    """Return the class that the configuration names; without one the model without a head."""
    names = folder.config.get("architectures") or []
    if not names:
        return transformers.AutoModel
    kind = _of_family(config, str(names[0]))
    if kind is None:
        raise BadRequest(
            f"{folder.path}: config.json names the architecture {names[0]}, which transformers "
            f"{transformers.__version__} does not have for the model type {config.model_type}; update transformers, "
            f"or name a task with --task: {', '.join(_TASKS)}"
        )
    return kind


def _class_of_task(folder: Folder, config: Any, task: str) -> Any:
    if task not in _TASKS:
        raise BadRequest(f"--task {task}: unknown task; expected one of {', '.join(_TASKS)}")
    if task in _TOWERS and hasattr(config, "text_config") and hasattr(config, "vision_config"):
        stem = type(config).__name__.removesuffix("Config") + _TOWERS[task]
        tower = _of_family(config, f"{stem}ModelWithProjection") or _of_family(config, f"{stem}Model")
        if tower is not None:
            return tower
    mapping = getattr(transformers, _TASKS[task])
    if type(config) not in mapping._model_mapping:
        raise BadRequest(
            f"--task {task}: transformers has no {config.model_type} for it; leave --task out for the architecture "
            f"that {folder.path}/config.json names"
        )
    return mapping


def _of_family(config: Any, name: str) -> Any:
    """Return a class of the module that has the models of a configuration; None where it has none of that name."""
    module = importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    kind = getattr(module, name, None)
    return kind if inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel) else None


def _loaded(folder: Folder, kind: Any, config: Any) -> tuple[Any, list[str]]:
    """Return a model with all its weights, and what was left out."""
    config, notes = _of_tower(kind, config), []
    model, info = _from_pretrained(folder, kind, config)
    if info["missing_keys"] and all(_POOLER in key for key in info["missing_keys"]):
        notes.append("the directory has no weights of a pooler: the model is without one")
        model, info = _from_pretrained(folder, kind, config, add_pooling_layer=False)
    name, more = type(model).__name__, sorted(info["unexpected_keys"])
    missing = sorted(key for key in info["missing_keys"] if not key.endswith(_IN_TRAINING))
    if missing:
        instead = f", and has {_listed(more)} instead" if more else ""
        raise BadRequest(
            f"{folder.path}: {name} needs weights that the directory lacks: {_listed(missing)}{instead}; choose the "
            "task that the model was trained for with --task, or leave --task out for what config.json names"
        )
    if more:
        notes.append(f"{name} has no use for these weights of the directory: {_listed(more)}")
    return model, notes


def _from_pretrained(folder: Folder, kind: Any, config: Any, **options: Any) -> tuple[Any, Any]:
    try:
        return kind.from_pretrained(  # type: ignore[no-any-return]
            folder.path,
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",  # another could be one of the hub's, and would be fetched
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # of a dozen classes
        raise BadRequest(
            f"{folder.path}: transformers cannot load {kind.__name__} from it: {one_line(error)}"
        ) from error


def _of_tower(kind: Any, config: Any) -> Any:
    """Return the part of a configuration that a class takes: the whole one, or that of a tower."""
    wanted = getattr(kind, "config_class", None)
    for part in ("text_config", "vision_config"):
        tower = getattr(config, part, None)
        if tower is not None and wanted is type(tower) and wanted is not type(config):
            if hasattr(tower, "projection_dim"):  # which the whole configuration decides
                tower.projection_dim = config.projection_dim
            return tower
    return config


def _decodes(model: Any) -> bool:
    """Whether a model answers with a decoder that is run step by step, so not one with a head of classes."""
    takes = inspect.signature(model.forward).parameters
    by_steps = type(model).__name__.endswith(("ForConditionalGeneration", "Model"))
    return by_steps and "decoder_input_ids" in takes


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")
