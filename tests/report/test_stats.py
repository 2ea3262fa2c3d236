"""Intervals against closed forms and scipy, and their coverage on simulated data."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from fewshot.report import stats


def test_episode_interval_is_the_t_interval() -> None:
    values = np.random.default_rng(0).beta(8, 3, size=200)
    expected = scipy_stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=scipy_stats.sem(values))
    estimate = stats.over_episodes(values)
    assert (estimate.mean - estimate.ci95, estimate.mean + estimate.ci95) == pytest.approx(expected, rel=1e-12)


def test_one_seed_has_only_the_episode_part() -> None:
    values = np.random.default_rng(1).random((1, 50))
    both, episodes = stats.over_both(values), stats.over_episodes(values)
    assert both == episodes
    assert np.isnan(stats.over_seeds(values).ci95)
    assert stats.run_deviation(values) is None


def test_paired_difference_is_scipys_paired_t_test() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = rng.random(80), rng.random(80)
    difference = stats.paired_difference(ours, theirs)
    reference = scipy_stats.ttest_rel(ours, theirs)
    low, high = reference.confidence_interval(0.95)
    assert difference.p_value == pytest.approx(reference.pvalue, rel=1e-10)
    assert difference.ci95 == pytest.approx((high - low) / 2, rel=1e-10)


def test_a_constant_difference_is_certain() -> None:
    ours = np.random.default_rng(3).random(30)
    assert stats.paired_difference(ours, ours).p_value == 1.0
    assert stats.paired_difference(ours.round(2) * 0 + 1, np.zeros(30)).p_value == 0.0


def test_pairing_requires_the_same_episodes() -> None:
    with pytest.raises(ValueError, match="30 and 20 episodes"):
        stats.paired_difference(np.zeros(30), np.zeros(20))


def test_the_interval_at_the_p_value_just_reaches_zero() -> None:
    parts = (stats.ErrorPart(0.01, 999), stats.ErrorPart(0.004, 2))
    for mean in (0.001, 0.02, 0.3):
        estimate = stats.Estimate(mean, parts)
        assert estimate.half_width(1 - estimate.p_value) == pytest.approx(mean, rel=1e-6)
    assert stats.Estimate(0.0, parts).p_value == 1.0


@pytest.mark.parametrize("seeds", range(2, 12))
def test_p_value_is_found_for_any_number_of_seeds(seeds: int) -> None:
    episodes, scatter = stats.ErrorPart(0.01, 999), stats.ErrorPart(0.004, seeds - 1)
    for mean in (0.02, 0.3, 30.0):
        p_value = stats.Estimate(mean, (episodes, scatter)).p_value
        assert stats.Estimate(mean, (episodes,)).p_value < p_value < 0.2
        without = stats.Estimate(mean, (episodes, stats.ErrorPart(0.0, seeds - 1)))  # no variance between seeds
        assert without.p_value == stats.Estimate(mean, (episodes,)).p_value


def test_run_deviation_recovers_the_simulated_deviation() -> None:
    rng = np.random.default_rng(8)
    deviation = stats.run_deviation(crossed(rng, 400, 300, 0.02))
    assert deviation is not None
    assert deviation.std_error == pytest.approx(0.02, rel=0.1)


def test_holm_matches_the_worked_example() -> None:
    # p = .01 .04 .03 .005: sorted and multiplied by 4 3 2 1 gives .02 .03 .06 .06 (running maximum).
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert len(stats.holm([])) == 0


def test_original_formulas() -> None:
    values = np.array([0.2, 0.4, 0.6, 0.8])
    assert stats.metaoptnet_interval(values, 300) == pytest.approx(1.96 * np.sqrt(0.05) / np.sqrt(5))
    assert stats.normal_interval(values, 300) == pytest.approx(1.96 * np.sqrt(0.2 / 3) / 2)
    assert stats.predictions_interval(values, 300) == pytest.approx(1.96 * np.sqrt(0.25 / 300))


def test_predictions_interval_gives_the_published_widths_of_cxgrad() -> None:
    published = {0.5180: 0.46, 0.6982: 0.42, 0.5555: 0.46, 0.7355: 0.41}
    for accuracy, width in published.items():
        assert round(100 * stats.predictions_interval(np.array([accuracy]), 45_000), 2) == width


def crossed(rng: np.random.Generator, seeds: int, episodes: int, sd_seed: float) -> np.ndarray:
    """Draw accuracies, (seeds, episodes), around 0.6: standard deviation 0.08 between episodes, residual 0.05."""
    seed_effect = rng.normal(0, sd_seed, (seeds, 1))
    return 0.6 + seed_effect + rng.normal(0, 0.08, episodes) + rng.normal(0, 0.05, (seeds, episodes))


@pytest.mark.parametrize(
    ("seeds", "sd_seed"), [(1, 0.0), (3, 0.01), (5, 0.01), (5, 0.005), (10, 0.003), (3, 0.03), (2, 0.03)]
)
def test_intervals_over_both_cover_the_truth(seeds: int, sd_seed: float) -> None:
    rng = np.random.default_rng(100 * seeds)
    estimates = [stats.over_both(crossed(rng, seeds, 200, sd_seed)) for _ in range(3000)]
    covered = np.mean([abs(e.mean - 0.6) <= e.ci95 for e in estimates])
    assert 0.93 <= covered <= 0.97


def test_intervals_over_seeds_cover_the_truth() -> None:
    rng = np.random.default_rng(4)
    estimates = [stats.over_seeds(0.6 + rng.normal(0, 0.01, (3, 1)) + np.zeros((3, 20))) for _ in range(3000)]
    assert 0.93 <= np.mean([abs(e.mean - 0.6) <= e.ci95 for e in estimates]) <= 0.97


def test_intervals_over_episodes_cover_the_truth_for_real_accuracies() -> None:
    """Accuracies over 75 predictions with a difficulty that varies by episode: skewed and discrete, as in practice."""
    rng = np.random.default_rng(5)
    difficulty = rng.beta(16, 4, (3000, 600))
    estimates = [stats.over_episodes(row) for row in rng.binomial(75, difficulty) / 75]
    assert 0.93 <= np.mean([abs(e.mean - 0.8) <= e.ci95 for e in estimates]) <= 0.97


@pytest.mark.parametrize("sd_seed", [0.0, 0.01])
def test_paired_intervals_cover_the_truth(sd_seed: float) -> None:
    rng = np.random.default_rng(6)
    seeds = 5 if sd_seed else 1
    covered = []
    for _ in range(3000):
        shared = rng.normal(0, 0.08, 200)
        ours, theirs = (crossed(rng, seeds, 200, sd_seed) + shared for _ in range(2))
        difference = stats.paired_difference(ours + 0.02, theirs)
        covered.append(abs(difference.mean - 0.02) <= difference.ci95)
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize(("seeds", "sd_run"), [(1, 0.0), (2, 0.003), (3, 0.003), (3, 0.01), (5, 0.01)])
def test_two_tests_of_the_same_trainings_are_compared_without_what_they_share(seeds: int, sd_run: float) -> None:
    rng = np.random.default_rng(9)
    covered, widths, apart = [], [], []
    for _ in range(2000):
        trained = crossed(rng, seeds, 200, 0.04)
        run_effect = rng.normal(0, sd_run, (seeds, 1))
        tested = trained + 0.02 + run_effect + rng.normal(0, 0.03, 200) + rng.normal(0, 0.03, (seeds, 200))
        difference = stats.difference_of_same_trainings(tested, trained)
        covered.append(abs(difference.mean - 0.02) <= difference.ci95)
        widths.append(difference.ci95)
        apart.append(stats.paired_difference(tested, trained).ci95)
    assert 0.93 <= np.mean(covered) <= (0.97 if seeds == 1 else 1.0)
    assert np.median(widths) <= np.median(apart) * (1.0 if seeds == 1 else 0.4)


def test_other_trainings_cannot_be_compared_training_by_training() -> None:
    with pytest.raises(ValueError, match=r"shapes \(3, 30\) and \(2, 30\)"):
        stats.difference_of_same_trainings(np.zeros((3, 30)), np.zeros((2, 30)))


def test_the_binomial_interval_is_too_narrow_when_episodes_differ() -> None:
    """Shows why the formula of the original programs is not used."""
    rng = np.random.default_rng(7)
    rows = rng.binomial(75, rng.beta(16, 4, (2000, 600))) / 75
    covered = [abs(row.mean() - 0.8) <= stats.predictions_interval(row, 600 * 75) for row in rows]
    assert np.mean(covered) < 0.80


def test_the_deviation_of_seed_means_keeps_the_noise_that_the_analysis_of_variance_removes() -> None:
    accuracies = np.array([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.5]])
    deviation, without_noise = stats.deviation_of_seed_means(accuracies), stats.run_deviation(accuracies)
    assert deviation is not None
    assert without_noise is not None
    assert (deviation.std_error, deviation.dof) == (pytest.approx(0.125 / np.sqrt(2)), 1)
    assert without_noise.std_error == 0
    assert stats.deviation_of_seed_means(accuracies[:1]) is None
