"""From evidence to probabilities, by hand and next to a slow oracle."""

import numpy as np
import pytest

from atss_jax.review.calibration import fault_probability, rising_mean


def test_values_that_fall_are_pooled():
    places, values = np.arange(4.0), np.array([1.0, 3, 2, 5])
    assert rising_mean(places, values, np.ones(4)).tolist() == [1, 2.5, 2.5, 5]
    weights = np.array([1.0, 1, 3, 1])
    assert rising_mean(places, values, weights).tolist() == [1, 2.25, 2.25, 5]


def test_equal_places_have_equal_results_in_any_order():
    places, values = np.array([2.0, 1, 2, 0]), np.array([4.0, 1, 2, 0])
    assert rising_mean(places, values, np.ones(4)).tolist() == [3, 1, 3, 0]


def test_next_to_the_formula_with_minima_of_maxima():
    """Source: Robertson et al., Order Restricted Statistical Inference, 1.4."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        values, weights = rng.normal(size=12), rng.uniform(0.5, 2, 12)

        def mean(first, last, values=values, weights=weights):
            span = slice(first, last + 1)
            return np.average(values[span], weights=weights[span])

        expected = [
            max(min(mean(a, b) for b in range(i, 12)) for a in range(i + 1))
            for i in range(12)
        ]
        result = rising_mean(np.arange(12.0), values, weights)
        np.testing.assert_allclose(result, expected, atol=1e-12)


def test_the_rule_of_bayes_by_hand():
    """10 of 100 suspects have evidence 1, and 8 in 10 of the rehearsed faults have.

    With a share of 0.05, 5 faults are expected, 4 of them with evidence 1: 4 of 10.
    Evidence 0 has 90 suspects, and 1 fault is expected.
    """
    evidence = np.repeat([1.0, 0.0], [10, 90])
    rehearsed = np.repeat([1.0, 0.0], [8, 2])
    probability = fault_probability(evidence, rehearsed, 0.05)
    np.testing.assert_allclose(probability[:10], 0.4)
    np.testing.assert_allclose(probability[10:], 1 / 90)


def test_suspects_may_be_fewer_than_the_annotations():
    """One suspect, as strong as half of the 10 faults expected of 200 annotations."""
    probability = fault_probability(np.array([1.0]), np.array([0.0, 1]), 0.05, 200)
    assert probability.tolist() == [1]


def test_probabilities_rise_with_the_evidence_and_stay_below_one():
    rng = np.random.default_rng(1)
    evidence = np.sort(rng.uniform(size=500))
    probability = fault_probability(evidence, rng.uniform(0.5, 1.5, 300), 0.05)
    assert (np.diff(probability) >= 0).all()
    assert probability.min() >= 0 and probability.max() <= 1


@pytest.mark.parametrize(('suspects', 'rehearsed'), [(0, 3), (3, 0)])
def test_nothing_to_compare(suspects, rehearsed):
    result = fault_probability(np.zeros(suspects), np.zeros(rehearsed), 0.05)
    assert result.tolist() == [0] * suspects
