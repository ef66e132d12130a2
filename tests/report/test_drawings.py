"""What is drawn is what was given: data of lines and bars, pixels of pictures, names and marks."""

import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from evaluation.references import published_curve
from report.classes import confusions, draw_class_errors, draw_confusions, ends
from report.curves import draw_curves
from report.drawing import BLUE, GRAY, ORANGE, png, short_name
from report.filters import draw_filters, filter_pictures, tile
from report.guesses import draw_guesses
from report.metrics import Metrics
from report.neighbors import draw_neighbors, nearest


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 256, 256, 3), np.uint8))


def titles(figure: Figure) -> list[str]:
    return [
        axes.get_title(loc=place) for axes in figure.axes for place in ("left", "center") if axes.get_title(loc=place)
    ]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def drawn_pixels(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


@pytest.fixture
def metrics() -> Metrics:
    epochs = np.arange(1, 31) / 10
    return Metrics(
        steps=np.arange(1, 31),
        epochs=epochs,
        training={
            "loss": 3 / epochs,
            "top1_error": np.exp(-epochs),
            "rate": np.where(epochs > 2, 1e-3, 1e-2),
            "images_per_second": 100 + epochs,
        },
        validation_epochs=np.array([1.0, 2.0, 3.0]),
        validation={
            "loss": np.array([3, 2, 1.0]),
            "top1_error": np.array([0.5, 0.4, 0.3]),
            "top5_error": np.array([0.2, 0.1, 0.05]),
        },
    )


def test_curves_are_the_logged_numbers(metrics: Metrics) -> None:
    figure = draw_curves(metrics, None)
    panels = dict(zip(("loss", "top1_error", "top5_error", "rate", "images_per_second"), figure.axes))
    assert titles(figure) == ["log loss (nats)", "top-1 error", "top-5 error", "rate", "images/s"]
    for column, axes in panels.items():
        lines = {line.get_label(): line for line in axes.lines}
        assert set(lines) == ({"training"} if column in metrics.training else set()) | (
            {"validation"} if column in metrics.validation else set()
        )
        if "training" in lines:
            np.testing.assert_allclose(lines["training"].get_xdata(), metrics.epochs)
            np.testing.assert_allclose(lines["training"].get_ydata(), metrics.training[column])
        if "validation" in lines:
            np.testing.assert_allclose(lines["validation"].get_xdata(), [1, 2, 3])
            np.testing.assert_allclose(lines["validation"].get_ydata(), metrics.validation[column])
        assert axes.get_xlabel() == "epochs"
        if column != "rate":
            highest = max(np.max(line.get_ydata()) for line in axes.lines)
            assert axes.get_ylim() == pytest.approx((0, 1.06 * highest))  # nothing is cut off at the top
    assert panels["rate"].get_yscale() == "log"
    assert len({axes.get_xlim() for axes in panels.values()}) == 1  # epochs stand below epochs
    assert {text.get_text() for text in figure.axes[5].get_legend().get_texts()} == {"training", "validation"}


def test_the_published_curve_lies_behind(metrics: Metrics) -> None:
    curve = published_curve()
    figure = draw_curves(metrics, curve)
    for axes, column in zip(figure.axes, ("loss", "top1_error")):
        seed = [line for line in axes.lines if to_hex(line.get_color()) == GRAY]
        assert [line.get_label() for line in seed] == ["seed, training", "seed, validation (one random view)"]
        assert axes.lines[: len(seed)] == seed  # drawn first, so below
        np.testing.assert_array_equal(seed[0].get_ydata(), curve[f"training_{column}"])
        np.testing.assert_array_equal(seed[1].get_ydata(), curve[f"validation_{column}"])
        assert axes.get_xlim()[1] > 90
    np.testing.assert_array_equal(figure.axes[3].lines[0].get_ydata(), curve["rate"])
    np.testing.assert_array_equal(figure.axes[4].lines[0].get_ydata(), curve["images_per_second"])


def test_a_curve_that_was_not_logged_says_so(metrics: Metrics) -> None:
    bare = Metrics(
        steps=metrics.steps, epochs=metrics.epochs, training={"loss": metrics.training["loss"]},
        validation_epochs=np.zeros(0), validation={},
    )  # fmt: skip
    figure = draw_curves(bare, None)
    assert len(figure.axes[0].lines) == 1
    for axes in figure.axes[1:5]:
        assert texts(axes) == ["not logged in this run"]


def test_filters_are_scaled_about_mid_gray() -> None:
    weights = np.zeros((3, 3, 2, 2))
    weights[0, 0, 0, 1], weights[0, 2, 1, 0] = 0.5, -0.25
    weights[1, 1] = -3.0
    shown = filter_pictures(weights)
    assert shown.shape == (3, 2, 2, 3) and shown.dtype == np.uint8
    assert shown[0, 0, 1].tolist() == [255, 128, 128]  # red: the largest weight; others 0
    assert shown[0, 1, 0].tolist() == [128, 128, 64]  # half the range below gray: 127.5 - 63.75
    assert shown[1, 0, 0].tolist() == [128, 0, 128]
    assert (shown[2] == 128).all()  # a filter of zeros


def test_tiles_go_row_by_row() -> None:
    sheet = tile(
        np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((5, 2, 3, 3), np.uint8), columns=3, gap=1
    )
    expected = [[1, 255, 2, 255, 3], [255] * 5, [4, 255, 5, 255, 255]]
    assert sheet.shape == (5, 11, 3)
    assert sheet[[0, 2, 3]][:, [0, 3, 4, 7, 8], 0].tolist() == expected
    assert (tile(np.zeros((2, 4, 4, 3), np.uint8), columns=16) == 0).mean() > 0.8  # no empty columns


def test_tower_a_stands_above_tower_b() -> None:
    weights = np.random.default_rng(0).normal(size=(96, 3, 11, 11))
    figure = draw_filters(weights)
    assert titles(figure) == ["tower A", "tower B"]
    above, below = drawn_pixels(figure)
    assert above.shape == below.shape == (3 * 12 - 1, 16 * 12 - 1, 3)  # three rows of sixteen, as in Figure 3
    shown = filter_pictures(weights)
    np.testing.assert_array_equal(above[:11, :11], shown[0])
    np.testing.assert_array_equal(above[12:23, 12:23], shown[17])
    np.testing.assert_array_equal(below[:11, :11], shown[48])
    np.testing.assert_array_equal(below[24:, -11:], shown[95])


def test_guesses_have_their_probabilities_as_bars_and_the_true_class_marked() -> None:
    names = [
        "tench, Tinca tinca",
        "goldfish",
        "cock",
        "hen",
        "kite",
        "a bird with a name that is far too long to be shown",
    ]
    labels = np.array([2, 0])
    best = np.array([[1, 2, 0, 3, 4], [5, 1, 2, 3, 4]])
    probabilities = np.array([[0.5, 0.2, 0.15, 0.1, 0.05], [0.9, 0.04, 0.03, 0.02, 0.01]])
    images = pictures(2)
    figure = draw_guesses(images, labels, best, probabilities, names)
    assert titles(figure) == ["cock", "tench"]
    for drawn, image in zip(drawn_pixels(figure), images):
        np.testing.assert_array_equal(drawn, image)
    bars = [axes for axes in figure.axes if axes.patches]
    for axes, shares, row, label in zip(bars, probabilities, best, labels):
        np.testing.assert_allclose([bar.get_width() for bar in axes.patches], shares)
        colors = [to_hex(bar.get_facecolor()) for bar in axes.patches]
        assert colors == [ORANGE if guess == label else BLUE for guess in row]
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the best guess on top
    assert texts(bars[0])[:5] == ["goldfish", "✓ cock", "tench", "hen", "kite"]
    assert texts(bars[0])[5:] == ["50.0 %", "20.0 %", "15.0 %", "10.0 %", "5.0 %"]
    assert texts(bars[1])[0] == "a bird with a name that…"
    assert not any(text.startswith("✓") for text in texts(bars[1]))


def test_nearest_agrees_with_all_distances() -> None:
    random = np.random.default_rng(3)
    training, queries = random.normal(size=(50, 8)), random.normal(size=(4, 8))
    indices, distances = nearest(training, queries, 6)
    table = np.sqrt(((queries[:, None] - training[None]) ** 2).sum(axis=2))
    np.testing.assert_array_equal(indices, np.argsort(table, axis=1)[:, :6])
    np.testing.assert_allclose(distances, np.sort(table, axis=1)[:, :6])
    assert nearest(training[:3], queries, 6)[0].shape == (4, 3)


def test_neighbors_stand_beside_their_image_in_order() -> None:
    images = pictures(6)
    figure = draw_neighbors(
        images[:2],
        ["crane", "hen"],
        [images[2:4], images[4:6]],
        [["crane", "hen"], ["hen", "hen"]],
        np.array([[False, False], [True, True]]),  # the first neighbor is the other kind of crane
    )
    assert titles(figure) == ["crane", "crane", "hen", "hen", "hen", "hen"]
    for drawn, image in zip(drawn_pixels(figure), [images[0], images[2], images[3], images[1], images[4], images[5]]):
        np.testing.assert_array_equal(drawn, image)
    colors = [to_hex(axes.title.get_color()) for axes in figure.axes]
    assert [color == ORANGE for color in colors] == [False, True, True, False, False, False]
    assert "held out" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("errors", "shown", "best", "worst"),
    [
        ([0.3, 0.1, 0.2, 0.4], 1, [1], [3]),
        ([0.3, 0.1, 0.2, 0.4], 2, [1, 2], [3, 0]),
        ([0.3, 0.1, 0.2, 0.4, 0.0], 9, [4, 1, 2], [3, 0]),  # all of them, none twice
        ([0.3, np.nan, 0.2], 9, [2], [0]),  # a class without images
        ([0.5], 9, [0], []),
        ([0.2, 0.2, 0.2], 1, [0], [2]),
    ],
)
def test_ends(errors: list[float], shown: int, best: list[int], worst: list[int]) -> None:
    found = ends(np.array(errors), shown)
    assert [part.tolist() for part in found] == [best, worst]


def test_class_errors_are_shares_of_the_class() -> None:
    images, top1, top5 = np.array([10, 20, 0, 5]), np.array([1.0, 10.0, 0, 5.0]), np.array([0.0, 2.0, 0, 5.0])
    figure = draw_class_errors(images, top1, top5, ["ant", "bee", "cat", "dog"])
    best, worst = figure.axes
    assert [label.get_text() for label in best.get_yticklabels()] == ["ant (10)", "bee (20)"]
    assert [label.get_text() for label in worst.get_yticklabels()] == ["dog (5)"]
    np.testing.assert_allclose([bar.get_width() for bar in best.patches], [0.1, 0.5])
    np.testing.assert_allclose(best.lines[0].get_xdata(), [0.0, 0.1])
    np.testing.assert_allclose([bar.get_width() for bar in worst.patches], [1.0])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"top-1 error", "top-5 error"}


def test_confusions_have_true_classes_in_rows() -> None:
    counts = confusions(np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 0, 2]), 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [2, 0, 1, 0], [0, 0, 0, 0]]
    axes = draw_confusions(counts, ["ant", "bee", "cat", "dog"]).axes[0]
    written = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "1", (0, 1): "1", (1, 1): "1", (2, 0): "2", (2, 2): "1"}
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array())[2], [2 / 3, 0, 1 / 3, 0])
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "best guess")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ant", "bee", "cat", "dog"]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("tench, Tinca tinca", "tench"),
        ("x" * 24, "x" * 24),
        ("x" * 25, "x" * 23 + "…"),
        ("soft-coated wheaten terrier and more", "soft-coated wheaten ter…"),
    ],
)
def test_short_names(name: str, short: str) -> None:
    assert short_name(name) == short
    assert len(short) <= 24


def test_the_same_figure_gives_the_same_png() -> None:
    first, second = (png(draw_filters(np.ones((4, 3, 5, 5)))) for _ in range(2))
    assert first == second
    with Image.open(io.BytesIO(first)) as image:
        assert image.format == "PNG" and image.width > 200
