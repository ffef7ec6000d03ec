"""Maps of the best method: the choice of the fitted laws and the share of replicates that agree."""

from dataclasses import replace

import numpy as np
import pytest

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.best_method_map import BestMethodMap, best_method_map

TASK = "wmt14_en_de"


@pytest.fixture(scope="module")
def found(noisy: Analysis) -> BestMethodMap:
    return next(r for r in noisy.best_method_maps if (r.task, r.factor) == (TASK, "model"))


def test_shares_are_those_of_the_replicates(noisy: Analysis, found: BestMethodMap) -> None:
    """Any pairing of independent replicates estimates the same share, up to sampling error."""
    fits = noisy.fits_by_method(TASK, "multiplicative")
    random = np.random.default_rng(5)
    for i, j in random.integers(len(found.x), size=(12, 2)):
        losses = [
            random.permutation(fits[m].predict_loss_replicates("model", found.x[i], found.examples[j]))
            for m in found.methods
        ]
        share = np.bincount(np.argmin(losses, axis=0), minlength=len(losses)) / len(losses[0])
        assert found.shares[:, i, j] == pytest.approx(share, abs=0.13)
        fitted = [float(fits[m].predict_loss("model", found.x[i], found.examples[j])) for m in found.methods]
        assert found.best[i, j] == int(np.argmin(fitted))
    assert found.shares.sum(axis=0) == pytest.approx(1)


def test_replicates_agree_away_from_the_borders_only(found: BestMethodMap) -> None:
    on_border = np.zeros(found.best.shape, bool)
    on_border[:, 1:] |= np.diff(found.best, axis=1) != 0
    assert on_border.any()
    assert found.agreement[on_border].mean() < found.agreement[~on_border].mean()
    assert found.confident_share() > 0.9


def test_contradictory_replicates_give_no_confidence(noisy: Analysis) -> None:
    fits = noisy.fits_by_method(TASK, "multiplicative")
    offset = np.array(fits["lora"].layout.names) == "E"
    replicates = (
        fits["lora"].replicates + np.where(np.arange(len(fits["lora"].replicates)) % 2, 0.5, -0.5)[:, None] * offset
    )
    perturbed = {**fits, "lora": replace(fits["lora"], replicates=replicates)}
    found = best_method_map(perturbed, "model", noisy.rows(TASK, factor="model"))
    assert found is not None
    assert found.confident_share() == 0
    assert found.agreement.max() < 0.6


def test_the_table_has_every_grid_point_once(found: BestMethodMap) -> None:
    table = found.table()
    assert len(table) == found.best.size
    assert not table.duplicated(["x", "finetune_examples"]).any()
    row = table.iloc[len(found.examples) + 3]  # second x, fourth number of examples
    assert row["method"] == found.methods[found.best[1, 3]]
    assert row["agreement"] == row[f"share_{row['method']}"]
    inside = table[table["inside_measured_range"] & (table["method"] == "full")]
    assert inside["finetune_examples"].between(1e5, 4.5e6).all()


def test_one_method_has_no_map(noisy: Analysis) -> None:
    fits = {"full": noisy.fits_by_method(TASK, "multiplicative")["full"]}
    assert best_method_map(fits, "model", noisy.rows(TASK, factor="model")) is None
