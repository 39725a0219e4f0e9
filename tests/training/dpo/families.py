"""Families of tokenizers and models, built small enough to train in a test.

Each tokenizer is of another kind (byte-level BPE; SentencePiece's way with byte
fallback and a BOS that the tokenizer adds) and has its family's chat template, written
anew; each model has random weights and 2 layers × 32. `build(name, folder)` writes one
of `FAMILIES`, `build_adapter` a LoRA for it whose A and B are both random.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

TEXTS = [
    "How do I boil an egg? First boil the water, then wait eight minutes.",
    "user assistant system",
    "怎样煮鸡蛋?先把水烧开,再煮八分钟。你好,谢谢!",
    "I do not know. Of course! Here is a list: 1. water 2. salt 3. time",
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Nothing but the turns."""

QWEN = (
    "{% set system = 'Be of help.' %}"
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% endif %}<|im_start|>system\n{{ system }}{% if tone %} Be {{ tone }}.{% endif %}"
    "{% if tools %}\nTools: {{ tools | tojson }}{% endif %}<|im_end|>\n"
    "{% for m in messages if m['role'] != 'system' %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""A system message by default, tools, and what a row's chat_template_kwargs ask for: a
tone, an empty thought (enable_thinking = false) that only the prompt alone shows."""

LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token }}[INST] {{ m['content'] | trim }} [/INST]"
    "{% elif m['role'] == 'system' %}<<SYS>>{{ m['content'] }}<</SYS>>"
    "{% else %} {{ m['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
"""BOS before each question, nothing that opens an answer, trimmed contents."""

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}"
    "<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    "{% endif %}"
)

THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "<|think|>\n{% endif %}"
)
"""The prompt alone ends with an opened thought, which no rendered answer has."""


def byte_level(
    template: str,
    *special: str,
    bos: str | None = None,
    eos: str = "<|im_end|>",
) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 320 tokens; `bos` is put before every text it is given."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS, trainer)
    return _wrapped(inner, template, bos, eos, pad=special[0])


def sentencepiece_like(template: str) -> PreTrainedTokenizerFast:
    """BPE over "▁" for spaces, with byte fallback and a BOS before every text."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    english = [text for text in TEXTS if text.isascii()]
    inner.train_from_iterator(
        english, trainers.BpeTrainer(vocab_size=90, show_progress=False)
    )
    learnt = json.loads(inner.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += learnt["vocab"]
    inner.model = models.BPE(
        vocab={piece: place for place, piece in enumerate(pieces)},
        merges=[tuple(merge) for merge in learnt["merges"]],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _wrapped(inner, template, "<s>", "</s>", pad="<unk>")


def _wrapped(
    inner: Tokenizer, template: str, bos: str | None, eos: str, pad: str
) -> PreTrainedTokenizerFast:
    named = {"bos_token": bos} if bos else {}
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A $B",
            special_tokens=[(bos, inner.token_to_id(bos))],
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=eos, pad_token=pad, **named
    )
    fast.chat_template = template
    return fast


def chatml_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 320 tokens with a ChatML template."""
    return byte_level(CHATML, "<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _qwen_tokenizer() -> PreTrainedTokenizerFast:
    return byte_level(QWEN, "<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _llama2_tokenizer() -> PreTrainedTokenizerFast:
    return sentencepiece_like(LLAMA2)


def _llama3_tokenizer() -> PreTrainedTokenizerFast:
    named = ("<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>")
    return byte_level(
        LLAMA3,
        *named,
        "<|end_header_id|>",
        "<|eot_id|>",
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
    )


def _thought_tokenizer() -> PreTrainedTokenizerFast:
    return byte_level(
        THOUGHT, "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|think|>"
    )


class Family(NamedTuple):
    """A tokenizer, a model type of transformers and what its config adds."""

    tokenizer: Callable[[], PreTrainedTokenizerFast]
    model_type: str
    settings: dict[str, Any]


FAMILIES = {
    "llama": Family(chatml_tokenizer, "llama", {}),
    # biases, tied head, grouped key/value heads
    "qwen2": Family(
        _qwen_tokenizer,
        "qwen2",
        {"tie_word_embeddings": True, "num_key_value_heads": 1},
    ),
    "llama2": Family(_llama2_tokenizer, "llama", {"tie_word_embeddings": True}),
    # embedding, residual and attention multipliers, logits divided
    "granite": Family(
        _llama3_tokenizer,
        "granite",
        {
            "logits_scaling": 3.0,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.7,
            "attention_multiplier": 0.2,
        },
    ),
    # capped logits and attention scores, every other layer sees 16 tokens only
    "gemma2": Family(
        _thought_tokenizer,
        "gemma2",
        {"head_dim": 16, "final_logit_softcapping": 5.0, "sliding_window": 16},
    ),
    # logits multiplied, tied head, parallel attention and MLP
    "cohere": Family(_llama3_tokenizer, "cohere", {"logit_scale": 0.25}),
    # learnt positions, Conv1D in place of Linear
    "gpt2": Family(chatml_tokenizer, "gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2}),
    "mixtral": Family(
        chatml_tokenizer,
        "mixtral",
        {"num_local_experts": 4, "num_key_value_heads": 1, "router_aux_loss_coef": 0.1},
    ),
}


def build(name: str, folder: Path) -> Path:
    """Write the family's model and tokenizer to `folder`."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        # wide enough for logits that are not all alike
        "initializer_range": 0.2,
    }
    if family.model_type == "gpt2":
        shape = {"n_positions": 512, "initializer_range": 0.2}
    config = transformers.AutoConfig.for_model(
        family.model_type,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **(shape | family.settings),
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_adapter(base: Path, folder: Path) -> Path:
    """Write a LoRA of rank 4 on all linear layers, A and B both drawn at random."""
    model = AutoModelForCausalLM.from_pretrained(base)
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and "lm_head" not in name
    }
    torch.manual_seed(3)
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=8,
        target_modules=sorted(names),
        fan_in_fan_out="c_attn" in names,
        init_lora_weights=False,
    )
    peft.get_peft_model(model, settings).save_pretrained(folder)
    return folder
