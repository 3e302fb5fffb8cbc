"""The README says what there is."""

import re
from pathlib import Path

from redis.asyncio import Redis

from ingestq.api.app import ApiConfig, Services, create_app
from ingestq.broker.connection import BrokerConfig, connect
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.client.client import IngestClient
from ingestq.core.search_query import SearchQuery

README = (Path(__file__).parents[2] / "README.md").read_text()


async def search(question: SearchQuery) -> list[object]:
    raise NotImplementedError


async def index(tenant: str, doc_id: str, collection: str) -> None:
    raise NotImplementedError


def routes() -> set[str]:
    config = BrokerConfig("redis://nobody.invalid")
    redis: Redis = connect(config)
    client, dead_letters = IngestClient(JobQueue(redis, config)), DeadLetters(redis, config)
    schema = create_app(Services(client, dead_letters, search, index), ApiConfig(1)).openapi()
    return {
        f"{method.upper()} {path}"
        for path, methods in schema["paths"].items()
        for method in methods
    }


def test_the_table_of_routes_is_complete() -> None:
    table = README.partition("## HTTP\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`([A-Z]+ /[^`]*)`", "".join(rows))) == routes()
