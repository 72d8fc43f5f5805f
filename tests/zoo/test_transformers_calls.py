"""Norms of language models of transformers however they are called: caches, embeddings, positions, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)
import zoo.torchvision_operators  # noqa: E402, F401  before transformers

pytest.importorskip("transformers", reason="these models are those of transformers", exc_type=ImportError)

from expunge.torch import GradNorms, UnsupportedLayerError  # noqa: E402
from zoo.language_models import LENGTH, ROWS, assert_exact, batch_of, build, loss_of  # noqa: E402

# Names that a later version will drop are those that people use.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")

ROW = {row.model: row for row in reversed(ROWS)}
BERT, GPT2, LLAMA, QWEN = "BertForSequenceClassification", "GPT2LMHeadModel", "LlamaForCausalLM", "Qwen2ForCausalLM"
T5 = "T5ForConditionalGeneration"


def some(output):
    return (output * 1.3).sin().sum()


def without_labels(given):
    return {name: tensor for name, tensor in given.items() if name not in ("labels", "vectors")}


def with_cache(model, given):
    """The first tokens, then the others with what was kept of the first."""
    tokens, mask = given["input_ids"], given["attention_mask"]
    first = model(input_ids=tokens[:, :2], attention_mask=mask[:, :2], use_cache=True)
    kept = first.past_key_values
    return some(first.logits) + some(model(tokens[:, 2:], attention_mask=mask, past_key_values=kept).logits)


def all_layers(model, given):
    output = model(**without_labels(given), output_hidden_states=True)
    return sum(some(layer * (k + 1)) for k, layer in enumerate(output.hidden_states))


def weights_of_attention(model, given):
    return sum(some(w) for w in model(**without_labels(given), output_attentions=True).attentions)


def as_a_tuple(model, given):
    return some(model(**without_labels(given), return_dict=False)[0])


def embedded_before(model, given):
    vectors = model.get_input_embeddings()(given["input_ids"])
    return some(model(inputs_embeds=vectors, attention_mask=given["attention_mask"]).logits)


def vectors_given(model, given):
    return some(model(inputs_embeds=given["vectors"], attention_mask=given["attention_mask"]).logits)


def positions_given(model, given):
    positions = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return some(model(**without_labels(given), position_ids=positions).logits)


def sentences_packed(model, given):
    """Several sentences in a row, told by positions that start again, at another place in each row."""
    starts = given["input_ids"] % 3 == 0
    steps = torch.arange(LENGTH).expand_as(starts)
    positions = steps - torch.where(starts, steps, 0).cummax(1).values
    return some(model(input_ids=given["input_ids"], position_ids=positions).logits)


def kinds_given(model, given):
    return some(model(**without_labels(given), token_type_ids=(given["input_ids"] > 8).long()).logits)


def a_mask_of_all_pairs(model, given):
    mask = given["attention_mask"].bool()[:, None, None] & torch.ones(LENGTH, LENGTH).tril().bool()
    return some(model(input_ids=given["input_ids"], attention_mask=mask | torch.eye(LENGTH).bool()).logits)


def two_batches_of_sentences(model, given):
    turned = {**without_labels(given), "input_ids": given["input_ids"].flip(1)}
    return some(model(**without_labels(given)).logits) - 0.7 * some(model(**turned).logits)


CALLS = [
    *((with_cache, model, both) for model in (GPT2, LLAMA, QWEN) for both in ("eager", "sdpa")),
    *((all_layers, model, "sdpa") for model in (BERT, GPT2, LLAMA)),
    *((weights_of_attention, model, "eager") for model in (BERT, GPT2, LLAMA)),
    *((as_a_tuple, model, "sdpa") for model in (BERT, GPT2)),
    *((embedded_before, model, "sdpa") for model in (BERT, GPT2, LLAMA)),
    *((vectors_given, model, "sdpa") for model in (BERT, GPT2, LLAMA)),
    *((positions_given, model, both) for model in (BERT, GPT2, LLAMA) for both in ("eager", "sdpa")),
    *((sentences_packed, model, both) for model in (LLAMA, QWEN) for both in ("eager", "sdpa")),
    (kinds_given, BERT, "sdpa"),
    *((a_mask_of_all_pairs, model, both) for model in (BERT, LLAMA) for both in ("eager", "sdpa")),
    (two_batches_of_sentences, BERT, "sdpa"),
]


def with_vectors(row, batch):
    given = batch_of(row, batch)
    generator = torch.Generator().manual_seed(4)
    return {**given, "vectors": torch.randn(batch, LENGTH, 8, dtype=torch.float64, generator=generator)}


@pytest.mark.parametrize(("call", "model", "attention"), CALLS)
def test_norms_are_those_of_single_sentences_however_a_model_is_called(call, model, attention):
    built = build(ROW[model], attention).eval()
    for batch in (1, 2, 3, LENGTH):
        assert_exact(built, with_vectors(ROW[model], batch), call, param_grads=batch == 2)


CHECKPOINTED = [BERT, GPT2, LLAMA, T5, "BartForConditionalGeneration", "MambaForCausalLM"]


def checkpointed(model, reentrant):
    built = build(ROW[model], ROW[model].attention[-1]).train()
    built.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    return built


def loss_as_it_is(row):
    return lambda model, given: loss_of(row, model(**given), given)


@pytest.mark.parametrize(
    ("model", "reentrant"), [(m, r) for m in CHECKPOINTED for r in (True, False) if m != T5 or not r]
)
def test_norms_with_checkpoints_are_those_of_single_sentences(model, reentrant):
    row, built = ROW[model], checkpointed(model, reentrant)
    for batch in (1, 3):
        for param_grads in (True, False):
            assert_exact(built, batch_of(row, batch), loss_as_it_is(row), param_grads=param_grads)


def test_a_checkpoint_with_reentry_that_gives_the_same_to_all_sentences_is_refused():
    built = checkpointed(T5, True)  # the biases of positions come out beside the states
    with pytest.raises(UnsupportedLayerError, match="no torch function shows"), GradNorms(built) as g:  # noqa: PT012
        loss_as_it_is(ROW[T5])(built, batch_of(ROW[T5], 3)).backward()
        g.norms()


def test_a_loss_divided_by_a_number_of_tokens_of_all_processes_is_a_sum_divided_by_it():
    model, given = build(ROW[LLAMA], "sdpa").eval(), batch_of(ROW[LLAMA], 3)
    counts = (given["labels"][:, 1:] != -100).sum(1)
    with GradNorms(model, loss_reduction="token-mean", counts=counts) as g:
        model(**given, num_items_in_batch=int(counts.sum())).loss.backward()
        expected = g.norms().numpy()
    with GradNorms(model, loss_reduction="token-mean", counts=counts) as g:
        model(**given).loss.backward()
        np.testing.assert_allclose(g.norms().numpy(), expected, rtol=3e-6)
