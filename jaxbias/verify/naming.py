"""Names the mistake."""


def name_mistakes(checker, cases, off, rng):
    from jaxbias.verify.report import Diagnosis

    return [Diagnosis(checker.problem.leaves[i][0], "unexplained", "?") for i in off], "", []
