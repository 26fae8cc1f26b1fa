"""Small PyTorch networks, each with one property that a converter must cope with."""

import dataclasses

import torch
from torch import nn


class Convolution(nn.Module):
    """image [batch, 1, 8, 8] to scores [batch, classes]."""

    def __init__(self, classes=3):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(36, classes)

    def forward(self, image):
        return self.head(self.features(image).flatten(1))


class Residual(nn.Module):
    """image [batch, 3, 16, 16] to scores [batch, 5] through two residual blocks, with names like those of a ResNet."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)))
        self.fc = nn.Linear(8, 5)

    def forward(self, image):
        x = self.bn1(self.conv1(image)).relu()
        for convolution in self.layer1:
            x = x + convolution(x).relu()
        return self.fc(x.mean((2, 3)))


class Tied(nn.Module):
    """ids [batch, time] to scores [batch, time, 11], by the weights of the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.embedding(ids))


class Recurrent(nn.Module):
    """ids [batch, time] through an LSTM and a GRU of two layers, whose states [2, batch, 8] go in and come out."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True)
        self.gru = nn.GRU(8, 8, num_layers=2, batch_first=True)

    def forward(self, ids, h0, c0, g0):
        hidden, (h, c) = self.lstm(self.embedding(ids), (h0, c0))
        hidden, g = self.gru(hidden, g0)
        return {"embedding": hidden, "state": (h, c, g)}


class Encoder(nn.Module):
    """tokens [batch, time, 8] with padding [batch, time] (True: ignored) to a vector [batch, 8] and all positions."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, tokens, padding):
        hidden = self.encoder(tokens, src_key_padding_mask=padding)
        return hidden.mean(1), hidden


class Colliding(nn.Module):
    """Two inputs [batch, 4], with weights and inner values whose names a caller may give to inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.linear = nn.Linear(4, 4)

    def forward(self, x, y):
        inner = x @ self.weight
        return self.linear(inner) + y, inner, inner, x


class Options(nn.Module):
    """Inputs [batch, 2] of four dtypes, by position and by keyword, one of which may be left out; and a number."""

    def forward(self, half, flags, scale=None, *, ids, rate, power=2):
        powers = half**power * rate.to(half.dtype)
        return {
            "powers": powers if scale is None else powers * scale,
            "not": ~flags,
            "next": ids + 1,
            "twice": rate * 2,
        }


@dataclasses.dataclass
class Pair:
    left: torch.Tensor
    right: torch.Tensor | None


class Nested(nn.Module):
    """x to tensors in a dict, a tuple, a list and a dataclass, with None here and there and a name that comes twice."""

    def forward(self, x):
        return {"a": x + 1, "none": None, "b": (x + 2, [x + 3, None]), "b_0": x + 4, "pair": Pair(x + 5, None)}


class Number(nn.Module):
    """It returns a number beside a tensor."""

    def forward(self, x):
        return x, x.shape[0]


class Half(nn.Module):
    """It returns bfloat16, which numpy lacks."""

    def forward(self, x):
        return x.to(torch.bfloat16)


class Nothing(nn.Module):
    """It returns None."""

    def forward(self, x):
        return None


class Power(nn.Module):
    """It takes a number beside a tensor."""

    def forward(self, x, exponent):
        return x**exponent


class InPlace(nn.Module):
    """It changes its input in place, and returns memory that it uses again."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x):
        self.total += x.add_(1)
        return self.total


class Frozen(nn.Module):
    """The mean over time of x [batch, time, 4]; exporters record the length that was last run."""

    def forward(self, x):
        if not (torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()):
            self.length = x.shape[1]
        return x.reshape(x.shape[0], self.length, 4).mean(1)


class Perturbed(nn.Module):
    """A linear layer with the outputs good and bad; both exporters record another weight for bad."""

    def __init__(self):
        super().__init__()
        self.good, self.bad = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
        weight = self.bad.weight * 1.01 if exporting else self.bad.weight
        return {"good": self.good(x), "bad": nn.functional.linear(x, weight)}


class Branching(nn.Module):
    """Its operations depend on its values: an exporter that traces an example sees one branch of two."""

    def forward(self, x):
        return x + 1 if x.sum() > 1000 else x - 1


class Elman(nn.Module):
    """x [batch, time, 6] to scores [batch, time, 3]; torch.export unrolls nn.RNN, and the older exporter does not."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class Script(nn.Module):
    """An LSTM with its state going in and coming out, written as torch.jit.script takes it."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)

    def forward(self, x, h0, c0):
        hidden, (h, c) = self.lstm(x, (h0, c0))
        return hidden, h, c


def seeded(make, *arguments):
    """Make a network for inference, with the same weights each time."""
    torch.manual_seed(0)
    return make(*arguments).eval()
