import json

import numpy as np
import pytest

from jaxbias import claims
from jaxbias.claims import _conditions as conditions


def planted(found, expected):
    return claims.Claim("X1", "planted", claims.HOLDS, lambda key: found, expected)


@pytest.mark.parametrize(
    ("condition", "good", "bad"),
    [
        (conditions.near(1.0, 0.1), [1.05, 0.95], [1.05, 1.11]),
        (conditions.near([1.0, 2.0], 0.1), [1.05, 1.95], [1.95, 1.05]),
        (conditions.exactly(0.0), [0.0, 0.0], [0.0, 1e-300]),
        (conditions.below(1), [0.5, 0.9], [0.5, 1.0]),
        (conditions.above(1), [1.1, 2.0], [1.0, 2.0]),
        (conditions.at_most(1), [1.0, 0.0], [1.1, 0.0]),
        (conditions.within(0, 1), [0.0, 1.0], [0.5, 1.01]),
        (conditions.true(), [True, True], [True, False]),
        (conditions.mean_near(0, 0.5), [-0.1, 0.1, 0.2], [0.9, 1.0, 1.1]),
        (conditions.mean_above(0), [0.9, 1.0, 1.1], [-5.0, 1.0, 8.0]),
        (conditions.mean_below(0), [-0.9, -1.0, -1.1], [-8.0, -1.0, 5.0]),
        (conditions.mean_within(0, 2), [0.9, 1.0, 1.1], [1.9, 2.0, 2.1]),
        (conditions.reported(), [1.0, 2.0], [1.0, np.inf]),
    ],
    ids=lambda value: getattr(value, "expected", ""),
)
def test_a_condition_separates_good_from_bad_and_nan_never_holds(condition, good, bad):
    assert condition.holds(np.array(good))
    assert not condition.holds(np.array(bad))
    if condition.expected != "yes":
        assert not condition.holds(np.array([np.nan, *good[1:]]))
    assert condition.expected and condition.show(np.array(good))


def test_a_scalar_where_an_array_was_expected_is_no_pass():
    assert not conditions.near([1.0, 1.0], 0.1).holds(np.array(1.0))
    assert not conditions.exactly([1.0, 1.0]).holds(np.array(1.0))


def test_a_failed_check_is_reported_as_failed():
    result = claims.run_claim(planted({"x": 2.0}, {"x": conditions.near(1.0, 0.5)}))
    assert not result.passed and (result.verdict, result.source_verdict) == ("FAILED", "undecided")
    assert result.findings[0].measured == "2"


def test_a_missing_quantity_and_an_exception_are_failures():
    missing = claims.run_claim(planted({"y": 1.0}, {"x": conditions.true()}))
    assert not missing.passed and "expected ['x']" in missing.error
    broken = claims.Claim("X2", "planted", claims.HOLDS, lambda key: 1 / 0, {})
    result = claims.run_claim(broken)
    assert not result.passed and result.error == "ZeroDivisionError: division by zero"


def test_select_orders_numbers_and_takes_groups():
    numbers = [each.number for each in claims.select(["a4.10", "E2", "A4.9", "E1"])]
    assert numbers == ["A4.9", "A4.10", "E1", "E2"]
    assert {each.number[:3] for each in claims.select(["A4"])} == {"A4."}
    assert {each.number[0] for each in claims.select(["E"])} == {"E"}


def test_an_unknown_number_is_refused():
    with pytest.raises(ValueError, match=r"there is no claim 'A9.9'. There are A0.1-A0.1\d, A1.1-"):
        claims.select(["A9.9"])


def test_a_number_is_given_once_and_the_verdict_is_one_of_three():
    with pytest.raises(ValueError, match=r"A4\.7 is taken by fit_with_bias"):
        claims.claim("A4.7", "again", claims.HOLDS, {})
    with pytest.raises(ValueError, match="verdict must be one of"):
        claims.claim("X1", "a verdict of its own", "perhaps", {})


def test_results_come_in_order_and_as_json():
    seen = []
    results = claims.run(["E12", "A4.6"], done=lambda result: seen.append(result.claim.number))
    assert [result.claim.number for result in results] == ["A4.6", "E12"]
    assert sorted(seen) == ["A4.6", "E12"]
    records = json.loads(claims.to_json(results))
    assert records[0]["number"] == "A4.6" and records[0]["passed"] is True
    assert records[0]["articles"][0]["address"].startswith("https://mlmadesimple.in/")
    told = {key: records[1][key] for key in ("source_says", "source_verdict", "statement", "verdict")}
    assert told == {
        "source_says": "The weight is the importance of its input.",
        "source_verdict": "refuted",
        "statement": claims.REGISTRY["E12"].statement,
        "verdict": "shown",
    }
    assert records[0]["findings"][0] == {
        "name": "slope",
        "measured": "3.2001405",
        "expected": "3.2001405 ± 1e-09",
        "passed": True,
    }
