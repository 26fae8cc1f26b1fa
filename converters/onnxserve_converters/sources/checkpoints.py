"""Finds the weights of a class in a checkpoint: its entry, the prefix of its keys, and weights that the class ties."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from onnxserve_converters.errors import BadRequest

_MAX_DEPTH = 3  # of entries in entries, such as {"ema": {"model": {"state_dict": ...}}}
_MAX_SHOWN = 3  # keys in a message
_MIN_LIKENESS = 0.4  # difflib's ratio of two keys, from which on one is named beside the other

# What torch.compile, FSDP and activation checkpointing add to the keys of the modules that they wrap.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")

_AVERAGES = "n_averaged"  # torch.optim.swa_utils.AveragedModel counts its updates in it

Weights = Mapping[str, Any]


def fitting_weights(module: nn.Module, content: Mapping[Any, Any], choice: str | None) -> tuple[Weights, list[str]]:
    """Return a module's weights under its own keys, and notes on what was recognized.

    Args:
        module: of the class.
        content: of the file: a state_dict, or a checkpoint that has one among its entries.
        choice: the name of an entry, such as "ema", or of the part of a larger model; None: the entry that fits best
            and, of those, not a moving average.

    Raises:
        BadRequest: there are no weights, none of that name, or several fit equally well.
    """
    own = module.state_dict()
    entries = dict(_entries(content))
    if not (own or content):
        return {}, []
    if not entries:
        keys = ", ".join(map(repr, list(content)[:_MAX_SHOWN])) or "nothing"
        raise BadRequest(f"there are no weights in it: it contains {keys}; save the model's state_dict()")
    if choice is not None:
        entries = _chosen(entries, choice)
    scores = {name: _best_prefix(own, held, choice)[1] for name, held in entries.items()}
    best = [name for name in entries if scores[name] == max(scores.values())]
    plain = [name for name in best if not _is_average(name)] or best
    if len(plain) > 1 and scores[plain[0]]:
        raise BadRequest(f"its entries {_shown(plain)} fit equally well; choose one with --weights {plain[0]}")
    name = max(plain, key=lambda name: len(entries[name]))  # where none fits, the largest tells most
    notes = [f"the weights were taken from the file's entry {name!r}"] if name else []
    if choice is None and (averages := [other for other in entries if _is_average(other) and other != name]):
        notes.append(f"the file has moving averages of the weights too; --weights {averages[0]} converts them")
    weights, more = _renamed(own, entries[name], choice)
    tied, of_ties = _tied(module, weights)
    return ({**weights, **tied} if tied else weights), [*notes, *more, *of_ties]


def fault(own: Weights, held: Weights) -> str | None:
    """Return how the keys and shapes of a class and a file differ; None where they agree."""
    missing = [key for key in own if key not in held]
    surplus = [key for key in held if key not in own]
    parts = []
    if missing:
        pairs = [f"{key!r}{_nearest(key, surplus)}" for key in missing[:_MAX_SHOWN]]
        parts.append(f"the file lacks {', '.join(pairs)} ({len(missing)} of the class's {len(own)} weights)")
    if surplus:
        parts.append(f"the class lacks {_shown(surplus)} ({len(surplus)} of the file's {len(held)} weights)")
    differing = [
        f"{key!r} has shape {list(getattr(held[key], 'shape', ()))} in the file, but {list(tensor.shape)} in the class"
        for key, tensor in own.items()
        if key in held and isinstance(tensor, torch.Tensor) and tensor.shape != getattr(held[key], "shape", None)
    ]
    if differing:
        more = f" (and {len(differing) - 1} more shapes differ)" if len(differing) > 1 else ""
        parts.append(differing[0] + more)
    return "; ".join(parts) or None


def _entries(content: Mapping[Any, Any], name: str = "", depth: int = 0) -> Iterator[tuple[str, Weights]]:
    """Yield the mappings of tensors by name in a checkpoint, by the keys that lead to them with dots between."""
    if any(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()):
        holds_more = any(isinstance(value, Mapping) for value in content.values())
        tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
        yield name, tensors if holds_more else content  # that itself has the versions of its layers too
    if depth == _MAX_DEPTH:
        return
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            yield from _entries(value, f"{name}.{key}" if name else key, depth + 1)


def _chosen(entries: Mapping[str, Weights], choice: str) -> dict[str, Weights]:
    """Return the entries that a choice names: one of this name, moving averages for "ema", or those with this part."""
    if choice in entries:
        return {choice: entries[choice]}
    if choice == "ema" and (averages := {name: held for name, held in entries.items() if _is_average(name)}):
        return averages
    inside = {name: held for name, held in entries.items() if name.startswith(f"{choice}.")}
    inside = inside or {name: held for name, held in entries.items() if any(k.startswith(f"{choice}.") for k in held)}
    if not inside:
        raise BadRequest(f"--weights {choice}: no such entry; it has weights in {_shown(list(entries))}")
    return inside


def _is_average(name: str) -> bool:
    return any("ema" in part.split("_") or part == "shadow" for part in name.lower().split("."))


def _renamed(own: Weights, held: Weights, choice: str | None) -> tuple[Weights, list[str]]:
    """Return weights without what wrappers put before the class's keys, and notes on what was taken away."""
    bare = _unwrapped(own, held)
    prefix, _ = _best_prefix(own, held, choice)
    notes = [f"{wrapper!r} was removed from keys" for wrapper in _WRAPPERS if bare is not held and _has(held, wrapper)]
    if not prefix:
        return bare, notes
    parted = choice is not None and prefix.startswith(f"{choice}.")
    weights = {key.removeprefix(prefix): value for key, value in bare.items() if key.startswith(prefix) or not parted}
    if weights.keys() - own.keys() == {_AVERAGES}:
        del weights[_AVERAGES]
        notes.append(f"{_AVERAGES!r}, a count of averaged models, was left aside")
    return weights, [*notes, f"the prefix {prefix!r} was removed from keys"]


def _unwrapped(own: Weights, held: Weights) -> Weights:
    wrappers = [wrapper for wrapper in _WRAPPERS if _has(held, wrapper) and not _has(own, wrapper)]
    bare = held
    for wrapper in wrappers:
        bare = {str(key).replace(wrapper, ""): value for key, value in bare.items()}
    return bare if len(bare) == len(held) else held


def _has(weights: Weights, part: str) -> bool:
    return any(part in str(key) for key in weights)


def _best_prefix(own: Weights, held: Weights, choice: str | None = None) -> tuple[str, int]:
    """Return what stands before most of the class's keys in a file, and the number of keys that it leads to.

    Raises:
        BadRequest: two parts of the file have all the keys.
    """
    counts: Counter[str] = Counter()
    keys = [str(key) for key in _unwrapped(own, held)]
    for key in keys:
        parts = key.split(".")
        counts.update(".".join([*parts[:i], ""]) if i else "" for i in range(len(parts)) if ".".join(parts[i:]) in own)
    if choice is not None and any(prefix.startswith(f"{choice}.") for prefix in counts):
        counts = Counter({prefix: n for prefix, n in counts.items() if prefix.startswith(f"{choice}.")})
    if not counts:
        return "", 0
    found = max(counts.values())
    best = [prefix for prefix, count in counts.items() if count == found]
    if "" in best:
        return "", found
    if len(best) > 1 and found >= len(own):
        raise BadRequest(f"its parts {_shown(best)} fit equally well; choose one with --weights {best[0][:-1]}")
    return best[0], found


def _tied(module: nn.Module, held: Weights) -> tuple[dict[str, Any], list[str]]:
    """Return the weights that a file leaves out because the class shares one parameter under several names."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    filled, notes = {}, []
    for group in names.values():
        present = [name for name in group if name in held]
        for name in [name for name in group if name not in held and present]:
            filled[name] = held[present[0]]
            notes.append(f"{name!r} was taken from {present[0]!r}, with which the class ties it")
    return filled, notes


def _nearest(key: str, others: list[str]) -> str:
    near = difflib.get_close_matches(key, map(str, others), n=1, cutoff=_MIN_LIKENESS)
    return f" (has {near[0]!r})" if near else ""


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(map(repr, names[:_MAX_SHOWN])) + more
