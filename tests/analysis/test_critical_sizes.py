"""Critical data sizes: every crossing is found, the closed form, and the published constants."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

import synthetic_points
from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.critical_sizes import closed_form, critical_sizes
from finetune_scaling.analysis.crossings import GRID, find_crossings
from finetune_scaling.laws.forms.declared import factor_parameters, predict
from finetune_scaling.laws.forms.library import MULTIPLICATIVE

# (A, alpha) by factor, and beta, for full, prompt and LoRA of each task, as published (Table 4).
TABLE = {
    "en_de": {
        "model": ((1.2e5, 0.52), (3.9e3, 0.40), (2.1e3, 0.36)),
        "pretrain": ((630, 0.21), (270, 0.21), (140, 0.18)),
        "beta": (0.15, 0.051, 0.081),
    },
    "en_zh": {
        "model": ((3.3e3, 0.34), (850, 0.33), (660, 0.31)),
        "pretrain": ((240, 0.17), (200, 0.20), (130, 0.18)),
        "beta": (0.14, 0.015, 0.025),
    },
    "mlsum": {
        "model": ((330, 0.24), (23, 0.10), (26, 0.11)),
        "pretrain": ((42, 0.11), (16, 0.069), (17, 0.073)),
        "beta": (0.087, 0.025, 0.030),
    },
}
# Zhang et al. (2024), critical finetuning sizes: (H, gamma) of full-prompt, full-LoRA, prompt-LoRA, as published.
PUBLISHED = {
    ("en_de", "model"): ((3.7e14, -1.2), (2e24, -2.4), (1.6e-9, 1.5)),
    ("en_de", "pretrain"): ((3.7e3, -0.0015), (6.9e8, -0.50), (7.7e-10, 1.2)),
    ("en_zh", "model"): ((6.1e4, -0.12), (1.6e6, -0.30), (1.8e-11, 1.9)),
    ("en_zh", "pretrain"): ((5, 0.26), (2.7e2, 0.093), (8.6e-19, 2.1)),
    ("mlsum", "model"): ((3.6e18, -2.1), (1.2e17, -1.8), (4.5e-4, 2.3)),
    ("mlsum", "pretrain"): ((3.7e6, -0.63), (1e7, -0.63), (1.6e2, -0.63)),
}
PAIRS = ((0, 1), (0, 2), (1, 2))
CONTRADICTORY = ("mlsum", "model", 2)
NARROW_MISS = ("mlsum", "model", 1)
CASES = [(task, factor, pair) for task, factor in PUBLISHED for pair in range(3)]


def printed_range(value: float) -> tuple[float, float]:
    """Least and greatest number that rounds to `value` in two digits."""
    unit = 10 ** (math.floor(math.log10(abs(value))) - 1)
    return value - unit / 2, value + unit / 2


def from_table(task: str, factor: str, pair: int, corner: tuple[int, ...]) -> tuple[float, float]:
    """(H, gamma) with each of A1, A2, alpha1, alpha2, beta1, beta2 at one end of its rounding (corner 0 or 1)."""
    entry, (one, two) = TABLE[task], PAIRS[pair]
    values = [entry[factor][one][0], entry[factor][two][0], entry[factor][one][1], entry[factor][two][1]]
    values += [entry["beta"][one], entry["beta"][two]]
    a1, a2, alpha1, alpha2, beta1, beta2 = (printed_range(v)[c] for v, c in zip(values, corner, strict=True))
    form = closed_form({"A": a1, "alpha": alpha1, "beta": beta1}, {"A": a2, "alpha": alpha2, "beta": beta2})
    assert form is not None
    return form.log_H, form.gamma


def published(task: str, factor: str, pair: int) -> tuple[float, float]:
    """H and gamma as published."""
    return PUBLISHED[task, factor][pair]


def follows(task: str, factor: str, pair: int) -> bool:
    """Whether the published H and gamma are compatible with the rounding of the published table."""
    corners = np.array([from_table(task, factor, pair, tuple((i >> k) & 1 for k in range(6))) for i in range(64)])
    h, gamma = published(task, factor, pair)
    (h_low, h_high), (g_low, g_high) = printed_range(h), printed_range(gamma)
    inside_h = corners[:, 0].min() <= math.log(h_high) and math.log(h_low) <= corners[:, 0].max()
    return bool(inside_h and corners[:, 1].min() <= g_high and g_low <= corners[:, 1].max())


def crossings(difference, low: float, high: float) -> list[float]:  # type: ignore[no-untyped-def]
    """All crossings of one pair of curves with zero difference."""
    return list(find_crossings(lambda _, examples: difference(examples), 1, low, high).examples)


@pytest.mark.parametrize(("task", "factor", "pair"), [c for c in CASES if c not in (CONTRADICTORY, NARROW_MISS)])
def test_published_constants_follow_from_the_published_table(task: str, factor: str, pair: int) -> None:
    assert follows(task, factor, pair)


def test_two_published_constants_do_not_follow() -> None:
    """MLSum over model size: prompt-LoRA contradicts the table even in sign, full-LoRA misses its rounding."""
    assert not follows(*CONTRADICTORY)
    assert not follows(*NARROW_MISS)
    signs = [
        [np.sign(from_table(*case, (0,) * 6)[1]), np.sign(published(*case)[1])] for case in (CONTRADICTORY, NARROW_MISS)
    ]
    assert signs == [[-1, 1], [-1, -1]]


@given(
    st.floats(0.05, 0.5),
    st.floats(0.05, 0.5),
    st.floats(0.05, 0.4),
    st.floats(0.01, 0.4),
    st.floats(1.5, 5),
    st.floats(7, 10),
)
def test_the_closed_form_is_exact_for_equal_offsets(
    alpha1: float, alpha2: float, beta1: float, gap: float, log_root: float, log_x: float
) -> None:
    x, root, beta2 = 10**log_x, 10**log_root, beta1 + gap
    first = {"A": 1e3, "alpha": alpha1, "beta": beta1, "E": 0.7}
    second = {"A": 1e3 * x ** (alpha2 - alpha1) * root**gap, "alpha": alpha2, "beta": beta2, "E": 0.7}
    form = closed_form(first, second)
    assert form is not None
    assert form.at(x) == pytest.approx(root, rel=1e-6)
    curves = [lambda d, p=p: predict(MULTIPLICATIVE, p, {"X": x, "D": d}) for p in (first, second)]
    assert crossings(lambda d: curves[0](d) - curves[1](d), 10, 1e12) == [pytest.approx(root, rel=1e-6)]


def test_none_one_and_two_roots() -> None:
    def difference(offset: float):  # type: ignore[no-untyped-def]
        return lambda d: 2 * d**-0.4 - 1.2 * d**-0.1 + offset

    assert crossings(difference(2.0), 10, 1e12) == []
    one = crossings(difference(0.0), 1, 1e12)
    assert one == [pytest.approx((2 / 1.2) ** (1 / 0.3), rel=1e-8)]
    two = crossings(difference(0.2), 1, 1e12)
    assert len(two) == 2
    assert np.allclose([difference(0.2)(d) for d in two], 0, atol=1e-8)


def test_two_roots_within_one_step_of_the_grid() -> None:
    middle, half = math.log(12345.0), 0.004
    found = crossings(lambda d: (np.log(d) - middle) ** 2 - half**2, 10, 1e12)
    assert [math.log(d) - middle for d in found] == [pytest.approx(-half, abs=1e-5), pytest.approx(half, abs=1e-5)]


def test_crossings_of_known_laws_are_found(noisy: Analysis) -> None:
    chosen = {
        c.methods: c
        for c in noisy.critical_sizes
        if (c.law, c.factor, c.x) == ("multiplicative", "model", synthetic_points.SIZES[3])
    }
    truth = [
        {"A": law["factors"]["model"][0], "alpha": law["factors"]["model"][1], "beta": law["beta"], "E": law["E"]}
        for law in (synthetic_points.EN_DE["prompt"], synthetic_points.EN_DE["lora"])
    ]
    x = synthetic_points.SIZES[3]
    expected = crossings(
        lambda d: np.subtract(*(predict(MULTIPLICATIVE, p, {"X": x, "D": d}) for p in truth)), 10, 1e12
    )
    root = chosen["prompt", "lora"].roots[0]
    assert root.examples == pytest.approx(expected[0], rel=0.5)
    assert (root.below, root.above, root.extrapolated) == ("prompt", "lora", ())
    assert root.jackknife.low is not None
    assert root.jackknife.high is not None
    assert root.jackknife.low <= root.examples <= root.jackknife.high
    distant = [r for c in noisy.critical_sizes for r in c.roots if r.examples > 1e7]
    assert distant
    assert all(r.extrapolated for r in distant)


def test_too_few_points_give_no_jackknife_range(underdetermined: Analysis) -> None:
    assert all(root.jackknife.low is None for c in underdetermined.critical_sizes for root in c.roots)


def test_crossings_of_many_pairs_are_those_of_brents_method() -> None:
    random = np.random.default_rng(1)
    laws = [
        {"A": random.uniform(1, 9, 60), "beta": random.uniform(0.02, 0.4, 60), "E": random.uniform(0.1, 0.6, 60)}
        for _ in range(2)
    ]
    curves = [lambda k, d, p=p: p["A"][k] * d ** -p["beta"][k] + p["E"][k] for p in laws]
    found = find_crossings(lambda k, d: curves[0](k, d) - curves[1](k, d), 60, 1e1, 1e12)
    grid = np.linspace(math.log(1e1), math.log(1e12), 20001)
    for k in range(60):
        difference = lambda t, k=k: curves[0](k, np.exp(t)) - curves[1](k, np.exp(t))  # noqa: E731
        signs = np.sign(difference(grid))
        brackets = np.flatnonzero(signs[:-1] * signs[1:] < 0)
        roots = [math.exp(optimize.brentq(difference, grid[i], grid[i + 1], xtol=1e-12)) for i in brackets]
        assert list(found.examples[found.pair == k]) == [pytest.approx(root, rel=1e-8) for root in roots]
        rising = [signs[i] < 0 for i in brackets]
        assert list(found.rising[found.pair == k]) == rising
    assert {len(list(found.examples[found.pair == k])) for k in range(60)} >= {0, 1, 2}


def test_a_root_on_a_point_of_the_grid_counts_once() -> None:
    examples = math.exp(np.linspace(math.log(10), math.log(1e12), GRID)[7])
    assert crossings(lambda d: np.log(d) - math.log(examples), 10, 1e12) == [pytest.approx(examples, rel=1e-9)]


def test_the_interval_of_a_crossing_covers_the_replicates_of_both_methods(noisy: Analysis) -> None:
    chosen = next(
        c
        for c in noisy.critical_sizes
        if (c.law, c.factor, c.x, c.methods)
        == ("multiplicative", "model", synthetic_points.SIZES[3], ("prompt", "lora"))
    )
    root = chosen.roots[0]
    assert root.share == 1
    assert chosen.share_without_crossing == 0
    assert root.interval.low is not None
    assert root.interval.high is not None
    assert root.interval.low < root.examples < root.interval.high
    fits = [noisy.fits["wmt14_en_de", m, "multiplicative"] for m in chosen.methods]
    examples = []
    for left, right in itertools.product(
        *(fit.replicates[::6] for fit in fits)
    ):  # replicates are independent, so any pairing is valid
        own = [factor_parameters(f.layout.to_natural(v), "model") for f, v in zip(fits, (left, right), strict=True)]
        curves = [lambda d, p=p: predict(MULTIPLICATIVE, p, {"X": chosen.x, "D": d}) for p in own]
        examples += crossings(lambda d, a=curves[0], b=curves[1]: a(d) - b(d), 10, 1e12)
    low, high = np.quantile(examples, [0.05, 0.95])
    assert math.log(root.interval.low / low) == pytest.approx(0, abs=0.5 * math.log(high / low))
    assert math.log(root.interval.high / high) == pytest.approx(0, abs=0.5 * math.log(high / low))


def test_an_interval_is_open_where_replicates_have_no_crossing(noisy: Analysis) -> None:
    """LoRA's offset is lowered in an eighth of the replicates, in which the two methods never cross."""
    fits = noisy.fits_by_method("wmt14_en_de", "multiplicative")
    offset = np.array(fits["lora"].layout.names) == "E"
    replicates = fits["lora"].replicates.copy()
    lowered = len(replicates) // 8
    replicates[:lowered] = np.where(offset, np.log(0.75), replicates[:lowered])
    shifted = {**fits, "lora": replace(fits["lora"], replicates=replicates)}
    measured = dict.fromkeys(fits, (8e3, 1e5))
    (size,) = critical_sizes(shifted, ("prompt", "lora"), "model", [synthetic_points.SIZES[3]], measured)
    assert size.roots[0].share == pytest.approx(1 - lowered / len(replicates), abs=0.01)
    assert size.share_without_crossing == pytest.approx(lowered / len(replicates), abs=0.01)
    assert size.roots[0].interval.high is None  # prompt tuning remains better: the crossing is beyond the range
    assert size.roots[0].interval.low is not None


def test_the_closed_form_has_bootstrap_intervals(noisy: Analysis) -> None:
    form = next(c.closed_form for c in noisy.critical_sizes if c.law == "multiplicative" and "full" in c.methods)
    assert form is not None
    for value, interval in ((form.log_H, form.log_H_interval), (form.gamma, form.gamma_interval)):
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < value < interval.high
