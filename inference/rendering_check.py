"""A few chats as the trainer renders them, to be compared with vLLM's rendering.

    python -m inference.rendering_check MODEL_FOLDER   prints JSON: a list per chat, or null

Run as a process of its own, because it imports transformers (the trainer's tokenizer)
and the processes that ask must not. null stands for a chat the template refuses (some
know no system turn); vLLM then has to refuse it too.
"""

import json
import sys
from typing import Any

CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "How do I make a good cup of tea?"}],
    [{"role": "user", "content": "怎样才能睡得更好？请举三个例子。"}],
    [
        {"role": "system", "content": "Answer in one short sentence."},
        {"role": "user", "content": "Why is the sky blue?"},
    ],
    [
        {"role": "user", "content": "Name three rivers."},
        {"role": "assistant", "content": "1. Danube\n2. Nile\n3. Yangtze"},
        {"role": "user", "content": "  Which is the longest? "},
    ],
    [
        {"role": "user", "content": "Say hello."},
        {"role": "assistant", "content": "Hello there!"},
    ],
]


def render(tokenizer: Any, chat: list[dict[str, str]]) -> list[int] | None:
    """Token ids; an open chat ends with the opening of the assistant's turn."""
    is_open = chat[-1]["role"] != "assistant"
    try:
        encoded = tokenizer.apply_chat_template(
            chat, tokenize=True, return_dict=True, add_generation_prompt=is_open
        )
    except Exception:  # a template raises whatever it likes
        return None
    return [int(token) for token in encoded["input_ids"]]


def main() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=False)
    json.dump([render(tokenizer, chat) for chat in CHATS], sys.stdout)


if __name__ == "__main__":
    from inference.vllm_process import die_with_parent

    die_with_parent()
    main()
