"""A model that costs next to nothing, so that what is measured is the pipeline around it."""

from pathlib import Path
from typing import Final

MODULE: Final = "benchmarks.embedding.static_model"
"""Run as a process: making it loads torch, which the benchmark's own process does without."""
DIMENSION: Final = 256


def make(folder: Path) -> None:
    """Write a static model: words have random vectors, of which a text's is the mean.

    It has the bundled model's tokenizer. Searches with it find nothing in particular.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    from benchmarks.embedding.corpus import MODEL_DIR

    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    tokenizer.no_truncation()
    words = StaticEmbedding(tokenizer, embedding_dim=DIMENSION)
    SentenceTransformer(modules=[words]).save(str(folder))


if __name__ == "__main__":
    import sys

    make(Path(sys.argv[1]))
