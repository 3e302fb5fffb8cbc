"""Write a small, freely licensed corpus to try the pipeline on.

The corpus has two parts:

* the Python language reference that ships inside CPython (``pydoc_data.topics``, the text
  behind ``help("with")``), one UTF-8 file a topic, copied word for word. It is part of CPython
  and is covered by the PSF License (https://docs.python.org/3/license.html). It is read from
  the running interpreter, so its text follows that interpreter's version;
* the files of ``examples/documents``, written for this project and under its licence, copied
  into ``documents/``.

Run it again at any time: files that already have the right content are not touched, and neither is
their mtime.

    python examples/write_corpus.py DIR
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

DOCUMENTS = Path(__file__).resolve().parent / "documents"


def corpus_files() -> Iterator[tuple[Path, bytes]]:
    """Yield each file of the corpus as its path inside the target folder and its bytes."""
    for topic, text in sorted(topics.items()):
        yield Path(f"{topic}.txt"), text.encode("utf-8")
    for source in sorted(DOCUMENTS.iterdir()):
        if source.is_file():
            yield Path("documents", source.name), source.read_bytes()


def write_corpus(target: Path) -> tuple[int, int]:
    """Write the corpus into ``target``; return how many files were written and were there."""
    written = there = 0
    for name, content in corpus_files():
        path = target / name
        if path.is_file() and path.read_bytes() == content:
            there += 1
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written += 1
    return written, there


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Write the Python language reference and the example documents into DIR.",
    )
    parser.add_argument("target", metavar="DIR", type=Path, help="folder to write into")
    target: Path = parser.parse_args().target
    written, there = write_corpus(target)
    print(f"wrote {written} files to {target} ({there} already there)")


if __name__ == "__main__":
    main()
