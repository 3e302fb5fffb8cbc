"""Text to chunks: a pure function of the text, never of its history. Runs in the pool's children.

Chunks are as large as the model can read and end where the text does: at headings, paragraphs or
sentences, by the structure of Markdown where there is some. Their size is counted with the
model's own tokenizer, so nothing is cut off when they are embedded.
"""

from typing import Final

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

CHUNKER: Final = "semantic-text-splitter/1"
"""Part of the fingerprint: change it when the same text gives other chunks."""


class Chunker:
    """Cuts texts into chunks of at most ``max_tokens`` tokens, special tokens not counted."""

    def __init__(self, tokenizer_json: str, max_tokens: int) -> None:
        tokenizer = Tokenizer.from_str(tokenizer_json)
        # With truncation on, every long text would seem to be as short as the limit.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.max_tokens = max_tokens
        self._text = TextSplitter.from_huggingface_tokenizer(tokenizer, max_tokens)
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, max_tokens)

    def chunks(self, text: str, *, markdown: bool) -> list[str]:
        """Cut ``text``; the chunks are in its order, without white space around them."""
        return (self._markdown if markdown else self._text).chunks(text)
