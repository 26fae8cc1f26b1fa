"""Explain a prediction: how much each feature, region or word of one instance moved the model's answer.

    from onnxserve import Client
    from onnxserve.explain import Explainer

    with Client("localhost:8500") as client:
        explanation = Explainer(client, "wine-sklearn", label=2).table(x[0], background=x_train)
    for name, value in explanation.top():
        print(f"{value:+.3f}  {name}")
    Path("wine.png").write_bytes(explanation.plot())

SHAP and LIME ask for the model's answers to thousands of changed rows, which are sent to the server in requests that
fill its batches. The module needs an extra: pip install 'onnxserve[explain]'.
"""

from onnxserve.explain._arrays import ExplainError
from onnxserve.explain._explainer import Explainer
from onnxserve.explain._explanation import Explanation

__all__ = ["ExplainError", "Explainer", "Explanation"]
