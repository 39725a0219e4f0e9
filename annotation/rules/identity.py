"""Answers that say whose model they are: they unblind the judgment and teach a name.

Only what an answer says of itself counts ("I am ChatGPT", "as an AI trained by …"): a
text about a model is honest work. Names that also mean something else (Gemini, Claude)
count only next to a word such as "model" or a maker. A project's own words count
wherever they stand. Quoted dialogue is not told apart.
"""

import re

from annotation.rules.facts import (
    PASS,
    PairFacts,
    Params,
    RuleResult,
    answers,
    quoted,
    without_code,
)

_MAKERS = (
    r"OpenAI|Open AI|Anthropic|Google(?: DeepMind)?|DeepMind|Meta(?: AI)?|Microsoft|"
    r"Mistral(?: AI)?|Alibaba(?: Cloud)?|Tongyi|Baidu|Tencent|ByteDance|DeepSeek|"
    r"Moonshot(?: AI)?|Zhipu(?: AI)?|MiniMax|xAI|Cohere|NVIDIA|Hugging ?Face|EleutherAI|"
    r"Stability AI|LMSYS|01\.AI|iFlytek|Huawei|Shanghai AI Lab(?:oratory)?|"
    r"阿里(?:巴巴|云|雲)?|通义|通義|百度|腾讯|騰訊|字节跳动|字節跳動|深度求索|月之暗面|智谱|智譜|"
    r"科大讯飞|科大訊飛|商汤|商湯|华为|華為|谷歌|微软|微軟"
)
_NAMES = (
    r"Chat ?GPT|GPT[- ]?[345][\w.-]{0,8}|InstructGPT|Qwen[\w.-]{0,12}|DeepSeek[\w.-]{0,12}|"
    r"ERNIE Bot|ChatGLM[\w.-]{0,8}|GLM-?\d[\w.-]{0,8}|Baichuan[\w.-]{0,8}|InternLM[\w.-]{0,8}|"
    r"Mixtral|Tongyi Qianwen|Hunyuan|Doubao|HuggingChat|"
    r"Llama[- ]?[234][\w.-]{0,8}|Open ?Assistant|SmolLM[\w.-]{0,8}|"
    r"通义千问|通義千問|千问|文心一言|豆包|讯飞星火|混元|智谱清言|百川大模型|盘古大模型"
)
# Also people, stars, animals and letters.
_AMBIGUOUS = (
    r"Claude|Gemini|Bard|Gemma|Llama|LLaMA|Mistral|Grok|Phi|Falcon|Kimi|Yi|Nova|"
    r"Command R|Pi|Bing|Vicuna|Alpaca|Copilot"
)
_WHAT = (
    r"(?:(?:large|AI|artificial intelligence|language|chat|virtual|conversational)[ -]){0,3}"
    r"(?:AI|artificial intelligence|model|assistant|chatbot|bot|LLM)\b"
)
_MADE = r"(?:trained|developed|created|made|built|designed|provided|fine-tuned)"
_END = r"(?![\w-]|['’]s\b)"
# Schooling and jobs: "trained by Google for two weeks", "as an intern".
_NO_JOB = rf"(?! (?:for (?:\w{{1,12}} ){{1,2}}(?:days?|weeks?|months?|years?)|as an? (?!{_WHAT})))"
_ZH_MADE = r"(?:训练|訓練|开发|開發|研发|研發|创建|創建|创造|創造|推出|打造|设计|設計)"
_ZH_ONE = r"(?:一[款个個种種]|1[款个個])"
# People there speak of models, too.
_ZH_NOBODY = (
    r"(?![^，。！？\n]{0,12}(?:工程[师師]|研究[员員]|部[门門]|[经經]理|[负負][责責]人|[团團]"
    r"[队隊]|[员員]工|[实實][习習]|用[户戶]|客[户戶]|粉[丝絲]))"
)

_SAYS = re.compile(
    "|".join(
        [
            # I am ChatGPT / my name is Qwen / you can call me DeepSeek
            rf"\b(?:I am|I['’]m|my name is|call me) (?:called |named )?(?:{_NAMES}){_END}",
            # as ChatGPT, I can't
            rf"\bas (?:{_NAMES}),? (?:I\b|an? {_WHAT}|{_MADE} by)",
            # I am Claude, an AI assistant / I'm Gemini, a large language model
            rf"\b(?:I am|I['’]m|my name is|as) (?:{_AMBIGUOUS})(?:[ -][\d.]{{1,6}})?,? {{0,2}}"
            rf"(?:(?:an?|the|your) {_WHAT}|{_MADE} by|from (?:{_MAKERS}))",
            # as an AI language model trained by OpenAI / a model made by Meta
            rf"\b(?:as|I am|I['’]m) (?:an?|the) (?:\w{{1,20}}[ -]){{0,4}}{_WHAT},? "
            rf"(?:(?:called|named) [\w.-]{{1,20}},? )?(?:(?:that|which) (?:was|is|has been) )?{_MADE} by (?:{_MAKERS}){_END}",
            # I was trained by Google
            rf"\bI (?:was|am|have been|['’]ve been) (?:\w{{1,20}} )?{_MADE} by (?:{_MAKERS}){_END}{_NO_JOB}",
            # My creators at OpenAI / my developer is Google
            rf"\bmy (?:creators?|makers?) at (?:{_MAKERS}){_END}",
            rf"\bmy (?:creators?|developers?|makers?)(?: is| are|,) (?:{_MAKERS}){_END}",
            # A space between Chinese and Latin letters is usual.
            rf"(?:我是|我叫|我的名字[是叫]|作[为為]) ?(?:{_ZH_ONE}|由[^，。！？\n]{{0,20}})? ?"
            rf"(?:{_NAMES}){_END}{_ZH_NOBODY}",
            r"(?:我是|我叫|作[为為]) ?(?:Claude|Gemini|Bard|Llama|Kimi|Grok|Mistral)"
            rf" ?[，,、]? ?(?:{_ZH_ONE}|由)",
            rf"(?:我是|作[为為]|我) ?{_ZH_ONE}?由 ?(?:{_MAKERS})[^，。！？\n]{{0,12}}{_ZH_MADE}"
            rf"{_ZH_NOBODY}",
            rf"我(?:是|[来來]自) ?(?:{_MAKERS})[^，。！？\n]{{0,12}}"
            rf"(?:模型|助手|助理|机器人|機器人|AI(?![\w ])){_ZH_NOBODY}",
        ]
    ),
    re.IGNORECASE,
)

MAX_WORDS, LONGEST_WORD = 200, 80


def keeps_its_name(facts: PairFacts, params: Params) -> RuleResult:
    """Rejects where either answer names itself, or holds one of the project's `words`."""
    own = _own_words(tuple(params["words"]))
    for name, text in answers(facts):
        plain = without_code(text)
        found = _SAYS.search(plain) or (own and own.search(plain))
        if found:
            return RuleResult(
                "reject",
                f"the {name} answer tells whose model it is: “{quoted(found[0])}”",
            )
    return PASS


def _own_words(words: tuple[str, ...]) -> re.Pattern[str] | None:
    """The words as they are, case aside; Latin ones only as whole words."""
    parts = [
        rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"
        if word.isascii()
        else re.escape(word)
        for word in words
        if word.strip()
    ]
    return re.compile("|".join(parts), re.IGNORECASE) if parts else None
