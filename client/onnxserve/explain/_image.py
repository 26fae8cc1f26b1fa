"""Parts of an image: its pixels, and regions of them."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from onnxserve._models import TensorSpec
from onnxserve.explain._arrays import ExplainError
from onnxserve.explain._packages import load
from onnxserve.explain._served import Floats
from onnxserve.explain._switches import Switches
from onnxserve.tensor import Array

Layout = Literal["NCHW", "NHWC", "NHW"]

_CHANNELS = (1, 2, 3, 4)


class Picture:
    """An image whose pixels can be hidden, all channels of a pixel together.

    Args:
        name: the input.
        instance: the image, [1, ...] in its layout.
        layout: "NCHW", "NHWC" or "NHW"; None: guessed from the shape.
        mask: the value of hidden pixels: a number, a colour [channels] or an image of the instance's shape; None: the
            mean colour of the image.
        regions: the approximate number of regions (SLIC) for LIME to show and hide; None: none are needed.
    """

    names: tuple[str, ...] = ()

    def __init__(
        self, name: str, instance: Array, *, layout: Layout | None, mask: npt.ArrayLike | None, regions: int | None
    ) -> None:
        self._name, self._dtype = name, instance.dtype
        self._layout = layout or _layout_of(instance.shape)
        if len(self._layout) != instance.ndim:
            raise ExplainError(f"input {name!r} has the shape {list(instance.shape)}, which is not {self._layout}")
        if instance.dtype.kind not in "fiu":
            raise ExplainError(f"input {name!r} is {instance.dtype}, but pixels must be numbers")
        self._pixels = self._to_pixels(instance)
        self.shape = (self._pixels.shape[0], self._pixels.shape[1])
        self._hidden = self._mask(mask, instance.shape[1:])
        self.drawn = _drawn(self._pixels)
        cells = self.shape[0] * self.shape[1]
        self.regions = np.arange(cells) if regions is None else _regions(self.drawn, regions)

    def inputs(self, shown: Switches) -> Mapping[str, Array]:
        """Return the image for each row of switches."""
        pixels = np.where(shown.reshape(-1, *self.shape, 1), self._pixels, self._hidden)
        match self._layout:
            case "NCHW":
                pixels = pixels.transpose(0, 3, 1, 2)
            case "NHW":
                pixels = pixels[..., 0]
        return {self._name: np.ascontiguousarray(pixels)}

    def _to_pixels(self, image: Array) -> Array:
        """Return one image, [1, ...] in the layout, as [height, width, channels]."""
        only: Array = image[0]
        match self._layout:
            case "NCHW":
                return only.transpose(1, 2, 0)
            case "NHW":
                return only[..., np.newaxis]
        return only

    def _mask(self, mask: npt.ArrayLike | None, row: tuple[int, ...]) -> Array:
        if mask is None:
            colour = self._pixels.astype(np.float64).mean(axis=(0, 1))
        else:
            colour = np.asarray(mask, np.float64)
            if colour.shape == row and colour.ndim > 1:
                colour = self._to_pixels(colour[np.newaxis])
            elif colour.shape not in {(), (self._pixels.shape[2],)}:
                raise ExplainError(f"the mask has the shape {list(colour.shape)}, but the image has {list(row)}")
        if self._dtype.kind in "iu":
            limits = np.iinfo(self._dtype.name)
            colour = colour.round().clip(limits.min, limits.max)
        hidden: Array = np.broadcast_to(colour.astype(self._dtype), self._pixels.shape)
        return hidden


def is_image(spec: TensorSpec) -> bool:
    """Whether an input may be images."""
    return spec.dtype not in {"string", "bool"} and len(spec.shape) in {3, 4} and spec.batch_axis == 0


def _layout_of(shape: tuple[int, ...]) -> Layout:
    if len(shape) == 3:
        return "NHW"
    first, last = shape[1] in _CHANNELS, shape[-1] in _CHANNELS
    if len(shape) != 4 or first == last:
        raise ExplainError(f"the axis of channels in {list(shape)} is ambiguous; give layout NCHW or NHWC")
    return "NCHW" if first else "NHWC"


def _drawn(pixels: Array) -> Floats:
    """Return an image for display: [height, width], or [height, width, 3], from 0 to 1."""
    floats = pixels.astype(np.float64)
    floats -= floats.min()
    floats /= floats.max() or 1.0
    return floats[..., :3] if floats.shape[2] in {3, 4} else floats.mean(axis=2)


def _regions(image: Floats, count: int) -> npt.NDArray[np.intp]:
    if count < 2:
        raise ExplainError(f"regions must be at least 2, not {count}")
    segmentation = load("skimage.segmentation")
    # Position weighs as much as the largest difference of colours; or regions of noise would be too small, and merged.
    found = segmentation.slic(
        image,
        n_segments=count,
        compactness=1.0,
        convert2lab=False,
        start_label=0,
        channel_axis=-1 if image.ndim == 3 else None,
    )
    regions: npt.NDArray[np.intp] = np.unique(found.ravel(), return_inverse=True)[1]
    return regions.ravel()
