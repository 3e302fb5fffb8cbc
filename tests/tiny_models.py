"""Small models of many kinds, with the vectors that sentence-transformers itself computes.

``python -m tests.tiny_models FOLDER KIND...`` fills FOLDER with the models. For each KIND it also
writes the vectors of `TEXTS`, as ``documents`` and as ``queries``, and caches of the prepared
model. It runs as a process of its own because the tests never import torch.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from worker.embedding.config import DEFAULT_MODEL, Backend, EmbeddingConfig
from worker.reranking.config import RerankerConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import BertTokenizer

SENTENCE = "The keeper of the lighthouse writes the weather of each hour into a thick book. "
TEXTS: Final = (
    *(SENTENCE * n for n in range(1, 14)),
    *(f"Page {n}: " + "wind, tide and cloud; " * n for n in range(1, 30, 2)),
    "x",
    "x" * 1_000_000,
    "🌊🗼📖" * 20,
    "before\0after \0\0 the end\0",
    "حارس المنارة يكتب حالة الطقس كل ساعة في كتاب سميك. " * 3,
    "שומר המגדלור כותב את מזג האוויר של כל שעה בספר עבה.",
    "‮mixed‬ עברית and English, 12:30",
)
"""Texts of the lengths that chunks have, and unusual ones."""

KINDS: Final = (DEFAULT_MODEL, "prompts", "static")
"""The default model, and a tiny one for each engine that is faster than torch."""
CROSS_ENCODER: Final = "cross-encoder"
QUERIES: Final = ("weather", "Who writes down the weather of each hour?")
"""Queries that the scores of the cross encoder are compared for."""
RARE_KINDS: Final = (
    "pooled-without-prompt",
    "router",
    "static-normalized",
    "static-dense",
    "steep",
    "half-precision",
)
PROMPTS: Final = {"query": "query: ", "document": "passage: "}
WORDS: Final = 600
HIDDEN: Final = 32
TRUNCATED: Final = 12
STEEPNESS: Final = 40.0
"""Factor of the weights that makes bfloat16 too inaccurate for the model."""

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TinyModels:
    """The tiny models in ``folder``."""

    folder: Path

    def model(self, kind: str) -> str:
        """Return the model's name, for INGESTQ_MODEL."""
        return DEFAULT_MODEL if kind == DEFAULT_MODEL else str(self.folder / kind)

    def config(self, kind: str, **options: object) -> EmbeddingConfig:
        """Return the configuration with which the model was prepared."""
        return EmbeddingConfig(self.folder / "cache", self.model(kind), **options)  # type: ignore[arg-type]

    def without_bfloat16(self, kind: str) -> EmbeddingConfig:
        """Return the configuration of the model prepared as on a CPU without bfloat16."""
        return EmbeddingConfig(self.folder / "cache-without-bfloat16", self.model(kind))

    def documents(self, kind: str) -> Rows:
        """Return the vectors of sentence-transformers for `TEXTS` as documents."""
        return self._rows("documents", kind)

    def truncated_documents(self, kind: str) -> Rows:
        """Return what `documents` returns, with `TRUNCATED` as ``truncate_dim``."""
        return self._rows("truncated", kind)

    def queries(self, kind: str) -> Rows:
        """Return the vectors of sentence-transformers for `TEXTS` as queries."""
        return self._rows("queries", kind)

    def cross_encoder(self, **options: object) -> RerankerConfig:
        """Return the configuration with which the cross encoder was prepared."""
        return RerankerConfig(self.folder / "cache", str(self.folder / CROSS_ENCODER), **options)  # type: ignore[arg-type]

    def scores(self) -> Rows:
        """Return the scores of sentence-transformers for `TEXTS`, a row for each of `QUERIES`."""
        return np.asarray(np.load(self.folder / f"{CROSS_ENCODER}.npy"))

    def _rows(self, what: str, kind: str) -> Rows:
        rows: Rows = np.load(self.folder / what / f"{kind.rpartition('/')[2]}.npy")
        return rows


def main(folder: Path, kinds: Sequence[str]) -> None:
    from worker.embedding import build
    from worker.embedding.backends.torch import load
    from worker.reranking.build import build_cross_encoder

    tiny = TinyModels(folder)
    make_all(folder)
    for kind in kinds:
        model = load(tiny.model(kind))
        for what, encode in (("documents", model.encode_document), ("queries", model.encode_query)):
            (folder / what).mkdir(exist_ok=True)
            rows = encode(list(TEXTS), normalize_embeddings=True)
            np.save(folder / what / f"{kind.rpartition('/')[2]}.npy", rows)
        (folder / "truncated").mkdir(exist_ok=True)
        rows = model.encode_document(list(TEXTS), normalize_embeddings=True, truncate_dim=TRUNCATED)
        np.save(folder / "truncated" / f"{kind.rpartition('/')[2]}.npy", rows)
    for kind in kinds:
        if kind not in (DEFAULT_MODEL, "steep"):  # tests prepare these
            build.build(tiny.config(kind))
    if "prompts" in kinds:
        build_cross_encoder(tiny.cross_encoder())
        build.build(tiny.config("prompts", backend=Backend.TORCH))
    with patch.object(build, "supports_bfloat16", return_value=False):
        for kind in {"prompts", "steep"}.intersection(kinds):
            build.build(tiny.without_bfloat16(kind))


def make_all(folder: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        Normalize,
        Pooling,
        Router,
        StaticEmbedding,
        Transformer,
    )
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(17)
    characters = [chr(code) for code in range(33, 127)]
    words = sorted({word.strip(".,;:") for text in TEXTS for word in text.lower().split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    vocabulary += [f"##{character}" for character in characters]
    vocabulary += [word for word in words if 1 < len(word) < 20][: WORDS - len(vocabulary)]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))

    def transformer(name: str, steepness: float = 1.0) -> Transformer:
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=2 * HIDDEN,
            max_position_embeddings=128,
        )
        network = BertModel(config)
        with torch.no_grad():
            for parameter in network.encoder.parameters():
                parameter.mul_(steepness)
        network.save_pretrained(folder / "bert" / name)
        tokenizer.save_pretrained(folder / "bert" / name)
        loaded: Transformer = Transformer(str(folder / "bert" / name), max_seq_length=96)
        return loaded

    def save(name: str, model: "SentenceTransformer") -> None:
        model.save_pretrained(str(folder / name))

    plain = transformer("plain")
    save("prompts", SentenceTransformer(modules=[plain, Pooling(HIDDEN)], prompts=PROMPTS))
    unprompted = Pooling(HIDDEN, include_prompt=False)
    pooled = SentenceTransformer(modules=[plain, unprompted], prompts=PROMPTS)
    save("pooled-without-prompt", pooled)
    router = Router.for_query_document(
        query_modules=[transformer("query"), Pooling(HIDDEN)],
        document_modules=[plain, Pooling(HIDDEN)],
    )
    save("router", SentenceTransformer(modules=[router]))
    static = StaticEmbedding(
        Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), embedding_dim=HIDDEN
    )
    save("static", SentenceTransformer(modules=[static], prompts=PROMPTS))
    save("static-normalized", SentenceTransformer(modules=[static, Normalize()]))
    save("static-dense", SentenceTransformer(modules=[static, Dense(HIDDEN, HIDDEN)]))
    steep = transformer("steep", STEEPNESS)
    save("steep", SentenceTransformer(modules=[steep, Pooling(HIDDEN)]))
    half = SentenceTransformer(modules=[transformer("half"), Pooling(HIDDEN)])
    save("half-precision", half.half())
    make_cross_encoder(folder, tokenizer)


def make_cross_encoder(folder: Path, tokenizer: "BertTokenizer") -> None:
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=128,
    )
    config.num_labels = 1
    network = BertForSequenceClassification(config)
    network.classifier.weight.data.mul_(STEEPNESS)  # else all scores are nearly the same
    place = folder / CROSS_ENCODER
    network.save_pretrained(place)
    tokenizer.save_pretrained(place)
    model = CrossEncoder(str(place), device="cpu", max_length=96)
    model.save_pretrained(str(place))
    rows = [model.predict([(query, text) for text in TEXTS]) for query in QUERIES]
    np.save(folder / f"{CROSS_ENCODER}.npy", rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
