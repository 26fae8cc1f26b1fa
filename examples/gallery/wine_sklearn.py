"""A scikit-learn pipeline, standard scaler and logistic regression, that predicts the grower of a wine: a .joblib file.

From the repository's root:

    python examples/gallery/wine_sklearn.py
    onnxserve convert build/gallery/wine-sklearn.joblib --trust-code --to models/wine-sklearn
"""

from pathlib import Path

import joblib
from data import wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from training import must_reach, parse_folder, write_answers


def train(x, y) -> Pipeline:
    """Return a pipeline from analyses float32 [batch, 13] to one of three growers."""
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)


def main(folder: Path) -> None:
    """Write wine-sklearn.joblib."""
    data = wine()
    pipeline = train(data.x, data.y)
    must_reach(
        "pipeline of scikit-learn, accuracy on held-out wines", pipeline.score(data.held_out_x, data.held_out_y), 0.95
    )

    def run(feeds):
        return {
            "label": pipeline.predict(feeds["features"]),
            "probabilities": pipeline.predict_proba(feeds["features"]).astype("float32"),
        }

    joblib.dump(pipeline, folder / "wine-sklearn.joblib")
    write_answers(folder / "wine-sklearn.npz", run, [{"features": data.held_out_x[:rows]} for rows in (5, 17)])


if __name__ == "__main__":
    main(parse_folder(__doc__))
