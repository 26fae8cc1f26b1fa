"""Makes torchvision importable beside a PyTorch that it was not built for: its operators are declared alone."""

import importlib

import torch

_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision():
    """Import torchvision, with its operators declared where its own library cannot be loaded."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", _BOXES)
        return importlib.import_module("torchvision")
