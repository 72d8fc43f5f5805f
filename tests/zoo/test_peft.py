"""Norms of models with adapters of peft, whose base is frozen, are those of single sentences."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)
import zoo.torchvision_operators  # noqa: E402, F401  before transformers

pytest.importorskip("transformers", reason="these models are those of transformers", exc_type=ImportError)
peft = pytest.importorskip("peft", reason="these adapters are those of peft", exc_type=ImportError)

from expunge.torch import UnsupportedLayerError  # noqa: E402
from zoo.language_models import (  # noqa: E402
    ROWS,
    assert_exact,
    batch_of,
    block_norms,
    build,
    loss_of,
    spread,
    without_random_layers,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),  # how peft calls transformers
    pytest.mark.filterwarnings("ignore:Unsupported layer type"),  # what it says of normalising layers
]

ROW = {row.model: row for row in reversed(ROWS)}
BERT, LLAMA, GPT2 = "BertForSequenceClassification", "LlamaForCausalLM", "GPT2LMHeadModel"
T5 = "T5ForConditionalGeneration"


def lora(*targets, **settings):
    return lambda task: peft.LoraConfig(r=2, lora_dropout=0.0, target_modules=list(targets), task_type=task, **settings)


def prompts(kind, **settings):
    return lambda task: kind(num_virtual_tokens=3, task_type=task, **settings)


ADAPTERS = {
    "LoRA": (BERT, lora("query", "value")),
    "LoRA and a head that is trained": (BERT, lora("query", modules_to_save=["classifier"])),
    "LoRA with biases": (BERT, lora("query", "dense", bias="lora_only")),
    "rank-stabilised LoRA": (BERT, lora("key", use_rslora=True)),
    "LoRA on all layers": (LLAMA, lambda task: peft.LoraConfig(r=2, target_modules="all-linear", task_type=task)),
    "LoRA on embeddings": (LLAMA, lora("q_proj", "embed_tokens")),
    "LoRA and embeddings that are trained": (LLAMA, lora("q_proj", modules_to_save=["embed_tokens", "lm_head"])),
    "LoRA on a convolution of GPT-2": (GPT2, lora("c_attn", fan_in_fan_out=True)),
    "LoRA on encoder and decoder": (T5, lora("q", "v")),
    "DoRA": (LLAMA, lora("q_proj", use_dora=True)),
    "AdaLoRA": (LLAMA, lambda task: peft.AdaLoraConfig(
        init_r=2, target_modules=["q_proj"], total_step=10, task_type=task)),
    "VeRA": (LLAMA, lambda task: peft.VeraConfig(r=2, target_modules=["q_proj"], task_type=task)),
    "LoKr": (LLAMA, lambda task: peft.LoKrConfig(r=2, target_modules=["q_proj"], task_type=task)),
    "OFT": (LLAMA, lambda task: peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"], task_type=task)),
    "IA3": (LLAMA, lambda task: peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type=task)),
    "IA3 on BERT": (BERT, lambda task: peft.IA3Config(
        target_modules=["key", "value"], feedforward_modules=[], task_type=task)),
    "normalising layers": (LLAMA, lambda task: peft.LNTuningConfig(task_type=task)),
    "prompt tuning": (LLAMA, prompts(peft.PromptTuningConfig)),
    "prompt tuning of BERT": (BERT, prompts(peft.PromptTuningConfig)),
    "P-tuning": (LLAMA, prompts(peft.PromptEncoderConfig, encoder_hidden_size=4)),
    "prefix tuning": (LLAMA, prompts(peft.PrefixTuningConfig)),
    "prefix tuning of T5": (T5, prompts(peft.PrefixTuningConfig)),
}  # fmt: skip
REFUSED = {
    "LoHa": (LLAMA, lambda task: peft.LoHaConfig(r=2, target_modules=["q_proj"], task_type=task), "hada_w1_a"),
}  # fmt: skip
BATCHES = (1, 2, 3, 5)
TASKS = {"classes": "SEQ_CLS", "next words": "CAUSAL_LM", "pairs": "SEQ_2_SEQ_LM"}


def adapted(model, config, attention):
    row = ROW[model]
    built = peft.get_peft_model(build(row, attention), config(TASKS[row.task])).double()
    return without_random_layers(spread(built))


def loss(model, given):
    """A sum over what the model gives for all of its tokens, virtual ones among them."""
    return (model(**given).logits * 1.3).sin().sum()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_norms_of_adapters_are_those_of_single_sentences(name, attention):
    model, config = ADAPTERS[name]
    built, row = adapted(model, config, attention), ROW[model]
    frozen = [n for n, p in built.named_parameters() if not p.requires_grad]
    assert frozen
    for batch in BATCHES if attention == "sdpa" else (3,):
        given = batch_of(row, batch)
        assert_exact(built.train(batch == 3), given, loss, param_grads=batch == 2)
    if "prompt" not in name and "tuning" not in name:
        given = batch_of(row, 3)
        assert_exact(built.eval(), given, lambda m, g: loss_of(row, m(**g), g))


@pytest.mark.parametrize("name", REFUSED)
def test_adapters_that_are_refused_say_where(name):
    model, config, message = REFUSED[name]
    with pytest.raises(UnsupportedLayerError, match=message):
        block_norms(adapted(model, config, "sdpa"), batch_of(ROW[model], 3), loss)
