"""Norms of every model of the zoo are those of single examples."""

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from zoo import adapted, language, sequence, structures, tabular, vision, vision_attention  # noqa: E402
from zoo.entry import assert_exact, takes_no_examples  # noqa: E402

FAMILIES = {
    "vision": vision.MODELS,
    "vision with attention": vision_attention.MODELS,
    "sequences": sequence.MODELS,
    "language": language.MODELS,
    "tables": tabular.MODELS,
    "structures": structures.MODELS,
    "adapted": adapted.MODELS,
}
ALL = {f"{family}: {name}": model for family, models in FAMILIES.items() for name, model in models.items()}


@pytest.mark.parametrize("name", ALL)
def test_norms_are_those_of_single_examples(name):
    assert_exact(ALL[name])


@pytest.mark.filterwarnings("ignore")  # of means of nothing
@pytest.mark.parametrize("family", FAMILIES)
def test_no_examples_have_no_norms(family):
    taken = [takes_no_examples(model) for model in FAMILIES[family].values()]
    assert sum(taken) > len(taken) / 2
