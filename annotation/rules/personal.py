"""Personal data in answers: by pattern, and by checksum where there is one.

What is found is told masked: a reason is read by more people than the answer. Names and
addresses have no pattern and are not found.
"""

import re
import unicodedata

from annotation.rules.facts import PASS, PairFacts, Params, RuleResult, answers

# Each bounded, and begun only where a word begins: linear on any text. ASCII: a Chinese
# letter right beside a number is no part of it.
_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])",
    re.ASCII,
)
_EXAMPLE_HOSTS = re.compile(
    r"@(?:[\w-]+\.){0,8}(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost"
    r"|(?:your)?(?:domain|company|email|site|website)\.(?:com|org|net))$",
    re.IGNORECASE,
)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){1,4}"  # +49 30 1234567
    r"|(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}"  # (212) 555-0142
    r"|1[3-9]\d[ -]?\d{4}[ -]?\d{4}"  # Chinese mobile
    r")(?![\w-]|\.\d)",
    re.ASCII,
)
# US numbers from 555-0100 to 555-0199 are kept for fiction.
_FICTION = re.compile(r"555[ .-]?01\d\d$")
_CARD = re.compile(r"(?<![\w.+-])[3-6]\d{3}(?:[ -]?\d){8,15}(?![\w-]|\.\d)", re.ASCII)
_TEST_CARDS = {
    *("4111111111111111", "4242424242424242", "4012888888881881", "4000056655665556"),
    *("5555555555554444", "5105105105105100", "5200828282828210", "2223003122003222"),
    *("378282246310005", "371449635398431", "6011111111111117", "3530111333300000"),
    *("30569309025904", "38520000023237", "6011000990139424", "4222222222222"),
}
_CN_ID = re.compile(
    r"(?<![\w.+-])[1-9]\d{5}(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?![\w-])",
    re.ASCII,
)
_IBAN = re.compile(r"(?<![\w-])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![\w-])", re.ASCII)
# The registry's own examples.
_TEST_IBANS = {"GB82WEST12345698765432", "DE89370400440532013000"}


def luhn(digits: str) -> bool:
    """The checksum of card numbers (ISO/IEC 7812)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def cn_id(number: str) -> bool:
    """The checksum of Chinese identity numbers (GB 11643: ISO 7064 mod 11-2)."""
    total = sum(int(d) * pow(2, 17 - i, 11) for i, d in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


def iban(number: str) -> bool:
    """The checksum of account numbers (ISO 13616: mod 97)."""
    turned = number[4:] + number[:4]
    return int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def _cards(text: str) -> str:
    for found in _CARD.finditer(text):
        digits = re.sub(r"[ -]", "", found[0])
        if (
            13 <= len(digits) <= 19
            and luhn(digits)
            and digits not in _TEST_CARDS
            and len(set(digits)) > 3
        ):
            return digits
    return ""


def _cn_ids(text: str) -> str:
    return next((f[0] for f in _CN_ID.finditer(text) if cn_id(f[0])), "")


def _ibans(text: str) -> str:
    for found in _IBAN.finditer(text):
        # The last words may belong to the sentence: "DE… BIC …".
        parts = found[0].split(" ")
        for end in range(len(parts), 0, -1):
            number = "".join(parts[:end])
            if 15 <= len(number) <= 34 and iban(number) and number not in _TEST_IBANS:
                return number
    return ""


def _emails(text: str) -> str:
    for found in _EMAIL.finditer(text):
        if not _EXAMPLE_HOSTS.search(found[0]):
            return found[0]
    return ""


def _phones(text: str) -> str:
    for found in _PHONE.finditer(text):
        digits = re.sub(r"\D", "", found[0])
        if 7 <= len(digits) <= 15 and not _FICTION.search(found[0]):
            return found[0]
    return ""


KINDS = {
    "cards": ("a card number", _cards),
    "cn_ids": ("a Chinese identity number", _cn_ids),
    "ibans": ("a bank account number", _ibans),
    "emails": ("an e-mail address", _emails),
    "phones": ("a phone number", _phones),
}
"""Parameter → its words, and what finds one."""


def no_personal_data(facts: PairFacts, params: Params) -> RuleResult:
    """One parameter for each of KINDS; numbers kept for examples and tests pass."""
    for name, text in answers(facts):
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text)  # Full-width digits and "＠".
        for kind, (words, find) in KINDS.items():
            found = find(text) if params[kind] else ""
            if found:
                return RuleResult(
                    "reject", f"the {name} answer holds {words}: {_masked(found)}"
                )
    return PASS


def _masked(found: str) -> str:
    return f"{found[:2]}…{found[-2:]}"
