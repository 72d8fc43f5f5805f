"""Tiny language models of transformers with random weights, and batches of padded sentences for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from torch import Tensor, nn

from expunge.torch import GradNorms
from torch_norms import gradients

VOCABULARY, LENGTH, CLASSES = 17, 5, 3  # LENGTH is also a number of examples: axes must not be told by length
PAD, IGNORED, END = 1, -100, 2

SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 12, "max_position_embeddings": 16, "num_labels": CLASSES, "pad_token_id": PAD,
    "bos_token_id": 0, "eos_token_id": END,
}  # fmt: skip
PROBABILITIES = ("drop", "pdrop")  # parts of the names of settings that make a forward pass random


class Row(NamedTuple):
    """A model of the table: its class, its task, its settings beside `SMALL`, and what is special about it."""

    model: str
    task: str
    settings: dict[str, Any] | None = None
    attention: tuple[str, ...] = ("eager", "sdpa")
    left: bool = False  # padded on the left
    masked: bool = True  # called with a mask
    refused: str = ""  # what the error says, if the norms are not given
    own_refused: str = ""  # what it says of the loss that the model computes itself

    def __str__(self) -> str:
        """Return the name of the row in the names of tests."""
        notes = ", left" * self.left + ", without mask" * (not self.masked)
        return f"{self.model}: {self.task}{notes}"


def build(row: Row, attention: str) -> nn.Module:
    """Return the model in float64, without dropout."""
    torch.manual_seed(0)
    model_class = getattr(transformers, row.model)
    config = model_class.config_class(**{k: v for k, v in {**SMALL, **(row.settings or {})}.items() if v is not None})
    config._attn_implementation = attention
    model = spread(model_class._from_config(without_dropout(config)).double())
    return without_random_layers(model)


def without_dropout(config: Any) -> Any:
    """Return settings in which all probabilities of dropout are 0."""
    for name, value in vars(config).items():
        if isinstance(value, float) and any(part in name for part in PROBABILITIES):
            setattr(config, name, 0.0)
    return config


def without_random_layers(model: nn.Module) -> nn.Module:
    """Return a model whose dropout layers, however they were set, keep everything."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def spread(model: nn.Module) -> nn.Module:
    """Move parameters off their first values, under which some gradients are zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    return model


def sentences(batch: int, length: int = LENGTH, *, left: bool = False, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Return token numbers and a mask of sentences of different lengths, each with one token for its end."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, VOCABULARY, (batch, length), generator=generator)
    lengths = torch.tensor([length - (2 * k) % (length - 1) for k in range(batch)])
    mask = (torch.arange(length) < lengths[:, None]).long()
    tokens[torch.arange(batch), lengths - 1] = END
    tokens = tokens.masked_fill(mask == 0, PAD)
    return (tokens.flip(1), mask.flip(1)) if left else (tokens, mask)


def batch_of(row: Row, batch: int) -> dict[str, Tensor]:
    """Return a batch for the task of a model, with labels."""
    tokens, mask = sentences(batch, left=row.left)
    given = {"input_ids": tokens, "attention_mask": mask, **TASKS[row.task](tokens, mask)}
    if not row.masked:
        del given["attention_mask"]
        given["input_ids"] = given["input_ids"].masked_fill(given["input_ids"] == PAD, 4)
    return given


def _numbers(high: int, *shape: int, seed: int = 5) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def _nothing(tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    return {}


def _classes(tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    return {"labels": _numbers(CLASSES, len(tokens))}


def _tags(tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    return {"labels": _numbers(CLASSES, *tokens.shape).masked_fill(mask == 0, IGNORED)}


def _replaced(tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    return {"labels": _numbers(2, *tokens.shape)}


def _causal(tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    return {"labels": tokens.masked_fill(mask == 0, IGNORED)}


def _guesses(tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return labels for another number of tokens in each sentence."""
    guessed = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(9)) < 0.5
    guessed[:, 0] = True
    return {"labels": tokens.masked_fill((mask == 0) | ~guessed, IGNORED)}


def _pairs(tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    labels, held = sentences(len(tokens), 4, seed=8)
    return {"labels": labels.masked_fill(held == 0, IGNORED).flip(0)}


def _spans(tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    return {"start_positions": _numbers(LENGTH, len(tokens)), "end_positions": _numbers(LENGTH, len(tokens), seed=6)}


def _choices(tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    several, masks = sentences(len(tokens) * CLASSES)
    shape = (len(tokens), CLASSES, LENGTH)
    return {"input_ids": several.view(shape), "attention_mask": masks.view(shape), **_classes(tokens, mask)}


TASKS: dict[str, Callable[[Tensor, Tensor], dict[str, Tensor]]] = {
    "hidden": _nothing, "classes": _classes, "tags": _tags, "replaced tokens": _replaced, "masked words": _guesses,
    "next words": _causal, "pairs": _pairs, "spans": _spans, "choices": _choices,
}  # fmt: skip


def loss_of(row: Row, output: Any, given: dict[str, Tensor]) -> Tensor:
    """Return a sum over examples of their losses, computed from a model's outputs."""
    if row.task == "hidden":
        mask = given.get("attention_mask", torch.ones_like(given["input_ids"]))
        return (output.last_hidden_state * 1.3).sin().mul(mask[..., None]).sum()
    if row.task == "spans":
        return sum(
            F.cross_entropy(output[f"{end}_logits"], given[f"{end}_positions"], reduction="sum")
            for end in ("start", "end")
        )
    scores, labels = output.logits, given["labels"]
    if row.task == "replaced tokens":
        return F.binary_cross_entropy_with_logits(scores, labels.double(), reduction="sum")
    if row.task == "next words":
        scores, labels = scores[:, :-1], labels[:, 1:]
    scores = scores.movedim(-1, 1)
    return F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum")


def reduction_of(row: Row, given: dict[str, Tensor]) -> dict[str, Any]:
    """Return how the loss that a model computes itself is put together."""
    if row.task in ("classes", "choices", "spans"):
        return {"loss_reduction": "mean"}
    if row.task == "replaced tokens":
        return {"loss_reduction": "token-mean", "counts": given["attention_mask"].sum(1)}
    labels = given["labels"][:, 1:] if row.task == "next words" else given["labels"]
    return {"loss_reduction": "token-mean", "counts": (labels != IGNORED).sum(1)}


def single_norms(
    model: nn.Module, given: dict[str, Tensor], loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
) -> np.ndarray:
    """Return norms from autograd on one example at a time, padding and all."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    out = []
    for i in range(len(given["input_ids"])):
        one = {name: tensor[i : i + 1] for name, tensor in given.items()}
        grads = gradients(loss(model, one), parameters)
        out.append(sum(float(g.square().sum()) for g in grads if g is not None) ** 0.5)
    return np.array(out)


def block_norms(
    model: nn.Module,
    given: dict[str, Tensor],
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor],
    **settings: Any,
) -> np.ndarray:
    """Return norms from one block."""
    with GradNorms(model, **settings) as g:
        loss(model, given).backward()
        return g.norms().numpy()


def assert_exact(
    model: nn.Module,
    given: dict[str, Tensor],
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor],
    rtol: float = 1e-9,
    **settings: Any,
) -> None:
    """Norms of a batch are those of single examples."""
    expected = single_norms(model, given, loss)
    assert np.all(np.isfinite(expected))
    assert np.all(expected > 0)
    found = block_norms(model, given, loss, **settings)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * expected.max())


_BART = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 12, "decoder_ffn_dim": 12,
         "decoder_start_token_id": END, "forced_eos_token_id": END}  # fmt: skip
_T5 = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
_GPT2 = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 12}
_DISTIL = {"dim": 8, "hidden_dim": 12, "n_layers": 2, "n_heads": 2}
_NARROW = {"embedding_size": 6}
_GROUPED = {"num_key_value_heads": 1}
_GEMMA = {"num_key_value_heads": 1, "head_dim": 4, "sliding_window": 3}
_MODERN = {"local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 0, "sep_token_id": END}
_OPT = {"ffn_dim": 12, "word_embed_proj_dim": 8}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4}
_XLM = {"emb_dim": 8, "n_layers": 2, "n_heads": 2}
EAGER = ("eager",)

ROWS = [
    Row("BertModel", "hidden"),
    Row("BertForSequenceClassification", "classes"),
    Row("BertForSequenceClassification", "classes", masked=False),
    Row("BertForSequenceClassification", "classes", left=True),
    Row("BertForMaskedLM", "masked words"),
    Row("BertForTokenClassification", "tags"),
    Row("BertForQuestionAnswering", "spans", {"num_labels": 2}),
    Row("BertForMultipleChoice", "choices"),
    Row("BertLMHeadModel", "next words", {"is_decoder": True}),
    Row("RobertaForSequenceClassification", "classes"),
    Row("RobertaForMaskedLM", "masked words"),
    Row("XLMRobertaForTokenClassification", "tags"),
    Row("CamembertForMaskedLM", "masked words"),
    Row("DistilBertForSequenceClassification", "classes", _DISTIL),
    Row("DistilBertForMaskedLM", "masked words", _DISTIL),
    Row("AlbertForSequenceClassification", "classes", _NARROW),
    Row("AlbertForMaskedLM", "masked words", _NARROW),
    Row("ElectraForSequenceClassification", "classes", _NARROW),
    Row("ElectraForPreTraining", "replaced tokens", _NARROW),
    Row("MPNetForSequenceClassification", "classes", None, EAGER),
    Row("MPNetForMaskedLM", "masked words", None, EAGER),
    Row("ModernBertForSequenceClassification", "classes", _MODERN),
    Row("ModernBertForMaskedLM", "masked words", _MODERN),
    Row("NomicBertForMaskedLM", "masked words"),
    Row("ErnieForSequenceClassification", "classes"),
    Row("LayoutLMForSequenceClassification", "classes"),
    Row("RoFormerForSequenceClassification", "classes", {"embedding_size": 8}, EAGER),
    Row("SqueezeBertForSequenceClassification", "classes", {
        "embedding_size": 8, "q_groups": 1, "k_groups": 1, "v_groups": 1, "post_attention_groups": 1,
        "intermediate_groups": 1, "output_groups": 1}, EAGER),
    Row("ConvBertForSequenceClassification", "classes",
        {"embedding_size": 8, "head_ratio": 1, "conv_kernel_size": 3}, EAGER),
    Row("MobileBertForSequenceClassification", "classes",
        {"embedding_size": 6, "intra_bottleneck_size": 8, "true_hidden_size": 8, "num_feedforward_networks": 1}),
    Row("FNetForSequenceClassification", "classes", None, EAGER, masked=False),
    Row("BigBirdForSequenceClassification", "classes", {"attention_type": "original_full"}, EAGER),
    Row("DebertaForSequenceClassification", "classes", _DEBERTA, EAGER, own_refused="positions along"),
    Row("DebertaV2ForSequenceClassification", "classes",
        {**_DEBERTA, "norm_rel_ebd": "layer_norm", "share_att_key": True}, EAGER, own_refused="positions along"),
    Row("DebertaV2ForMaskedLM", "masked words", _DEBERTA, EAGER),
    Row("XLMForSequenceClassification", "classes", _XLM, EAGER),
    Row("FlaubertForSequenceClassification", "classes", _XLM, EAGER),
    Row("LongformerForSequenceClassification", "classes", {"attention_window": 4}, EAGER,
        refused="setitem .* has no rule for rows that were picked"),
    Row("LEDForConditionalGeneration", "pairs", {
        **_BART, "attention_window": 4, "max_encoder_position_embeddings": 16, "max_decoder_position_embeddings": 16},
        EAGER, refused="as_strided .* has no rule"),
    Row("T5ForConditionalGeneration", "pairs", _T5),
    Row("T5ForSequenceClassification", "classes", _T5),
    Row("T5EncoderModel", "hidden", _T5),
    Row("MT5ForConditionalGeneration", "pairs", {**_T5, "feed_forward_proj": "gated-gelu"}),
    Row("BartForConditionalGeneration", "pairs", _BART),
    Row("BartForSequenceClassification", "classes", _BART),
    Row("MBartForConditionalGeneration", "pairs", _BART),
    Row("MarianMTModel", "pairs", {**_BART, "decoder_start_token_id": PAD}),
    Row("PegasusForConditionalGeneration", "pairs", _BART),
    Row("BlenderbotForConditionalGeneration", "pairs", _BART),
    Row("GPT2LMHeadModel", "next words", _GPT2),
    Row("GPT2LMHeadModel", "next words", _GPT2, left=True),
    Row("GPT2LMHeadModel", "next words", _GPT2, masked=False),
    Row("GPT2ForSequenceClassification", "classes", _GPT2),
    Row("GPTNeoForCausalLM", "next words",
        {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 2, "window_size": 3}, EAGER),
    Row("GPTJForCausalLM", "next words", {"n_embd": 8, "n_layer": 2, "n_head": 2, "rotary_dim": 2}),
    Row("GPTNeoXForCausalLM", "next words"),
    Row("BloomForCausalLM", "next words", {"n_layer": 2, "n_head": 2}, EAGER),
    Row("BloomForSequenceClassification", "classes", {"n_layer": 2, "n_head": 2}, EAGER),
    Row("OPTForCausalLM", "next words", _OPT),
    Row("OPTForSequenceClassification", "classes", _OPT),
    Row("LlamaForCausalLM", "next words", _GROUPED),
    Row("LlamaForCausalLM", "next words", _GROUPED, ("sdpa",), left=True),
    Row("LlamaForSequenceClassification", "classes", _GROUPED),
    Row("MistralForCausalLM", "next words", {**_GROUPED, "sliding_window": 3}),
    Row("Qwen2ForCausalLM", "next words", _GROUPED),
    Row("Qwen3ForCausalLM", "next words", {**_GROUPED, "head_dim": 4}),
    Row("GemmaForCausalLM", "next words", _GEMMA),
    Row("Gemma2ForCausalLM", "next words", _GEMMA, EAGER),
    Row("Gemma3ForCausalLM", "next words", _GEMMA),
    Row("Gemma3ForCausalLM", "next words", {**_GEMMA, "use_bidirectional_attention": True}, ("sdpa",),
        refused=r"torch\.func \(vmap, jvp\)"),
    Row("Gemma3ForCausalLM", "next words", {**_GEMMA, "use_bidirectional_attention": True}, ("sdpa",), masked=False),
    Row("PhiForCausalLM", "next words"),
    Row("Phi3ForCausalLM", "next words", _GROUPED),
    Row("FalconForCausalLM", "next words"),
    Row("MptForCausalLM", "next words", {"d_model": 8, "n_heads": 2, "n_layers": 2, "max_seq_len": 16}, EAGER),
    Row("OlmoForCausalLM", "next words"),
    Row("CohereForCausalLM", "next words"),
    Row("CTRLForSequenceClassification", "classes", {"n_embd": 8, "n_layer": 2, "n_head": 2, "dff": 12}, EAGER),
    Row("RecurrentGemmaForCausalLM", "next words",
        {"lru_width": 8, "attention_window_size": 4, "block_types": ["recurrent", "attention"]}, EAGER),
    Row("MambaForCausalLM", "next words",
        {"state_size": 3, "expand": 2, "conv_kernel": 3, "time_step_rank": 2}, EAGER),
    Row("Mamba2ForCausalLM", "next words",
        {"num_heads": 4, "head_dim": 4, "state_size": 4, "n_groups": 1, "chunk_size": 4}, EAGER),
]  # fmt: skip
