"""Kinds of scikit-learn estimator, to be trained on tables as people have them.

The tables have gaps, a column near 1e6, a tiny one, a constant one, strings of few and of many values, and rare
classes.
"""

import numpy as np
import pandas
from sklearn import (
    cluster,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_selection,
    gaussian_process,
    linear_model,
    mixture,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    preprocessing,
    svm,
    tree,
)
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

ROWS = 400
_RNG = np.random.default_rng(5)
_AGE = _RNG.normal(40, 12, ROWS)
_INCOME = 1e6 + _RNG.normal(0, 1e4, ROWS)
_RATE = _RNG.gamma(2, 1e-3, ROWS)
_VISITS = _RNG.poisson(3, ROWS).astype(float)
FULL = np.column_stack([_AGE, _INCOME, _RATE, np.full(ROWS, 7.0), _VISITS])
GAPS = np.where((_RNG.random(FULL.shape) < 0.15) & ~np.isin(np.arange(5), [3]), np.nan, FULL)
CITY = _RNG.choice(["Köln", "Rome", "Oslo", "New York"], ROWS, p=[0.6, 0.3, 0.08, 0.02]).astype(object)
CODE = np.array([f"K{n:03}" for n in _RNG.integers(0, 90, ROWS)], dtype=object)
_SCORE = (_AGE - 40) / 12 + (_INCOME - 1e6) / 1e4 + (CITY == "Rome") + 0.3 * _RNG.normal(size=ROWS)
RARE = (np.quantile(_SCORE, 0.93) < _SCORE).astype(int)
THREE = np.array(["low", "middle", "high"])[np.digitize(_SCORE, np.quantile(_SCORE, [0.5, 0.94]))]
TARGET = 1e4 * _SCORE + 5e5
COUNTS = _RNG.poisson(np.exp(0.5 * (_AGE - 40) / 12))
FAR = np.c_[_AGE, 1e6 + _SCORE + 0.1 * _RNG.normal(size=ROWS)]  # near 1e6, and its spread is 1
FRAME = pandas.DataFrame({"age": _AGE, "income": _INCOME, "city": CITY, "code": CODE})
CITY_GAPS = CITY.copy()
CITY_GAPS[_RNG.random(ROWS) < 0.1] = None


NUMBERS = FULL[:, [0, 1, 2]]
POSITIVE = FULL[:, [0, 2, 4]]


def scaled(last):
    return make_pipeline(StandardScaler(), last)


def filled(last):
    return make_pipeline(SimpleImputer(), StandardScaler(), last)


def by_column(encoder, last, numbers=None):
    columns = [("numbers", numbers or StandardScaler(), ["age", "income"]), ("strings", encoder, ["city", "code"])]
    return make_pipeline(ColumnTransformer(columns), last)


def forest(**more):
    return ensemble.RandomForestClassifier(10, random_state=0, **more)


def both():
    return [("logistic", scaled(LogisticRegression())), ("forest", forest(min_samples_leaf=3))]


def categories_and_boosting():
    columns = [("codes", preprocessing.OrdinalEncoder(), ["city", "code"])]
    boosting = ensemble.HistGradientBoostingRegressor(max_iter=10, categorical_features=[0, 1])
    return make_pipeline(ColumnTransformer(columns, remainder="passthrough"), boosting)


KINDS = {
    "logistic regression": (scaled(LogisticRegression()), FULL, RARE),
    "imputed": (filled(LogisticRegression()), GAPS, THREE),
    "stochastic gradient": (scaled(linear_model.SGDClassifier(loss="log_loss", random_state=0)), FULL, THREE),
    "ridge classifier": (filled(linear_model.RidgeClassifier()), GAPS, THREE),
    "linear support vectors": (scaled(svm.LinearSVC()), FULL, THREE),
    "support vectors": (scaled(svm.SVC()), FULL, THREE),
    "calibrated by a sigmoid": (CalibratedClassifierCV(scaled(svm.LinearSVC()), cv=2), FULL, RARE),
    "calibrated by steps": (CalibratedClassifierCV(forest(), method="isotonic", cv=2), FULL, RARE),
    "neighbours": (scaled(neighbors.KNeighborsClassifier(5)), FULL, THREE),
    "Gaussian naive Bayes": (naive_bayes.GaussianNB(), FULL[:, [0, 1, 2, 4]], THREE),
    "Bernoulli naive Bayes": (scaled(naive_bayes.BernoulliNB()), FULL, THREE),
    "multinomial naive Bayes": (make_pipeline(MinMaxScaler(clip=True), naive_bayes.MultinomialNB()), FULL, THREE),
    "linear discriminant": (discriminant_analysis.LinearDiscriminantAnalysis(), FULL, THREE),
    "quadratic discriminant": (discriminant_analysis.QuadraticDiscriminantAnalysis(reg_param=0.1), NUMBERS, THREE),
    "decision tree": (tree.DecisionTreeClassifier(max_depth=6, random_state=0), GAPS, THREE),
    "random forest": (forest(), GAPS, THREE),
    "extra trees": (ensemble.ExtraTreesClassifier(10, random_state=0), GAPS, RARE),
    "gradient boosting": (ensemble.GradientBoostingClassifier(n_estimators=10, random_state=0), FULL, THREE),
    "histogram boosting": (ensemble.HistGradientBoostingClassifier(max_iter=10), GAPS, THREE),
    "ada boost": (ensemble.AdaBoostClassifier(n_estimators=10, random_state=0), FULL, THREE),
    "bagging": (ensemble.BaggingClassifier(tree.DecisionTreeClassifier(), 5, random_state=0), FULL, THREE),
    "voting": (ensemble.VotingClassifier(both(), voting="soft"), FULL, THREE),
    "stacking": (ensemble.StackingClassifier(both(), cv=2), FULL, THREE),
    "neural network": (filled(MLPClassifier((8,), max_iter=100, random_state=0)), GAPS, THREE),
    "one against the rest": (scaled(multiclass.OneVsRestClassifier(LogisticRegression())), FULL, THREE),
    "one-hot strings": (by_column(OneHotEncoder(), LogisticRegression()), FRAME, THREE),
    "unknown strings": (
        by_column(OneHotEncoder(handle_unknown="ignore", min_frequency=3), LogisticRegression()),
        FRAME,
        RARE,
    ),
    "ordinal strings": (
        by_column(
            preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
            forest(),
            numbers="passthrough",
        ),
        FRAME,
        THREE,
    ),
    "target encoded strings": (
        by_column(preprocessing.TargetEncoder(cv=2, random_state=0), LogisticRegression()),
        FRAME,
        RARE,
    ),
    "strings with gaps": (
        make_pipeline(
            SimpleImputer(missing_values=None, strategy="most_frequent"), OneHotEncoder(), LogisticRegression()
        ),
        CITY_GAPS[:, None],
        RARE,
    ),
    "linear regression": (linear_model.LinearRegression(), FULL, TARGET),
    "polynomial Lasso": (
        scaled(make_pipeline(preprocessing.PolynomialFeatures(2), linear_model.Lasso())),
        FULL,
        TARGET,
    ),
    "Poisson regression": (scaled(linear_model.PoissonRegressor()), FULL, COUNTS),
    "forest regression": (ensemble.RandomForestRegressor(10, random_state=0), GAPS, TARGET),
    "boosted regression": (ensemble.GradientBoostingRegressor(n_estimators=10), FULL, TARGET),
    "categories and boosting": (categories_and_boosting(), FRAME, TARGET),
    "support vector regression": (scaled(svm.SVR(C=1e5)), FULL, TARGET),
    "neighbours imputed by neighbours": (
        make_pipeline(KNNImputer(), preprocessing.RobustScaler(), neighbors.KNeighborsRegressor()),
        GAPS,
        TARGET,
    ),
    "two targets": (filled(multioutput.MultiOutputRegressor(linear_model.Ridge())), GAPS, np.c_[TARGET, _SCORE]),
    "Gaussian process": (
        scaled(gaussian_process.GaussianProcessRegressor(alpha=1e-2, normalize_y=True)),
        FULL[:60],
        _SCORE[:60],
    ),
    "k-means": (scaled(cluster.KMeans(4, n_init=1, random_state=0)), FULL, None),
    "mixture": (scaled(mixture.GaussianMixture(3, random_state=0, reg_covar=1e-3)), FULL, None),
    "isolation forest": (ensemble.IsolationForest(n_estimators=10, random_state=0), FULL, None),
    "principal components": (scaled(decomposition.PCA(2)), FULL, None),
    "bins": (
        make_pipeline(preprocessing.KBinsDiscretizer(5, quantile_method="averaged_inverted_cdf"), LogisticRegression()),
        NUMBERS,
        RARE,
    ),
    "power transform": (make_pipeline(preprocessing.PowerTransformer(), linear_model.Ridge()), POSITIVE, TARGET),
    "selected columns": (
        make_pipeline(preprocessing.MaxAbsScaler(), feature_selection.SelectKBest(k=2), LogisticRegression()),
        FULL,
        RARE,
    ),
    "far column": (scaled(LogisticRegression()), FAR, RARE),
    "far forest": (scaled(forest()), FAR, THREE),
    "far boosting": (ensemble.HistGradientBoostingRegressor(max_iter=20), FAR, TARGET),
}
"""An untrained estimator, its table, and what it learns to tell, by name."""
