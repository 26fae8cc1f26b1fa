"""The public calls that explain a prediction."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, get_args

import numpy as np
import numpy.typing as npt

from onnxserve._base import DEFAULT_TIMEOUT
from onnxserve._client import Client
from onnxserve.explain._arrays import ExplainError, background_of, instance_of, pick
from onnxserve.explain._explanation import Explanation, Kind, Method
from onnxserve.explain._image import Layout, Picture, is_image
from onnxserve.explain._served import Floats, Inputs, Progress, Served
from onnxserve.explain._switches import Contributions, explain_switches
from onnxserve.explain._table import LIME_ROWS, SHAP_ROWS, Table
from onnxserve.explain._text import WORD, Tokens, Words, is_text, is_tokens

IMAGE_ROWS = 1000
TEXT_ROWS = 2000
REGIONS = 64


class _Parted(Protocol):
    """An instance whose parts can be hidden."""

    shape: tuple[int, int]
    regions: npt.NDArray[np.intp]
    names: tuple[str, ...]

    def inputs(self, shown: npt.NDArray[np.bool_]) -> Inputs: ...


class Explainer:
    """Explains single predictions of a served model by SHAP or LIME.

    Both ask for the model's answers to many changed rows. These are sent in requests of as many rows as the model's
    batches hold, several at a time, with a lower priority than other callers' requests. The same call gives the same
    explanation, as far as the model gives the same answers.

    Args:
        client: the client that calls the server.
        model: the model's name.
        method: "shap" or "lime".
        output: the output to explain; None: the only one, or the only one of floats.
        label: the class whose score is explained, by name or index; None: the class with the highest score.
        rows: the approximate limit of rows to send. None: 131072 for SHAP of tables, which sends no more than exact
            values need, 5000 for LIME of tables, 1000 for images, 2000 for text and tokens.
        seed: the seed of random draws.
        version: the version to explain; None: the newest.
        timeout: seconds for each request; None: no limit.
        progress: called with the number of rows answered so far, and the approximate total.

    Raises:
        ExplainError: the method is unknown.
        OnnxserveError: the server cannot describe the model.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        *,
        method: Method = "shap",
        output: str | None = None,
        label: str | int | None = None,
        rows: int | None = None,
        seed: int = 0,
        version: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        progress: Progress | None = None,
    ) -> None:
        if method not in get_args(Method):
            raise ExplainError(f"unknown method {method!r}; the methods are {', '.join(get_args(Method))}")
        self._client, self._method, self._output, self._label = client, method, output, label
        self._rows, self._seed, self._timeout, self._progress = rows, seed, timeout, progress
        self._info = client.model(model, version, timeout=timeout)

    def table(self, inputs: Any, background: Any, *, names: Sequence[str] | None = None) -> Explanation:
        """Explain the contribution of each feature of a row.

        SHAP compares the row with every background row. Its values are exact for up to 12 features, if `rows` suffice,
        and for a model that adds up its features, for any number of them. LIME learns the distribution of the features
        from the background, and explains the effect of each feature being in its range.

        Args:
            inputs: one row: an array, or an array for each input by name, or a data frame of one row.
            background: rows to compare with, such as a hundred of the training data, in the same form. Inputs without
                background rows stay unchanged.
            names: the names of the features; None: those of the model's metadata `feature_names` (a JSON list), or the
                data frame's columns, or the inputs.

        Raises:
            ExplainError: an argument does not fit the model; the message says which.
            ImportError: the extra is not installed.
            OnnxserveError: a call failed.
        """
        instance = instance_of(self._info, inputs)
        if names is None and len(self._info.inputs) == 1 and hasattr(background, "columns"):
            names = [str(name) for name in background.columns]
        table = Table(self._info, instance, background_of(self._info, background), names)
        served = self._served(instance)
        if self._method == "shap":
            found, used = table.shap(served, rows=self._rows or SHAP_ROWS, seed=self._seed)
            conditions = table.conditions()
        else:
            found, conditions = table.lime(served, rows=self._rows or LIME_ROWS, seed=self._seed)
            used = table.background_rows
        return self._explanation(
            "table", served, found, found.values, names=table.names, conditions=conditions, background_rows=used
        )

    def image(
        self,
        inputs: Any,
        *,
        mask: npt.ArrayLike | None = None,
        layout: Layout | None = None,
        regions: int = REGIONS,
        vary: str | None = None,
    ) -> Explanation:
        """Explain the contribution of each part of an image.

        SHAP halves the image again and again where it matters most. LIME hides regions of similar colour (SLIC).

        Args:
            inputs: the image, with or without a batch axis; for a model of several inputs, each by name.
            mask: the value of hidden pixels: a number, a colour with a number for each channel, or another image; None:
                the mean colour of the image.
            layout: "NCHW", "NHWC" or "NHW"; None: guessed from the shape.
            regions: the approximate number of regions that LIME cuts the image into.
            vary: the name of the input that is the image, if several inputs could be.

        Raises:
            ExplainError: an argument does not fit the model; the message says which.
            ImportError: the extra is not installed.
            OnnxserveError: a call failed.
        """
        instance = instance_of(self._info, inputs)
        name = pick(vary, [spec.name for spec in self._info.inputs if is_image(spec)], "input of images")
        cut = regions if self._method == "lime" else None
        picture = Picture(name, instance[name], layout=layout, mask=mask, regions=cut)
        explanation = self._switched("image", instance, picture, IMAGE_ROWS, image=picture.drawn)
        return explanation if cut is None else replace(explanation, regions=picture.regions.reshape(picture.shape))

    def text(self, inputs: Any, *, mask: str = "", word: str = WORD, vary: str | None = None) -> Explanation:
        """Explain the contribution of each word of a text, for a model that takes strings.

        Args:
            inputs: the text; for a model of several inputs, each by name.
            mask: the text that replaces a hidden word.
            word: the regular expression of a word; text between words is never hidden.
            vary: the name of the input that is the text, if several inputs could be.

        Raises:
            ExplainError: an argument does not fit the model; the message says which.
            ImportError: the extra is not installed.
            OnnxserveError: a call failed.
        """
        instance = instance_of(self._info, inputs)
        name = pick(vary, [spec.name for spec in self._info.inputs if is_text(spec)], "input of one string a row")
        return self._switched("text", instance, Words(name, instance[name], mask=mask, word=word), TEXT_ROWS)

    def tokens(
        self, inputs: Any, *, mask: int, names: Sequence[str] | None = None, vary: str | None = None
    ) -> Explanation:
        """Explain the contribution of each position of a sequence of token ids.

        Args:
            inputs: the ids, with or without a batch axis; for a model of several inputs, each by name.
            mask: the id that replaces a hidden one, such as the tokenizer's mask, unknown or padding id.
            names: the names of the positions, such as the tokens' text; None: position and id.
            vary: the name of the input that is the ids, if several inputs could be.

        Raises:
            ExplainError: an argument does not fit the model; the message says which.
            ImportError: the extra is not installed.
            OnnxserveError: a call failed.
        """
        instance = instance_of(self._info, inputs)
        name = pick(vary, [spec.name for spec in self._info.inputs if is_tokens(spec)], "input of token ids")
        return self._switched("tokens", instance, Tokens(name, instance[name], mask=mask, names=names), TEXT_ROWS)

    def _switched(
        self, kind: Kind, instance: Inputs, parted: _Parted, rows: int, image: Floats | None = None
    ) -> Explanation:
        served = self._served(instance)
        rows = served.expected = rows if self._rows is None else self._rows

        def score(shown: npt.NDArray[np.bool_]) -> Floats:
            return served(len(shown), lambda first, last: parted.inputs(shown[first:last]))

        found = explain_switches(
            score, self._method, shape=parted.shape, regions=parted.regions, rows=rows, seed=self._seed
        )
        values = found.values if image is None else found.values.reshape(parted.shape)
        return self._explanation(kind, served, found, values, names=parted.names, image=image)

    def _served(self, instance: Inputs) -> Served:
        return Served(
            self._client,
            self._info,
            instance,
            output=self._output,
            label=self._label,
            timeout=self._timeout,
            progress=self._progress,
        )

    def _explanation(
        self, kind: Kind, served: Served, found: Contributions, values: Floats, *, names: tuple[str, ...], **fields: Any
    ) -> Explanation:
        return Explanation(
            kind=kind,
            method=self._method,
            model=self._info.name,
            version=self._info.version,
            output=served.output,
            index=served.index,
            label=served.label,
            prediction=served.prediction,
            base=found.base,
            values=values,
            names=names,
            fit=found.fit,
            rows=served.rows,
            requests=served.requests,
            batch_rows=served.batch_rows,
            seed=self._seed,
            **fields,
        )
