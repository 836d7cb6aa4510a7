import random

import pytest

from nat_ar.data.toy import corpus, grammar

SAMPLES = 800


@pytest.fixture(scope="module")
def sentences() -> list[grammar.Sentence]:
    generator = random.Random(17)
    return [corpus.draw(generator) for _ in range(SAMPLES)]
