"""The calls that explain."""

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
    """An instance of which parts can be hidden."""

    shape: tuple[int, int]
    regions: npt.NDArray[np.intp]
    names: tuple[str, ...]

    def inputs(self, shown: npt.NDArray[np.bool_]) -> Inputs: ...


class Explainer:
    """Explains single predictions of a served model by SHAP or LIME.

    The rows that they ask for travel in requests of as many rows as the model's batches take, several at a time, behind
    the requests of other callers. The same call gives the same explanation, as far as the model gives the same answers.

    Args:
        client: calls the server.
        model: the model's name.
        method: "shap" or "lime".
        output: the output to explain; None: the only one, or the only one of floats.
        label: the class whose score is explained, by name or index; None: the one with the highest score.
        rows: about how many rows to send at most. None: 131072 for SHAP of tables, which uses no more than exact values
            take, 5000 for LIME of tables, 1000 for images, 2000 for text and tokens.
        seed: of what is drawn at random.
        version: the version to explain; None: the newest.
        timeout: seconds for each request; None: no limit.
        progress: called with the rows answered so far, and about how many there will be.

    Raises:
        ExplainError: there is no such method.
        OnnxserveError: the model cannot be asked for.
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
            raise ExplainError(f"there is no method {method!r}; there are {', '.join(get_args(Method))}")
        self._client, self._method, self._output, self._label = client, method, output, label
        self._rows, self._seed, self._timeout, self._progress = rows, seed, timeout, progress
        self._info = client.model(model, version, timeout=timeout)

    def table(self, inputs: Any, background: Any, *, names: Sequence[str] | None = None) -> Explanation:
        """Explain what each feature of a row contributed.

        SHAP compares with every background row. Its values are exact for up to 12 features, where `rows` suffice, and
        for a model that adds up its features, however many. LIME learns from the background how the features are
        distributed, and tells what it matters that each lies in its range.

        Args:
            inputs: one row: an array, or an array for each input by name, or a data frame of one row.
            background: rows to compare with, such as a hundred of the training data, in the same form. Inputs that it
                has not stay as they are.
            names: what to call the features; None: as the model's metadata `feature_names`, a JSON list, or the data
                frame's columns, or the inputs say.

        Raises:
            ExplainError: something does not fit the model; its text says what.
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
        return self._told(
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
        """Explain what each part of an image contributed.

        SHAP halves the image again and again, where it matters most. LIME hides regions of like colour (SLIC).

        Args:
            inputs: the image, with or without a batch axis; for a model of several inputs, each by name.
            mask: what hidden pixels show: a number, a colour of a number for each channel, or another image; None: its
                own mean colour.
            layout: "NCHW", "NHWC" or "NHW"; None: as the shape says.
            regions: about how many regions LIME cuts the image into.
            vary: the input that is the image, where several could be.

        Raises:
            ExplainError: something does not fit the model; its text says what.
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
        """Explain what each word of a text contributed, for a model that takes strings.

        Args:
            inputs: the text; for a model of several inputs, each by name.
            mask: what stands in the place of a hidden word.
            word: the regular expression of a word; what lies between words is never hidden.
            vary: the input that is the text, where several could be.

        Raises:
            ExplainError: something does not fit the model; its text says what.
            ImportError: the extra is not installed.
            OnnxserveError: a call failed.
        """
        instance = instance_of(self._info, inputs)
        name = pick(vary, [spec.name for spec in self._info.inputs if is_text(spec)], "input of one string a row")
        return self._switched("text", instance, Words(name, instance[name], mask=mask, word=word), TEXT_ROWS)

    def tokens(
        self, inputs: Any, *, mask: int, names: Sequence[str] | None = None, vary: str | None = None
    ) -> Explanation:
        """Explain what each position of a sequence of token ids contributed.

        Args:
            inputs: the ids, with or without a batch axis; for a model of several inputs, each by name.
            mask: the id that stands in the place of a hidden one: the tokenizer's mask, unknown or padding id.
            names: what to call the positions, such as the tokens' text; None: position and id.
            vary: the input that is the ids, where several could be.

        Raises:
            ExplainError: something does not fit the model; its text says what.
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
        return self._told(kind, served, found, values, names=parted.names, image=image)

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

    def _told(
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
