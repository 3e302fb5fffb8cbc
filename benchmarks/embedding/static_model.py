"""A model that costs next to nothing, to measure the pipeline around it."""

from pathlib import Path
from typing import Final

MODULE: Final = "benchmarks.embedding.static_model"
"""Run as a process, because making the model loads torch."""
DIMENSION: Final = 256


def make(folder: Path, dimension: int) -> None:
    """Write a static model: a text's vector is the mean of random vectors of its words.

    It has the bundled model's tokenizer. Searches with it are meaningless.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    from benchmarks.embedding.corpus import MODEL_DIR

    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    tokenizer.no_truncation()
    words = StaticEmbedding(tokenizer, embedding_dim=dimension)
    SentenceTransformer(modules=[words]).save(str(folder))


if __name__ == "__main__":
    import sys

    make(Path(sys.argv[1]), int(sys.argv[2]))
