"""Rates over the epochs: the original's log as a truth table, the paper's plateau, and their states."""

import math

import numpy as np
import pytest
import torch

from evaluation.references import published_curve
from model import make_schedule
from model.schedule import NAMES

# What layer-params-145-2010.cfg and the log say, epochs counted from 1: weights of conv2–fc8, of conv1, biases, conv1's
LOGGED = [
    (1, 1e-2, 1e-2, 2e-2, 2e-2),
    (22, 1e-2, 1e-2, 2e-2, 2e-2),
    (23, 1e-3, 1e-3, 2e-3, 2e-3),  # first drop, and the biases' only one
    (50, 1e-3, 1e-3, 2e-3, 2e-3),
    (51, 1e-4, 1e-4, 2e-3, 2e-3),
    (67, 1e-4, 1e-4, 2e-3, 2e-3),
    (68, 1e-4, 1e-5, 2e-3, 2e-3),  # conv1 alone
    (71, 1e-4, 1e-5, 2e-3, 2e-3),
    (72, 1e-4, 0.0, 2e-3, 0.0),  # conv1 frozen
    (77, 1e-4, 0.0, 2e-3, 0.0),
    (78, 1e-5, 0.0, 2e-3, 0.0),  # all others
    (93, 1e-5, 0.0, 2e-3, 0.0),
    (120, 1e-5, 0.0, 2e-3, 0.0),  # past the end
]

# What layer-params-145.cfg says of the net whose rate was raised again, in the same columns; noise on or off.
LOGGED_AGAIN = [
    (24, 1e-2, 1e-2, 2e-2, True),
    (25, 1e-3, 1e-3, 2e-2, True),
    (51, 1e-4, 1e-4, 2e-2, True),
    (66, 1e-4, 1e-4, 2e-2, True),
    (67, 1e-4, 1e-5, 2e-2, False),
    (72, 1e-4, 0.0, 0.0, False),
    (79, 1e-5, 0.0, 0.0, False),
    (90, 1e-5, 0.0, 0.0, False),
    (91, 1e-3, 0.0, 0.0, True),  # "pushing learning rate back up", "color noise put back"
    (107, 1e-4, 0.0, 0.0, True),
    (123, 1e-4, 0.0, 0.0, True),
    (124, 1e-5, 0.0, 0.0, False),
    (135, 1e-5, 0.0, 0.0, False),
]


def figures(error: float) -> dict[str, float]:
    """A validation's errors, top-1 as given."""
    return {"top1_error": error, "top5_error": error / 2}


def test_there_are_sixteen_parameters() -> None:
    assert len(NAMES) == len(set(NAMES)) == 16
    assert set(make_schedule("paper", 90).rates(0)) == set(make_schedule("original", 90).rates(0)) == set(NAMES)


@pytest.mark.parametrize(("epoch", "weight", "conv1_weight", "bias", "conv1_bias"), LOGGED)
def test_original_as_logged(epoch: int, weight: float, conv1_weight: float, bias: float, conv1_bias: float) -> None:
    rates = make_schedule("original", 93).rates(epoch - 1)
    expected = {name: weight if name.endswith("weight") else bias for name in NAMES}
    expected |= {"conv1.weight": conv1_weight, "conv1.bias": conv1_bias}
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("epoch", "weight", "conv1_weight", "conv1_bias", "noise"), LOGGED_AGAIN)
def test_original_with_its_rate_raised_again(
    epoch: int, weight: float, conv1_weight: float, conv1_bias: float, noise: bool
) -> None:
    for stretch in (1, 2):
        schedule, here = make_schedule("original", 135 * stretch, log="second"), (epoch - 1) * stretch
        rates = schedule.rates(here)
        assert rates["fc7.weight"] == pytest.approx(weight, rel=1e-12)
        assert (rates["conv1.weight"], rates["conv1.bias"]) == pytest.approx((conv1_weight, conv1_bias), rel=1e-12)
        assert rates["conv2.bias"] == pytest.approx(2e-2)
        assert schedule.noise_epochs is not None and schedule.noise_again is not None
        assert (here < schedule.noise_epochs or here in range(*schedule.noise_again)) == noise


@pytest.mark.parametrize(
    ("epochs", "drops", "noise_epochs"),
    [  # epochs (from 0) where fc8's weight rate changes, conv1's freeze last; in proportion, rounded up
        (93, [22, 50, 77, 71], 67),
        (186, [44, 100, 154, 142], 134),
        (90, [22, 49, 75, 69], 65),
        (12, [3, 7, 10, 10], 9),
        (2, [1, 2, 2, 2], 2),
        (1, [1, 1, 1, 1], 1),
    ],
)
def test_original_in_proportion_to_the_epochs(epochs: int, drops: list[int], noise_epochs: int) -> None:
    schedule = make_schedule("original", epochs)
    assert schedule.noise_epochs == noise_epochs
    fc8 = [schedule.rates(epoch)["fc8.weight"] for epoch in range(epochs + 1)]
    conv1 = [schedule.rates(epoch)["conv1.weight"] for epoch in range(epochs + 1)]
    firsts = [next(epoch for epoch, rate in enumerate(fc8) if rate <= limit) for limit in (1e-3, 1e-4, 1e-5)]
    assert [*firsts, conv1.index(0.0)] == drops
    assert fc8[0] == 1e-2


@pytest.mark.parametrize(("log", "last_rate", "fewest"), [("first", 1e-5, 6), ("second", 1e-5, 12)])
def test_very_short_runs_never_reach_the_last_rate(log: str, last_rate: float, fewest: int) -> None:
    for epochs in range(1, 30):
        schedule = make_schedule("original", epochs, log=log)
        rates = [schedule.rates(epoch)["fc8.weight"] for epoch in range(epochs)]
        assert (rates[-1] == last_rate) == (epochs >= fewest), epochs


def test_original_pays_no_attention_to_the_error() -> None:
    schedule = make_schedule("original", 93)
    before = schedule.rates(30)
    for _ in range(50):
        schedule.observe(figures(0.9))
    assert schedule.rates(30) == before


def test_paper_divides_by_ten_three_times_when_the_error_stops_falling() -> None:
    schedule = make_schedule("paper", 90)  # patience 8 epochs
    assert schedule.noise_epochs is None
    seen = []
    for epoch in range(60):
        rates = set(schedule.rates(epoch).values())
        assert len(rates) == 1
        seen.append(round(-math.log10(rates.pop())))
        schedule.observe(figures(0.8 if epoch < 5 else 0.5))  # falls at epoch 5, then never again
    changes = [epoch for epoch in range(1, 60) if seen[epoch] != seen[epoch - 1]]
    assert changes == [6 + 9, 6 + 18, 6 + 27]
    assert [seen[0], seen[15], seen[24], seen[33], seen[59]] == [2, 3, 4, 5, 5]


def test_paper_forgives_while_the_error_falls_now_and_then() -> None:
    schedule = make_schedule("paper", 90)
    for epoch in range(64):
        schedule.observe(figures(0.9 - 0.01 * (epoch // 8)))  # a new lowest every eighth epoch
    assert schedule.rates(64)["conv3.weight"] == 1e-2


def drops_on(errors: np.ndarray) -> list[int]:
    """After which epochs, from 1, a run with these errors has its rate lowered."""
    schedule, rates = make_schedule("paper", 90), [1e-2]
    for error in errors:
        schedule.observe(figures(error))
        rates.append(schedule.rates(0)["fc8.weight"])
    return [epoch for epoch in range(1, len(rates)) if rates[epoch] < rates[epoch - 1]]


def test_on_the_replications_log_the_rate_falls_where_its_did(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = published_curve()
    logged = [int(epoch) for epoch in curve["epoch"][1:][np.diff(curve["rate"]) < 0]]
    assert logged == [31, 51, 65]
    assert drops_on(curve["validation_top1_error"]) == [31, 51, 61]
    monkeypatch.setattr("model.schedule.IMPROVEMENT", 0.0)  # any new low is progress: one by chance at epoch 31 resets
    assert drops_on(curve["validation_top1_error"][:39]) == []


@pytest.mark.parametrize(("plateau", "drops"), [("top1", 0), ("top5", 1)])
def test_the_error_that_is_watched_decides(plateau: str, drops: int) -> None:
    schedule = make_schedule("paper", 90, plateau=plateau, patience=2)
    for epoch in range(4):
        schedule.observe({"top1_error": 0.9 - 0.1 * epoch, "top5_error": 0.5})
    assert schedule.rates(4)["fc6.bias"] == pytest.approx(1e-2 / 10**drops)


@pytest.mark.parametrize(("epochs", "patience"), [(90, 8), (45, 4), (10, 1), (1, 1)])
def test_papers_patience_is_in_proportion(epochs: int, patience: int) -> None:
    schedule = make_schedule("paper", epochs)
    schedule.observe(figures(0.5))
    for _ in range(patience):
        schedule.observe(figures(0.5))
        assert schedule.rates(0)["fc6.bias"] == 1e-2
    schedule.observe(figures(0.5))
    assert schedule.rates(0)["fc6.bias"] == 1e-3


@pytest.mark.parametrize("recipe", ["paper", "original"])
def test_a_schedule_goes_on_from_its_state(recipe: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    errors = [0.9, 0.5] + [0.6] * 30
    whole, first = make_schedule(recipe, 30), make_schedule(recipe, 30)
    for error in errors[:7]:
        first.observe(figures(error))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make_schedule(recipe, 30)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for epoch, error in enumerate(errors):
        whole.observe(figures(error))
        if epoch >= 7:
            second.observe(figures(error))
            assert second.rates(epoch) == whole.rates(epoch)
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(("recipe", "other"), [("paper", "original"), ("original", "paper")])
def test_another_recipes_state_is_refused(recipe: str, other: str) -> None:
    with pytest.raises(ValueError, match=f"is of recipe '{other}', expected '{recipe}'"):
        make_schedule(recipe, 90).load_state_dict(make_schedule(other, 90).state_dict())


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="epochs is 0"):
        make_schedule("paper", 0)
    with pytest.raises(ValueError, match="recipe is 'vgg', expected one of 'paper', 'original'"):
        make_schedule("vgg", 90)


def test_apply_writes_the_scaled_rates_of_the_epoch() -> None:
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "name": name, "lr": 1.0, "rate_scale": 2.0} for name in NAMES
    ]
    optimizer = torch.optim.SGD(groups)
    make_schedule("original", 93).apply(optimizer, 70)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates["fc7.weight"] == pytest.approx(2e-4)
    assert rates["conv1.weight"] == pytest.approx(2e-5)
    assert rates["conv5.bias"] == pytest.approx(4e-3)
