"""What the gallery shows: each model, the file that trains it, and how it is converted."""

from dataclasses import dataclass
from pathlib import Path

from onnxserve_converters.inputs import InputSpec, parse_input

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model.

    Attributes:
        name: of the model in the repository, and of its files.
        framework: that it was trained with.
        source: the format that it is converted from.
        script: the file of this folder that trains it.
        suffix: of the file that the script writes; "" for a folder, None where the script converts the model itself.
        takes: the inputs that the converted model must have, as InputSpec reads.
        gives: the axes that its outputs must have, by name.
        described: whether the command must describe inputs and outputs, which the other sources declare themselves.
        options: of the command, beside these.
        package: that must be installed beside the project's extras.
    """

    name: str
    framework: str
    source: str
    script: str
    suffix: str | None
    takes: tuple[str, ...]
    gives: dict[str, tuple[int | str, ...]]
    described: bool = False
    options: tuple[str, ...] = ()
    package: str | None = None

    @property
    def inputs(self) -> list[InputSpec]:
        """The inputs that the converted model must have."""
        return [parse_input(text) for text in self.takes]

    def command(self, folder: Path, repository: Path) -> list[str]:
        """Return the arguments of `onnxserve` that convert this model.

        Args:
            folder: holds the model's file.
            repository: takes the converted model, as version 1.
        """
        source, target = folder / f"{self.name}{self.suffix}", repository / self.name / "1"
        options = [option.replace("{folder}", str(folder)).replace("{gallery}", _gallery()) for option in self.options]
        if self.described:
            options += [part for text in self.takes for part in ("--input", text)]
            options += [part for name in self.gives for part in ("--output", name)]
        return ["convert", str(source), *options, "--to", str(target)]


def _gallery() -> str:
    """Return this folder as a person would write it."""
    return str(HERE.relative_to(Path.cwd()) if HERE.is_relative_to(Path.cwd()) else HERE)


_CHANNELS_FIRST = "image=float32[batch,3,32,32]"
_CHANNELS_LAST = "image=float32[batch,32,32,3]"
_STATE = ("batch", 2, 32)

ROWS = (
    Row(
        name="xor",
        framework="PyTorch",
        source="torch.export .pt2",
        script="xor_torch.py",
        suffix=".pt2",
        takes=("x=float32[batch,2]",),
        gives={"probability": ("batch", 1)},
        described=True,
        options=("--trust-code",),
    ),
    Row(
        name="xor-live",
        framework="PyTorch",
        source="live module",
        script="live_torch.py",
        suffix=None,
        takes=("x=float32[batch,2]",),
        gives={"probability": ("batch", 1)},
    ),
    Row(
        name="lenet-torch",
        framework="PyTorch",
        source="state_dict .pt",
        script="lenet_torch.py",
        suffix=".pt",
        takes=(_CHANNELS_FIRST,),
        gives={"probabilities": ("batch", 10)},
        described=True,
        options=("--class", "{gallery}/lenet_torch.py:LeNet"),
    ),
    Row(
        name="resnet-torch",
        framework="PyTorch",
        source=".safetensors",
        script="resnet_torch.py",
        suffix=".safetensors",
        takes=(_CHANNELS_FIRST,),
        gives={"logits": ("batch", 10)},
        described=True,
        options=("--class", "{gallery}/resnet_torch.py:ResNet", "--class-args", '{"width": 16}'),
    ),
    Row(
        name="lstm-torch",
        framework="PyTorch",
        source="state_dict .pth",
        script="rnn_torch.py",
        suffix=".pth",
        takes=("ids=int64[batch,time]", "h=float32[batch,2,32]", "c=float32[batch,2,32]"),
        gives={"logits": ("batch", "time", 27), "h_out": _STATE, "c_out": _STATE},
        described=True,
        options=("--class", "{gallery}/rnn_torch.py:LstmSpeller", "--range", "ids=0:26"),
    ),
    Row(
        name="gru-torch",
        framework="PyTorch",
        source="TorchScript .pt",
        script="rnn_torch.py",
        suffix=".pt",
        takes=("ids=int64[batch,time]", "h=float32[batch,2,32]"),
        gives={"logits": ("batch", "time", 27), "h_out": _STATE},
        described=True,
        options=("--range", "ids=0:26"),
    ),
    Row(
        name="transformer-torch",
        framework="PyTorch",
        source="state_dict .pt",
        script="transformer_torch.py",
        suffix=".pt",
        takes=("ids=int64[batch,time]", "mask=bool[batch,time]"),
        gives={"logits": ("batch", 4)},
        described=True,
        options=("--class", "{gallery}/transformer_torch.py:Encoder", "--range", "ids=0:3"),
    ),
    Row(
        name="classifier-keras",
        framework="Keras",
        source="whole model .h5",
        script="classifier_keras.py",
        suffix=".h5",
        takes=("measurements=float32[batch,30]",),
        gives={"benign": ("batch", 1)},
    ),
    Row(
        name="softmax-keras",
        framework="Keras",
        source=".keras, subclassed",
        script="softmax_keras.py",
        suffix=".keras",
        takes=("x=float32[batch,10]",),
        gives={"probabilities": ("batch", 10)},
        described=True,
        options=("--class", "{gallery}/softmax_keras.py:Softmax"),
    ),
    Row(
        name="softmax-live",
        framework="Keras",
        source="live model",
        script="live_keras.py",
        suffix=None,
        takes=("x=float32[batch,10]",),
        gives={"probabilities": ("batch", 10)},
    ),
    Row(
        name="lenet-keras",
        framework="Keras",
        source=".json + .weights.h5",
        script="lenet_keras.py",
        suffix=".json",
        takes=(_CHANNELS_LAST,),
        gives={"probabilities": ("batch", 10)},
        options=("--weights", "{folder}/lenet-keras.weights.h5"),
    ),
    Row(
        name="resnet-keras",
        framework="Keras",
        source=".keras",
        script="resnet_keras.py",
        suffix=".keras",
        takes=(_CHANNELS_LAST,),
        gives={"logits": ("batch", 10)},
    ),
    Row(
        name="lstm-keras",
        framework="Keras",
        source=".keras",
        script="rnn_keras.py",
        suffix=".keras",
        takes=("ids=int32[batch,time]",),
        gives={"probabilities": ("batch", 3)},
        described=True,
        options=("--range", "ids=0:26"),
    ),
    Row(
        name="gru-keras",
        framework="Keras",
        source="whole model .h5",
        script="rnn_keras.py",
        suffix=".h5",
        takes=("ids=int32[batch,time]",),
        gives={"probabilities": ("batch", 3)},
        described=True,
        options=("--range", "ids=0:26"),
    ),
    Row(
        name="transformer-keras",
        framework="Keras",
        source=".json + .weights.h5",
        script="transformer_keras.py",
        suffix=".json",
        takes=("ids=int32[batch,time]", "mask=bool[batch,time]"),
        gives={"logits": ("batch", 4)},
        described=True,
        options=(
            *("--weights", "{folder}/transformer-keras.weights.h5"),
            *("--class", "{gallery}/transformer_keras.py:Summary", "--range", "ids=0:3"),
        ),
    ),
    Row(
        name="cifar10-keras",
        framework="Keras 2",
        source="whole model .h5",
        script="cifar10_keras.py",
        suffix=".h5",
        takes=("conv2d_input=float32[batch,32,32,3]",),
        gives={"dense_2": ("batch", 10)},
        package="cifar_10_model",
    ),
    Row(
        name="diabetes-tensorflow",
        framework="TensorFlow",
        source="SavedModel",
        script="diabetes_tensorflow.py",
        suffix="",
        takes=("patient=float32[batch,10]",),
        gives={"progression": ("batch", 1)},
    ),
    Row(
        name="wine-sklearn",
        framework="scikit-learn",
        source=".joblib",
        script="wine_sklearn.py",
        suffix=".joblib",
        takes=("features=float32[batch,13]",),
        gives={"label": ("batch",), "probabilities": ("batch", 3)},
        options=("--trust-code",),
    ),
    Row(
        name="digits-onnx",
        framework="ONNX",
        source=".onnx",
        script="digits_onnx.py",
        suffix=".onnx",
        takes=(_CHANNELS_FIRST,),
        gives={"probabilities": ("batch", 10)},
    ),
)
