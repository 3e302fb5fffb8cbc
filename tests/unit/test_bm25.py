"""BM25 sparse vectors."""

import json
import pickle
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.terms import split, tokens
from worker.text.parts import SparseVector
from worker.text.words.bm25 import SparseEncoder
from worker.text.words.languages import LANGUAGES

GOLDEN = {
    290351747: 1.6652867794036865,
    380687090: 1.6652867794036865,
    481716713: 1.6652867794036865,
    1109731834: 1.6652867794036865,
    1163057303: 1.6652867794036865,
    1188929281: 1.6652867794036865,
    1194597483: 1.6652867794036865,
    1288282553: 1.6652867794036865,
    1342446547: 1.6652867794036865,
    1555540962: 1.6652867794036865,
    1605379101: 1.6652867794036865,
    1643517179: 1.6652867794036865,
    1752542484: 1.6652867794036865,
    2124172637: 1.6652867794036865,
}
KOREAN_NOUNS = Path(__file__).parents[2] / "benchmarks/sets/korean_nouns.jsonl"
ANY_ENCODER = SparseEncoder()
"""Its caches may hold anything: they must not matter."""

FOUND = [
    ("en", "The houses of the harbour office were painted.", "house"),
    ("en", "The house of the harbour office was painted.", "houses"),
    ("en", "Ask the IT department about US taxes.", "it"),
    ("de", "Die Häuser am Hafen sind nicht alt.", "Haus"),
    ("de", "Das Haus am Hafen ist nicht alt.", "Häuser"),
    ("de", "Die Größen der Kisten werden gemessen.", "Größe"),
    ("de", "Das Büro in München ist geschlossen.", "munchen"),
    ("de", "Alle Maße sind auf der STRASSE zu prüfen.", "Straße"),
    ("fr", "Les élèves sont dans la cour et l'eau est froide.", "élève"),
    ("fr", "Les élèves sont dans la cour et l'eau est froide.", "eau"),
    ("fr", "Les élèves sont dans la cour avec les chevaux.", "eleves"),
    ("es", "Las canciones de los marineros son muy viejas.", "canción"),
    ("es", "La canción de los marineros es muy vieja.", "canciones"),
    ("it", "I documenti sono nella cartella delle fatture.", "documento"),
    ("pt", "Os navios não estão mais no porto.", "navio"),
    ("nl", "De boten liggen niet meer in de haven.", "haven"),
    ("sv", "Båtarna ligger inte i hamnen och väntar på vinden.", "hamn"),
    ("pl", "Te dokumenty są w szafie, ale nie w biurze.", "dokument"),
    ("tr", "Evlerinden çıkan kitaplar çok eski ve ağır.", "kitap"),
    ("tr", "IŞIKLAR İSTANBUL'DA söndü.", "istanbul"),
    ("tr", "IŞIKLAR İstanbul'da söndü.", "ışıklar"),
    ("ru", "Все документы лежат в архиве, но не в офисе.", "документ"),
    ("ru", "Документ лежит в архиве под ёлкой.", "документами"),
    ("ru", "Документ лежит в архиве под ёлкой.", "елка"),
    ("el", "Τα έγγραφα είναι στο αρχείο.", "εγγραφα"),
    ("ar", "الكتاب في المكتبة", "كتاب"),
    ("ar", "قرأتُ كِتَابًا عن البحر", "كتابا"),
    ("hi", "यह हिन्दी पुस्तक है", "पुस्तक"),
    ("ko", "문서를 보관함에 두었습니다.", "문서"),
    ("ko", "봄에는 배가 많다.", "봄"),
    ("ko", "API를 2024년에 바꿨다.", "API"),
    ("ko", "API를 2024년에 바꿨다.", "2024"),
    ("ja", "全文検索エンジンを選ぶ", "検索"),
    ("ja", "全文検索エンジンを選ぶ", "エンジン"),
    ("ja", "全文検索ｴﾝｼﾞﾝを選ぶ", "エンジン"),
    ("ja", "猫がいる", "猫"),
    ("zh", "请把合同发送到财务部门。", "合同"),
    ("zh", "请把合同发送到财务部门。", "财务部门"),
    ("th", "เอกสารอยู่ในตู้", "เอกสาร"),
    ("--", "Paid: INV_2024-17, by the office.", "INV_2024-17"),
    ("--", "Paid: INV_2024-17, by the office.", "2024"),
    ("--", "Call foo.bar() first.", "foo.bar()"),
    ("--", "Call foo.bar() first.", "bar"),
    ("--", "Written in C++ and C#.", "c++"),
    ("--", "Set a_b or max_tokens.", "a_b"),
    ("--", "See parse_HTTPAnswer.", "answer"),
    ("--", "Use --sparse on .NET", "--sparse"),
    ("--", "List<String> x = *p[0];", "List<String>"),
    ("--", "**bold** and `code`", "bold"),
    ("--", "Ｆｕｌｌ－ｗｉｄｔｈ １２３", "full-width"),
    ("--", "soft\u00adhyphen, zero\u200bwidth", "softhyphen"),
    ("--", "zero\u200bwidth", "width"),
    ("--", "O’Brien’s ship", "O'Brien's"),
    ("--", "ﬁnal oﬀer ½", "final"),
]
"""A document, and a query that has to find it."""

NOT_FOUND = [
    ("Written in C.", "rust"),
    ("全文検索エンジン", "文索"),
    ("문서를 보관", "서보"),
    ("The ship left.", "hip"),
]


def words(vector: SparseVector) -> set[int]:
    return set(vector.indices)


def score(document: SparseVector, query: SparseVector) -> float:
    weights = dict(zip(document.indices, document.values, strict=True))
    asked = zip(query.indices, query.values, strict=True)
    return sum(weights.get(index, 0.0) * value for index, value in asked)


@pytest.fixture(scope="module")
def encoder() -> SparseEncoder:
    return SparseEncoder()


def test_vectors_do_not_change_between_releases(encoder: SparseEncoder) -> None:
    """If this fails, change worker.store.schema.SPARSE_ENCODER: old collections no longer match."""
    found = encoder.document("Die Invoices INV-2024 für 문서를.")
    assert dict(zip(found.indices, found.values, strict=True)) == GOLDEN


@pytest.mark.parametrize(("language", "document", "query"), FOUND)
def test_a_query_finds_a_document(
    encoder: SparseEncoder, language: str, document: str, query: str
) -> None:
    assert words(encoder.query(query)) & words(encoder.document(document)), language


@pytest.mark.parametrize(("document", "query"), NOT_FOUND)
def test_a_query_does_not_find_everything(
    encoder: SparseEncoder, document: str, query: str
) -> None:
    assert not words(encoder.query(query)) & words(encoder.document(document))


@pytest.mark.parametrize(
    ("better", "worse", "query"),
    [
        ("Paid INV_2024-17 now", "Paid INV 17 of 2024 now", "INV_2024-17"),
        ("Some C++ code", "Some C code", "C++"),
        ("Those houses burnt", "That house burnt", "houses"),
        ("Das ist schön und nicht alt", "Das ist schon und nicht alt", "schön"),
        ("全文検索の本", "検索の本", "全文検索"),
    ],
)
def test_what_is_written_the_same_ranks_first(
    encoder: SparseEncoder, better: str, worse: str, query: str
) -> None:
    asked = encoder.query(query)
    assert score(encoder.document(better), asked) > score(encoder.document(worse), asked) > 0


def test_stop_words_of_a_plain_language_are_left_out_of_a_query(encoder: SparseEncoder) -> None:
    assert encoder.query("how do I paint the harbour?") == encoder.query("paint harbour")
    assert words(encoder.query("to be or not to be")) <= words(
        encoder.document("To be or not to be")
    )
    assert words(encoder.query("the who")), "a name of stop words is a query, too"


def test_configured_languages_decide_what_a_text_without_stop_words_is_in() -> None:
    table = "Häuser | Preise"
    [house] = words(ANY_ENCODER.document("haus"))
    assert house not in words(ANY_ENCODER.document(table))
    assert house in words(SparseEncoder(["ko", "de"]).document(table))


def test_a_query_finds_documents_of_any_configuration() -> None:
    """A search knows only its own configuration, not that of the worker."""
    document = SparseEncoder(["de"]).document("Häuser")
    assert words(SparseEncoder(["ru", "fr"]).query("Haus")) & words(document)


def test_a_repeated_word_weighs_more(encoder: SparseEncoder) -> None:
    [once] = encoder.document("rope").values
    [thrice] = encoder.document("rope rope rope").values
    assert once < thrice < 3 * once


def test_a_word_of_a_longer_text_weighs_less(encoder: SparseEncoder) -> None:
    [alone] = encoder.document("rope").values
    assert alone > min(encoder.document("rope " + "lamp " * 50).values)


@pytest.mark.parametrize("text", ["", " \n", "?!", "\u200b", "--- … ---", "。"])
def test_a_text_without_words_has_an_empty_vector(encoder: SparseEncoder, text: str) -> None:
    assert len(encoder.document(text).indices) == len(encoder.query(text).indices) == 0


WRITTEN = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("aZ_-.+#'éßıİ가문書検エ\u0301\u0323\u200b \n"),
    ),
    max_size=60,
)


@given(WRITTEN)
def test_every_word_of_a_document_finds_it(text: str) -> None:
    found = words(ANY_ENCODER.document(text))
    for piece in split(text):
        for token in tokens(piece):
            assert words(ANY_ENCODER.query(token)) & found, token


@given(WRITTEN)
def test_a_text_finds_itself(text: str) -> None:
    document, query = ANY_ENCODER.document(text), ANY_ENCODER.query(text)
    assert bool(document.indices) == bool(query.indices)
    if document.indices:
        assert score(document, query) > 0


@given(WRITTEN)
def test_the_normal_form_does_not_matter(text: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    decomposed = unicodedata.normalize("NFD", text)
    assert ANY_ENCODER.document(composed) == ANY_ENCODER.document(decomposed)
    assert words(ANY_ENCODER.query(composed)) == words(ANY_ENCODER.query(decomposed))


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)))
def test_full_width_is_ascii(text: str) -> None:
    wide = "".join(chr(ord(character) + 0xFEE0) for character in text)
    assert ANY_ENCODER.document(wide) == ANY_ENCODER.document(text)


@given(WRITTEN)
def test_what_was_encoded_before_does_not_matter(text: str) -> None:
    found = ANY_ENCODER.document(text)
    assert SparseEncoder().document(text) == found


def test_many_marks_after_a_letter_are_read_soon(encoder: SparseEncoder) -> None:
    """Bringing marks of different classes into order takes quadratic time."""
    assert encoder.document("a" + "\u0301\u0323" * 500_000).indices


def test_single_korean_nouns_find_their_sentences(encoder: SparseEncoder) -> None:
    lines = KOREAN_NOUNS.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    documents = [encoder.document(row["text"]) for row in rows]
    recalled = 0
    for number, row in enumerate(rows):
        query = encoder.query(row["question"])
        scores = [score(document, query) for document in documents]
        best = sorted(range(len(rows)), key=lambda other: -scores[other])[:5]
        recalled += number in best and scores[number] > 0
    assert recalled / len(rows) >= 0.95


def test_every_language_has_a_stemmer_and_words(encoder: SparseEncoder) -> None:
    for language in LANGUAGES:
        assert SparseEncoder([language.code]).document("x")
        assert len(language.stop_words) > 8


def test_a_pickled_vector_is_small(encoder: SparseEncoder) -> None:
    vector = encoder.document(" ".join(f"word{i}" for i in range(200)))
    sent = pickle.dumps(vector)
    assert len(sent) < 200 * 8 + 200
    assert pickle.loads(sent) == vector
