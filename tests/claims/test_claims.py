import jax
import pytest

from jaxbias import claims

EXACT = [each.number for each in claims.select() if not each.statistical]
STATISTICAL = [each.number for each in claims.select() if each.statistical]


def assert_holds(number):
    result = claims.run_claim(claims.REGISTRY[number])
    assert not result.error, result.error
    assert all(finding.passed for finding in result.findings), [f for f in result.findings if not f.passed]


@pytest.mark.parametrize("number", EXACT)
def test_claim(number):
    assert_holds(number)


@pytest.mark.slow
@pytest.mark.parametrize("number", STATISTICAL)
def test_statistical_claim(number):
    assert_holds(number)


SHEET = {"A0": 19, "A1": 22, "A2": 8, "A3": 13, "A4": 10}
"""How many numbered statements each article has; the errata are E1-E26."""


def test_every_number_of_the_sheet_is_a_claim_and_no_other():
    wanted = {f"{article}.{i}" for article, count in SHEET.items() for i in range(1, count + 1)}
    wanted |= {f"E{i}" for i in range(1, 27)}
    assert {number for number in claims.REGISTRY if number[0] in "AE"} == wanted
    assert len(wanted) == 98
    assert all(number[0] in "AEFS" for number in claims.REGISTRY)


def test_every_claim_says_what_it_is():
    for each in claims.REGISTRY.values():
        assert each.statement.endswith(".") and each.expected, each.number
        assert each.verdict == claims.HOLDS or each.article or each.number[0] == "S", each.number
        assert each.source or each.number[0] != "F", each.number


def test_every_statement_of_an_article_is_traced_to_it():
    for number in claims.REGISTRY:
        articles = claims.articles_of(number)
        assert bool(articles) == (number[0] in "AE"), number
        assert all(article.address.startswith("https://") and article.title for article in articles)
    assert [article.number for article in claims.articles_of("A3.5")] == [3]


def test_experiments_are_functions_of_their_key_and_leave_the_configuration_alone():
    def settings():
        return jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion, jax.config.jax_numpy_rank_promotion

    before = settings()
    first, again = (claims.run_claim(claims.REGISTRY["A0.7"], jax.random.key(3)) for _ in range(2))
    other = claims.run_claim(claims.REGISTRY["A0.7"], jax.random.key(4))
    name = "slope − formula"
    assert (first.values[name] == again.values[name]).all()
    assert (first.values[name] != other.values[name]).any()
    assert settings() == before
