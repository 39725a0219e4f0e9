"""Pairs as rows of each format, where no row was kept. LLaMA-Factory's is in
llamafactory.py."""

from annotation.files import messages as chats
from annotation.files.faults import Messages, Row


class LeftOut(Exception):
    """The format can't say this pair; its text says why, in English, as cards do."""


def trl_row(prompt: Messages, chosen: Messages, rejected: Messages) -> Row:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def openai_row(prompt: Messages, chosen: Messages, rejected: Messages) -> Row:
    return {
        "input": {"messages": prompt},
        "preferred_output": chosen,
        "non_preferred_output": rejected,
    }


def together_row(prompt: Messages, chosen: Messages, rejected: Messages) -> Row:
    """As Together takes it: system, user, assistant; one message an answer."""
    refuse_tools(prompt, chosen, rejected)
    return openai_row(prompt, chosen, rejected)


def refuse_tools(prompt: Messages, chosen: Messages, rejected: Messages) -> None:
    if len(chosen) != 1 or len(rejected) != 1:
        raise LeftOut("an answer is more than one message")
    every = [*prompt, *chosen, *rejected]
    roles = {message["role"] for message in every}
    if roles - {"system", "user", "assistant"} or not chats.is_plain(every):
        raise LeftOut("it has tool calls, or messages that are more than a text")
