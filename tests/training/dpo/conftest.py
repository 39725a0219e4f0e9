"""A tiny random Llama with a byte-level tokenizer, and run folders around it."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.training.dpo.runs import PAIRS, write_run

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [
    "How do I boil an egg? First boil the water, then wait eight minutes.",
    "user assistant system",
    "怎样煮鸡蛋?先把水烧开,再煮八分钟。你好,谢谢!",
    "I do not know. Of course! Here is a list: 1. water 2. salt 3. time",
]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums depend on how they are split among threads: one, everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level BPE of 320 tokens with a ChatML template."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = CHATML
    return fast


@pytest.fixture(scope="session")
def base_model(tmp_path_factory, tokenizer):
    """Folder of a Llama of 2 layers × 32 with random weights."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            # wide enough for logits that are not all alike
            initializer_range=0.2,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_run(tmp_path, base_model):
    """`make_run(name="run", pairs=PAIRS, held_out=None, **config)` writes a run folder."""

    def make(name="run", pairs=PAIRS, held_out=None, **config):
        return write_run(tmp_path / name, base_model, pairs, held_out, **config)

    return make
