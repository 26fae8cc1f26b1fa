"""Writes PyTorch networks to files of every form, and gives the requests that convert these files."""

import cloudpickle
import numpy as np
import torch
from torch.export import Dim

from onnxserve_converters.sources.detection import load_source
from support import torch_nets as nets
from support.converting import request as ask


def weights(net, folder, *inputs, **options):
    """The request for a network's weights and its class."""
    torch.save(net.state_dict(), folder / "weights.pt")
    return ask(folder / "weights.pt", *inputs, class_path=f"{nets.__name__}:{type(net).__name__}", **options)


def in_memory(net, folder, *inputs):
    """The request for a network of this process."""
    (folder / "module.pickle").write_bytes(cloudpickle.dumps(net))
    return ask(folder / "module.pickle", *inputs, in_memory=True)


def script(net, folder, *inputs):
    """The request for a TorchScript file."""
    torch.jit.script(net).save(folder / "script.pt")
    return ask(folder / "script.pt", *inputs)


def program(net, folder, *inputs, arguments, keywords=None, dynamic_shapes=None):
    """The request for a program that torch.export saved."""
    made = torch.export.export(net, arguments, keywords, dynamic_shapes=dynamic_shapes)
    torch.export.save(made, folder / "program.pt2")
    return ask(folder / "program.pt2", *inputs, trust_code=True)


def loaded(asked):
    """The model of a request, loaded in this process."""
    _, model = load_source(asked)
    return model


def options(batch):
    """Arguments for nets.Options."""
    rng = np.random.default_rng(1)
    half = torch.tensor(rng.normal(size=(batch, 2)), dtype=torch.float16)
    ids = torch.tensor(rng.integers(0, 9, (batch, 2)), dtype=torch.int32)
    return (half, half > 0), {"ids": ids, "rate": torch.tensor(1.5)}


def program_with_free_axes(folder):
    """A network, the request for its program with free axes, and the axes that must be declared, inputs first."""
    net = nets.seeded(nets.Encoder)
    shape = {0: Dim("b"), 1: Dim("t")}
    arguments = (torch.zeros(3, 7, 8), torch.zeros(3, 7, dtype=torch.bool))
    shapes = {"tokens": shape, "padding": shape}
    return net, program(net, folder, arguments=arguments, dynamic_shapes=shapes), {
        "tokens": ["batch", "tokens_1", 8], "padding": ["batch", "tokens_1"],
        "output_0": ["batch", 8], "output_1": ["batch", "tokens_1", 8],
    }  # fmt: skip


def program_of_fixed_sizes(folder):
    """A network, the request that frees its program's fixed sizes, and the axes that must be declared, inputs first."""
    net = nets.seeded(nets.Options)
    positional, named = options(3)
    inputs = ("rate=float32[]", "ids=int32[batch,2]", "half=float16[batch,2]", "flags=bool[batch,2]")
    row = ["batch", 2]
    return net, program(net, folder, *inputs, arguments=(*positional, None), keywords=named | {"power": 2}), {
        "half": row, "flags": row, "ids": row, "rate": [], "powers": row, "not": row, "next": row, "twice": [],
    }  # fmt: skip
