"""Redis and Qdrant with TLS and few rights: documents pass, mistakes are explained."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
import trustme

from ingestq.app.composition import Broker
from ingestq.broker.connection import BrokerConfig, connect, connected
from ingestq.broker.scripts import CALL
from ingestq.core.documents import Document
from ingestq.core.errors import BrokerUnavailable, StoreUnavailable, UsageError
from ingestq.core.jobs import IngestBatch
from tests.command import Ingestq
from tests.qdrant_proxy import qdrant_proxy
from tests.redis_servers import DURABLE, HOST, SERVICE, RedisServer, free_port, running, sentinel_of
from tests.waiting import eventually
from worker.store.client import QdrantConfig, connect_qdrant

ROOT = Path(__file__).parents[2]
PASSWORD = "hush-hush"
LINE = re.compile(r"^user ingestq on >PASSWORD .*$", re.MULTILINE)


@dataclass(frozen=True)
class Certificates:
    """Files with an authority, and a certificate of it for the servers and their clients."""

    authority: trustme.CA
    ca: Path
    cert: Path
    key: Path

    @classmethod
    def made_in(cls, folder: Path, name: str = HOST) -> "Certificates":
        authority = trustme.CA()
        made = cls(authority, *(folder / f"{part}.pem" for part in ("ca", "cert", "key")))
        issued = authority.issue_cert(name)
        authority.cert_pem.write_to_path(str(made.ca))
        issued.cert_chain_pems[0].write_to_path(str(made.cert))
        issued.private_key_pem.write_to_path(str(made.key))
        return made

    def of_server(self, port: int) -> tuple[str, ...]:
        """Return the configuration of a server that speaks nothing but TLS."""
        return (
            "port 0",
            f"tls-port {port}",
            f"tls-cert-file {self.cert}",
            f"tls-key-file {self.key}",
            f"tls-ca-cert-file {self.ca}",
            "tls-replication yes",
        )

    def query(self, *, client: bool = True) -> str:
        options = {"ssl_ca_certs": self.ca}
        if client:
            options |= {"ssl_certfile": self.cert, "ssl_keyfile": self.key}
        return urlencode(options)


@asynccontextmanager
async def tls_redis(binary: str, folder: Path, certificates: Certificates) -> AsyncIterator[str]:
    """Run a server that wants client certificates; yields its host and port."""
    port = free_port()
    server = RedisServer(binary, folder / "tls", port, (*DURABLE, *certificates.of_server(port)))
    with running([server]):
        await eventually(lambda: _answers(f"rediss://{server.place}?{certificates.query()}"))
        yield server.place


async def _answers(url: str) -> bool:
    try:
        async with connected(BrokerConfig(url)):
            return True
    except BrokerUnavailable as error:
        return "not trusted" in str(error)


async def refusal(url: str) -> str:
    with pytest.raises(BrokerUnavailable) as refused:
        async with connected(BrokerConfig(url)):
            pass
    return str(refused.value)


async def test_redis_with_tls_and_client_certificates(redis_server: str, tmp_path: Path) -> None:
    certificates = Certificates.made_in(tmp_path)
    async with tls_redis(redis_server, tmp_path, certificates) as place:
        async with connected(BrokerConfig(f"rediss://{place}/0?{certificates.query()}")) as redis:
            assert await redis.ping()
        untrusted = await refusal(f"rediss://{place}/0")
        assert "?ssl_ca_certs=" in untrusted
        # Its alert that it wants a certificate may arrive, or the connection be reset before.
        unknown = await refusal(f"rediss://{place}/0?{certificates.query(client=False)}")
        assert f"Redis does not answer at rediss://{place}/0" in unknown
        sentinel = sentinel_of(
            redis_server,
            tmp_path / "sentinel",
            RedisServer(redis_server, tmp_path, int(place.partition(":")[2])),
            quorum=1,
        )
        sentinel.config += certificates.of_server(sentinel.port)
        with running([sentinel]):
            url = f"rediss+sentinel://{sentinel.place}/{SERVICE}/0?{certificates.query()}"
            await eventually(lambda: _answers(url))


async def test_a_certificate_for_another_name_is_refused(redis_server: str, tmp_path: Path) -> None:
    certificates = Certificates.made_in(tmp_path, "elsewhere.example")
    query = certificates.query()
    async with tls_redis(redis_server, tmp_path, certificates) as place:
        assert "IP address mismatch" in await refusal(f"rediss://{place}/0?{query}")
        for option in ("ssl_check_hostname=false", "ssl_cert_reqs=none"):
            async with connected(BrokerConfig(f"rediss://{place}/0?{query}&{option}")):
                pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("ssl_ca_certs=/nowhere/secret.pem", "No such file or directory"),
        ("ssl_certfile=/nowhere/secret.pem", "needs both"),
        ("ssl_cert_reqs=perhaps", "options that do not exist"),
    ],
)
def test_wrong_options_for_tls_are_usage_errors(options: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        connect(BrokerConfig(f"rediss://{HOST}:1?{options}"))
    assert "INGESTQ_REDIS_URL" in str(refused.value)
    assert "secret" not in str(refused.value)


# Qdrant


async def test_qdrant_with_tls_and_an_api_key(qdrant_place: str, tmp_path: Path) -> None:
    certificates = Certificates.made_in(tmp_path)
    async with qdrant_proxy(
        qdrant_place, api_key=PASSWORD, certificate=(certificates.cert, certificates.key)
    ) as proxy:
        trusting = QdrantConfig(proxy.url, PASSWORD, ca_file=certificates.ca)
        async with connect_qdrant(trusting) as qdrant:
            await qdrant.ask(lambda client: client.get_collections())
        async with connect_qdrant(QdrantConfig(proxy.url, PASSWORD)) as qdrant:
            with pytest.raises(StoreUnavailable, match="INGESTQ_QDRANT_CA_FILE"):
                await qdrant.ask(lambda client: client.get_collections())


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_file_without_certificates_is_a_usage_error(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=f"INGESTQ_QDRANT_CA_FILE is '{path}'"):
        async with connect_qdrant(QdrantConfig(f"https://{HOST}:1", None, ca_file=path)):
            pass


# Access control


def documented_user() -> str:
    """Return the line of docs/deployment.md that makes a user."""
    [line] = LINE.findall((ROOT / "docs/deployment.md").read_text(encoding="utf-8"))
    return str(line).replace(">PASSWORD", f">{PASSWORD}")


def test_the_documented_user_may_send_what_the_scripts_send() -> None:
    allowed = {right.removeprefix("+") for right in documented_user().split()}
    scripts = [path.read_text("utf-8") for path in (ROOT / "ingestq/broker/lua").glob("*.lua")]
    sent = {command.lower() for script in scripts for command in CALL.findall(script)}
    assert len(sent) > 30
    assert sent - allowed == set()


@asynccontextmanager
async def restricted_redis(binary: str, folder: Path, user: str) -> AsyncIterator[str]:
    """Run a server whose only user is ``user``; yields its URL."""
    config = (*DURABLE, "user default off", user)
    server = RedisServer(binary, folder / "acl", free_port(), config)
    with running([server]):
        await server.answers()
        yield f"redis://ingestq:{PASSWORD}@{server.place}/1"


@pytest.mark.slow
async def test_a_document_passes_with_the_documented_user(
    redis_server: str, ingestq: Ingestq, tmp_path: Path
) -> None:
    (ingestq.folder / "docs").mkdir()
    (ingestq.folder / "docs" / "note.txt").write_text("The ferry leaves at noon.")
    async with restricted_redis(redis_server, tmp_path, documented_user()) as url:
        ingestq.settings |= {"redis_url": url, "blob_url": str(tmp_path / "blobs")}
        ran = await ingestq.ended("run", "docs", "--json")
        assert ran.code == 0, ran.err
        assert ran.json["documents"]["indexed"] == 1
        for command in (("status",), ("dead", "list")):
            assert (await ingestq.ended(*command)).code == 0, command
        doctor = await ingestq.ended("doctor")
        assert doctor.code == 0, doctor.err
        assert "INFO and CONFIG GET" in doctor.out
        (ingestq.folder / "docs" / "note.txt").unlink()
        (ingestq.folder / "docs" / "new.txt").write_text("The ferry leaves at one.")
        assert (await ingestq.ended("run", "docs")).code == 0


@pytest.mark.parametrize(
    ("right", "named"),
    [("+zadd ", "'zadd'"), ("+evalsha ", "'evalsha'"), ("~ingestq:* ", "key"), ("+wait ", "")],
)
async def test_a_missing_right_is_named(
    redis_server: str, tmp_path: Path, right: str, named: str
) -> None:
    document = Document(collection="documents", doc_id="a", version=1, source="s", text="t")
    user = documented_user().replace(right, "")
    async with restricted_redis(redis_server, tmp_path, user) as url:
        config = BrokerConfig(url)

        async def offer() -> None:
            async with connected(config) as redis:
                await Broker(redis, config).queue.offer([IngestBatch("s", (document,))])

        if not named:  # only receipts that wait for replicas need it
            await offer()
            return
        with pytest.raises(UsageError, match="the rights that ingestq needs") as refused:
            await offer()
    assert named in str(refused.value)
    assert PASSWORD not in str(refused.value)
