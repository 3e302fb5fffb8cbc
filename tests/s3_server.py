"""A server of S3 in a process of its own, and a client that changes what is in it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import urllib3
from botocore.config import Config

from tests.redis_servers import HOST, free_port

UNTIL_STARTED = urllib3.Retry(600, backoff_factor=0.05, backoff_max=0.2)
USER = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tester",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True)
class S3Server:
    """A server at ``url`` that accepts any credentials, until `check_credentials`."""

    url: str
    pid: int

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables with which programs find the server."""
        # Without files of this machine's user.
        files = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        off = {"AWS_EC2_METADATA_DISABLED": "true", "FSSPEC_CONFIG_DIR": os.devnull}
        return {**USER, **files, **off, "AWS_ENDPOINT_URL": self.url}

    @property
    def client(self) -> Any:
        """A client of Amazon's own library."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=USER["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=USER["AWS_SECRET_ACCESS_KEY"],
            region_name=USER["AWS_DEFAULT_REGION"],
            config=Config(max_pool_connections=16),
        )

    def check_credentials(self, *, after: int | str) -> None:
        """Refuse unknown credentials ``after`` so many requests; "inf" accepts them again."""
        urllib3.request("POST", f"{self.url}/moto-api/reset-auth", body=str(after).encode())


@dataclass(frozen=True)
class Bucket:
    """A bucket on ``server``."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def put(self, objects: Mapping[str, str | bytes]) -> None:
        """Write objects, by their keys."""
        client = self.server.client
        for key, content in objects.items():
            body = content.encode() if isinstance(content, str) else content
            client.put_object(Bucket=self.name, Key=key, Body=body)

    def delete(self, *keys: str) -> None:
        """Delete objects."""
        client = self.server.client
        for key in keys:
            client.delete_object(Bucket=self.name, Key=key)


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server, which logs into ``folder``."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = f"http://{HOST}:{port}"
        urllib3.request("GET", f"{url}/moto-api/", retries=UNTIL_STARTED)
        yield S3Server(url, process.pid)
    finally:
        process.terminate()
        process.wait()
