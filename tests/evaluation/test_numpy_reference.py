"""The whole evaluation against an independent one in NumPy: crops, mean, network, averages, counts.

The views are cut as Krizhevsky 2012 §4.1 and convdata.py say; the network is the one that `model` is tested against.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score

from evaluation.ten_patch import Evaluation, evaluate, gather
from evaluation.trained_run import TrainedRun
from evaluation.views import pixels_of
from tests.handmade import make_run
from tests.model import numpy_alexnet

IMAGES, CLASSES = 9, 7
CPU = torch.device("cpu")


def network(images: np.ndarray, weights: dict[str, np.ndarray], recipe: str) -> np.ndarray:
    """Logits [n, classes] of standardized images [n, 3, 224, 224], every fc6 and fc7 output halved."""
    return numpy_alexnet.logits(recipe, weights, images, lambda layer, units: np.float64(0.5))


def ten_views(pixels: np.ndarray, mean: np.ndarray, recipe: str) -> np.ndarray:
    """Four corners and center of one picture [256, 256, 3], then their mirrors: [10, 3, 224, 224]."""
    views = []
    for mirrored in (False, True):
        for top, left in ((0, 0), (0, 32), (16, 16), (32, 0), (32, 32)):
            crop, mean_crop = (image[top : top + 224, left : left + 224].astype(np.float64) for image in (pixels, mean))
            if recipe == "original":
                mean_crop = mean[16:240, 16:240]
                view = (crop[:, ::-1] if mirrored else crop) - mean_crop
            else:
                view = (crop - mean_crop)[:, ::-1] if mirrored else crop - mean_crop
            views.append(view.transpose(2, 0, 1))
    return np.stack(views)


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module", params=["original", "paper"])
def case(request: pytest.FixtureRequest, raw_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A run, its evaluation in batches of four (the last one has one image), and NumPy's logits [9, 10, 7]."""
    recipe = request.param
    run = TrainedRun.open(make_run(tmp_path_factory.mktemp(recipe), raw_shards, recipe))
    weights = {name: tensor.double().numpy() for name, tensor in run.state["model"].items()}
    mean = run.state["statistics"]["mean_image"].numpy()
    with run.open_split("val") as shards:
        pixels, labels = pixels_of(shards, np.arange(IMAGES)), shards.labels(np.arange(IMAGES))
        found = evaluate([run.classifier(CPU)], shards, batch_size=4)
        whole = gather(found, len(shards), None)
    logits = np.stack([network(ten_views(picture, mean, recipe), weights, recipe) for picture in pixels])
    return {"run": run, "whole": whole, "logits": logits, "labels": labels, "pixels": pixels}


def test_the_fixed_network_tells_images_and_views_apart(case: dict) -> None:
    table = softmax(case["logits"])
    assert table.mean(axis=1).std(axis=0).max() > 0.02  # images
    assert table.std(axis=1).max(axis=1).min() > 0.001  # views, of every image: a wrong crop shows at 1e-5
    mirrored = np.abs(table[:, :5] - table[:, 5:]).max(axis=(1, 2))
    assert mirrored.min() > 0.001


def test_ten_patch_probabilities_equal_numpy(case: dict) -> None:
    table = softmax(case["logits"]).mean(axis=1)
    whole: Evaluation = case["whole"]
    assert whole.rows.ids.tolist() == list(range(IMAGES))
    np.testing.assert_array_equal(whole.rows.labels, case["labels"])
    order = np.argsort(-table, axis=1)[:, :5]
    np.testing.assert_array_equal(whole.rows.best, order)
    np.testing.assert_allclose(whole.rows.probability, np.take_along_axis(table, order, axis=1), atol=1e-5, rtol=0)


def test_errors_of_all_methods_equal_numpy_and_scikit_learn(case: dict) -> None:
    logits, labels, whole = case["logits"], case["labels"], case["whole"]
    tables = {
        "ten_patch": softmax(logits).mean(axis=1),
        "ten_patch_mean_logits": softmax(logits.mean(axis=1)),
        "center_crop": softmax(logits[:, 2]),
    }
    assert list(whole.scores) == list(tables)
    for method, table in tables.items():
        figures = whole.scores[method].figures()
        rank = (table > table[np.arange(IMAGES), labels][:, None]).sum(axis=1)
        for best, name in ((1, "top1_error"), (5, "top5_error")):
            wrong = round(figures[name] * IMAGES, 9)
            assert wrong == int((rank >= best).sum()), (method, name)
            accuracy = top_k_accuracy_score(labels, table, k=best, labels=np.arange(CLASSES), normalize=False)
            assert wrong == IMAGES - accuracy, (method, name)
        assert figures["log_loss"] == pytest.approx(log_loss(labels, table, labels=np.arange(CLASSES)), abs=1e-5)
        assert figures["images"] == IMAGES
    assert len({round(whole.scores[method].figures()["log_loss"], 6) for method in tables}) == 3


@pytest.mark.parametrize("views_in_memory", [250, 30])
def test_single_pictures_get_the_same_probabilities_and_features(
    case: dict, views_in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.views.VIEWS_IN_MEMORY", views_in_memory)  # 30: three pictures at a time, of nine
    run: TrainedRun = case["run"]
    classifier = run.classifier(CPU)
    table = softmax(case["logits"]).mean(axis=1)
    np.testing.assert_allclose(classifier.probabilities(case["pixels"]), table, atol=1e-5, rtol=0)
    weights = {name: tensor.double().numpy() for name, tensor in run.state["model"].items()}
    monkeypatch.setattr("evaluation.views.VIEWS_IN_MEMORY", views_in_memory // 10)
    center = 0.5 * classifier.features(case["pixels"]) @ weights["fc8.weight"].T + weights["fc8.bias"]
    np.testing.assert_allclose(center, case["logits"][:, 2], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 13, 50])
def test_the_batch_size_changes_nothing(case: dict, batch_size: int) -> None:
    run, whole = case["run"], case["whole"]
    with run.open_split("val") as shards:
        other = evaluate([run.classifier(CPU)], shards, batch_size=batch_size)
    np.testing.assert_array_equal(other.rows.best, whole.rows.best)
    np.testing.assert_allclose(other.rows.probability, whole.rows.probability, atol=1e-5, rtol=0)
    assert other.scores["ten_patch"].figures()["top1_error"] == whole.scores["ten_patch"].figures()["top1_error"]
