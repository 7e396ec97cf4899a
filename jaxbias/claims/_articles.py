"""The articles whose statements the claims examine, and the groups in which results are told.

The sheet of claims quotes the articles without an address. Articles 0, 1, 3 and 4 were recognised by what only they
print (their data, code, examples and equations), article 2 by its wording.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jaxbias.claims._run import Result


class Article(NamedTuple):
    """A public article on weights and biases."""

    number: int
    title: str
    site: str
    address: str


ARTICLES = (
    Article(0, "Bias Neurons using R", "GeeksforGeeks", "https://www.geeksforgeeks.org/bias-neurons-using-r/"),
    Article(
        1,
        "What Is the Role of the Bias in Neural Networks",
        "Intellipaat",
        "https://intellipaat.com/blog/what-is-the-role-of-the-bias-in-neural-networks",
    ),
    Article(
        2,
        "Understanding Weight and Bias in Neural Networks",
        "Melaney Kakkar",
        "https://melaneykakkar.com/weight-and-bias/",
    ),
    Article(
        3,
        "Bias Update in Neural Network Backpropagation",
        "Baeldung",
        "https://www.baeldung.com/cs/deep-learning-bias-backpropagation",
    ),
    Article(
        4,
        "Understanding the Role of Bias in Convolutional Neural Networks (CNN)",
        "ML Made Simple",
        "https://mlmadesimple.in/understanding-the-role-of-bias-in-convolutional-neural-networks-cnn/",
    ),
)

_ERRATA = {
    1: (4,), 2: (0,), 3: (0,), 4: (0, 1), 5: (0, 1), 6: (1,), 7: (1,), 8: (1,), 9: (1,), 10: (1, 4), 11: (1,), 12: (2,),
    13: (1, 2), 14: (1,), 15: (1,), 16: (1,), 17: (1,), 18: (1,), 19: (1,), 20: (2,), 21: (2,), 22: (3,), 23: (3,),
    24: (0,), 25: (1,), 26: (2,),
}  # fmt: skip
"""Number of an erratum → the articles that it corrects."""


def articles_of(number: str) -> tuple[Article, ...]:
    """The articles that make the statement of this number; none for published facts and our own statistics.

    >>> [article.site for article in articles_of("E10")]
    ['Intellipaat', 'ML Made Simple']
    """
    if number[0] == "A":
        return (ARTICLES[int(number[1])],)
    return tuple(ARTICLES[article] for article in _ERRATA[int(number[1:])]) if number[0] == "E" else ()


class Group(NamedTuple):
    """Results that are told together, under a title."""

    title: str
    results: "list[Result]"


def grouped(results: "Iterable[Result]") -> list[Group]:
    """Results by article, then errata, published facts and statistics; groups without results are left out."""
    titles = {f"A{article.number}": f"Article {article.number}: {article.title}" for article in ARTICLES}
    titles |= {"E": "Errata of these articles", "F": "Published facts", "S": "Statistics of our own"}
    groups = {key: Group(title, []) for key, title in titles.items()}
    for result in results:
        number = result.claim.number
        groups[number[:2] if number[0] == "A" else number[0]].results.append(result)
    return [group for group in groups.values() if group.results]
