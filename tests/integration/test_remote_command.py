"""Buckets on the command line, as a user names them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestq.core.documents import Document
from tests.command import Ingestq
from tests.s3_server import Bucket, s3_server
from worker.text.content import content_hash

GIBIBYTE = 1024**3
MEBIBYTE = 1024**2


@pytest.mark.slow
def test_run_and_add_of_a_bucket(ingestq: Ingestq, bucket: Bucket) -> None:
    bucket.put({"docs/a.txt": "The lighthouse stands on the island."})
    done = ingestq("run", f"{bucket.url}/docs/", "--json")
    assert (done.code, done.json["documents"]["indexed"]) == (0, 1), done.err
    [hit] = ingestq("search", "lighthouse", "--json").json["hits"]
    assert hit["doc_id"] == hit["source"] == f"{bucket.url}/docs/a.txt"


@pytest.fixture
def guarded(bucket: Bucket) -> Iterator[Bucket]:
    """A bucket on a server that checks credentials, and knows no user."""
    bucket.server.check_credentials(after=0)
    yield bucket
    bucket.server.check_credentials(after="inf")


def test_what_is_wrong_with_a_bucket_is_said_in_a_line(ingestq: Ingestq, guarded: Bucket) -> None:
    ingestq("run", f"{guarded.url}/docs").failed_with(
        2, f"{guarded.url}/docs: access is denied", "AWS_ACCESS_KEY_ID", "Nothing was deleted"
    )


@pytest.mark.slow
def test_an_object_above_the_copy_limit_is_read_by_ranges(ingestq: Ingestq, bucket: Bucket) -> None:
    lines = [
        f"Paragraph {number} tells of the island and its {number} trees." for number in range(9)
    ]
    text = "\n\n".join(lines) + "\n" * MEBIBYTE + "\n\nThe lighthouse stands at the end."
    bucket.put({"large.txt": text})
    ingestq.settings["remote_copy_bytes"] = "1000"
    done = ingestq("run", bucket.url, "--json")
    assert (done.code, done.json["documents"]["indexed"]) == (0, 1), done.err
    [hit, *_] = ingestq("search", "lighthouse", "--json").json["hits"]
    assert "at the end" in hit["text"]
    again = ingestq("run", bucket.url, "--json").json["documents"]
    assert (again["indexed"], again["unchanged"]) == (0, 1)
    checked = ingestq("verify")
    assert checked.code == 0
    assert "1 documents have source files that are not visible from here" in checked.out


STREAM = """
import asyncio, sys
from pathlib import Path
from ingestq.core.documents import Document
from worker.blobs import BlobContents
from worker.remote.contents import RemoteContents
from worker.text.content import content_hash

url, limit, copy = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
document = Document(doc_id=url, version=1, source=url, url=url)

async def main():
    async with RemoteContents(BlobContents(), limit, copy).as_file(document) as content:
        assert (content.url is None) == (copy >= limit)
        print(content_hash(content, limit))

asyncio.run(main())
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("copy_bytes", [0, 2 * GIBIBYTE])
def test_a_gibibyte_streams_through_little_memory(tmp_path: Path, copy_bytes: int) -> None:
    file = tmp_path / "large"
    with file.open("wb") as written:
        for number in range(GIBIBYTE // MEBIBYTE):
            written.write(bytes([number % 251]) * MEBIBYTE)
    # A server of its own, which keeps the object in memory when it sends it.
    with s3_server(tmp_path) as server:
        server.client.create_bucket(Bucket="large")
        server.client.upload_file(str(file), "large", "object")
        streamed = subprocess.run(
            [sys.executable, "-c", STREAM, "s3://large/object", str(2 * GIBIBYTE), str(copy_bytes)],
            env={**os.environ, **server.environment},
            capture_output=True,
            text=True,
            check=True,
        )
    hashed, peak_kibibytes = streamed.stdout.split()
    url = "s3://large/object"
    document = Document(doc_id=url, version=1, source=url, path=str(file))
    assert hashed == content_hash(document, 2 * GIBIBYTE)
    assert int(peak_kibibytes) < 200 * 1024
