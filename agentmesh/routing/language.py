"""In which language a text probably is: by script and frequent small words. A heuristic of our own, without a model."""

import re
import unicodedata
from typing import Literal, get_args

__all__ = ["LANGUAGES", "Language", "language_confidence"]

LANGUAGE_CHARS = 2_000
"""Characters, from the start, by which a language is told."""
_WORD = re.compile(r"[^\W_]+")

Language = Literal[
    "ar", "de", "el", "en", "es", "fa", "fr", "he", "hi", "it",
    "ja", "ko", "nl", "pl", "pt", "ru", "sv", "th", "uk", "zh",
]  # fmt: skip
LANGUAGES: tuple[Language, ...] = get_args(Language)
"""ISO 639-1 codes that `language_confidence` knows."""

_SCRIPTS: dict[str, str] = {
    "cyrillic": "\u0400-\u04ff",
    "greek": "\u0370-\u03ff",
    "arabic": "\u0600-\u06ff",
    "hebrew": "\u0590-\u05ff",
    "devanagari": "\u0900-\u097f",
    "thai": "\u0e00-\u0e7f",
    "hangul": "\uac00-\ud7af\u1100-\u11ff",
    "kana": "\u3040-\u30ff",
    "han": "\u3400-\u9fff",
}
_LETTERS = {script: re.compile(f"[{span}]") for script, span in _SCRIPTS.items()}
_ONE_LANGUAGE: dict[str, Language] = {"greek": "el", "hebrew": "he", "devanagari": "hi", "thai": "th", "hangul": "ko"}
_UKRAINIAN, _PERSIAN = re.compile("[іїєґ]"), re.compile("[پچژگ]")
_SMALL_WORDS: dict[Language, str] = {
    "en": "the and is are was of to in for you my what how where when why it this that not with on have can do "
    "does i me please would be from your there which who",
    "de": "der die das und ist sind war ich nicht ein eine einen mein meine meinen wie was wo wann warum für "
    "mit auf zu von im den dem es sie wir kann bitte haben habe wird noch auch",
    "fr": "le la les et est sont je ne pas un une mon ma mes comment quoi où quand pourquoi pour avec sur de du "
    "des que qui vous nous il elle dans ce cette puis peux bonjour merci",
    "es": "el la los las y es son yo no un una mi mis cómo como qué dónde cuándo por para con en de del que se "
    "lo está puedo quiero hola gracias mañana",
    "it": "il lo la gli le e è sono io non un una mio mia come cosa dove quando perché per con su di del della "
    "che si posso vorrei questo ciao grazie",
    "pt": "o a os as e é são eu não um uma meu minha como onde quando porque para com em de do da que se você "
    "está posso quero olá obrigado obrigada",
    "nl": "de het een en is zijn ik niet mijn hoe wat waar wanneer waarom voor met op te van dat je we kan kunt "
    "heb hebben wordt nog ook graag",
    "sv": "och är jag inte en ett min mitt mina hur vad var när varför för med på att det som den vi kan har "
    "till av om snälla tack",
    "pl": "i jest są ja nie mój moja moje jak co gdzie kiedy dlaczego dla z na do że to się czy mam mogę proszę "
    "w od dziękuję",
}
_WEIGHTS: dict[str, dict[Language, float]] = {}
for _language, _listed_words in _SMALL_WORDS.items():
    for _word in _listed_words.split():
        _WEIGHTS.setdefault(_word, {})[_language] = 0.0
for _word, _languages in _WEIGHTS.items():
    _WEIGHTS[_word] = dict.fromkeys(_languages, 1.0 / len(_languages))


def language_confidence(text: str) -> dict[Language, float]:
    """How sure it is that a text is in each language, 0 to 1; what is not named has 0. They add up to 1 at most.

    A script of one language decides by its share of the letters. Latin letters are told apart by frequent small words:
    a word of k languages counts 1/k for each, the confidence is a language's share of all counts, halved where there
    is only one such word. A heuristic of our own, without a model; measured on nothing but our tests.
    """
    text = unicodedata.normalize("NFC", text[:LANGUAGE_CHARS]).casefold()
    letters = sum(c.isalpha() for c in text)
    if not letters:
        return {}
    shares = {script: len(pattern.findall(text)) / letters for script, pattern in _LETTERS.items()}
    sure: dict[Language, float] = {_ONE_LANGUAGE[s]: min(1.0, shares[s]) for s in _ONE_LANGUAGE if shares[s]}
    if shares["cyrillic"]:
        sure["uk" if _UKRAINIAN.search(text) else "ru"] = min(1.0, shares["cyrillic"])
    if shares["arabic"]:
        sure["fa" if _PERSIAN.search(text) else "ar"] = min(1.0, shares["arabic"])
    if shares["kana"] or shares["han"]:
        sure["ja" if shares["kana"] else "zh"] = min(1.0, shares["kana"] + shares["han"])
    counts: dict[Language, float] = {}
    hits = 0
    for word in _WORD.findall(text):
        hits += word in _WEIGHTS
        for language, weight in _WEIGHTS.get(word, {}).items():
            counts[language] = counts.get(language, 0.0) + weight
    latin = max(0.0, 1.0 - sum(shares.values())) * min(1.0, hits / 2)
    total = sum(counts.values())
    sure.update({language: latin * count / total for language, count in counts.items()})
    return sure
