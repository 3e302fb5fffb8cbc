"""``ingestq up`` with a web site and a mailbox: watched, and on a schedule."""

import asyncio
from typing import Any

import pytest

from tests.command import SECONDS, Ingestq
from tests.imap_server import PASSWORD, Mailbox, imap_server
from tests.redis_servers import HOST
from tests.running_command import serving
from tests.waiting import eventually
from tests.web_site import Answer, web_site

TABLES = """
web_allow_private = true
web_delay_seconds = 0
imap_ca_file = "{ca_file}"
drop_rescan_seconds = 1

[[drop]]
url = "{site}/sitemap.xml"
source = "site"

[[drop]]
url = "{mail}/INBOX"
source = "mail"

[[schedule]]
name = "rules"
cron = "0 0 1 1 *"
url = ["{site}/rules"]
source = "rules"

[[schedule]]
name = "sent"
cron = "0 0 1 1 *"
url = "{mail}/Sent"
source = "sent"

[imap_passwords]
"{account}" = "{password}"
"""


def letter(subject: str, text: str) -> bytes:
    return f"Subject: {subject}\r\nMessage-ID: <{subject}@x>\r\n\r\n{text}\r\n".encode()


@pytest.mark.slow
async def test_a_site_and_a_mailbox_are_watched_and_scheduled(
    ingestq: Ingestq, dovecot: str
) -> None:
    async def status() -> Any:
        return (await ingestq.ended("status", "--json")).json

    async def unavailable() -> dict[str, bool]:
        folders = (await status())["watched_folders"]
        return {folder["folder"]: bool(folder["unavailable"]) for folder in folders}

    async def found(words: str) -> list[str]:
        hits = (await ingestq.ended("search", words, "--json")).json["hits"]
        return [hit["source"] for hit in hits if words in hit["text"]]

    async def documents() -> int:
        return int((await status())["collection"]["documents"])

    async with web_site() as site, imap_server(dovecot) as server:
        mailbox = Mailbox(server, "anna")
        lamps, mail = f"{site.url}/lamps", mailbox.url
        site.page("/lamps", "<p>The lamp guides ships at night, and has done so for years.</p>")
        site.page("/rules", "<p>Visitors leave the island before the last boat sails.</p>")
        site.sitemap("/lamps")
        mailbox.put("INBOX", letter("Heron", "The heron sits on the pier."))
        mailbox.put("Sent", letter("Boat", "The supply boat sails on Monday."))
        tables = TABLES.format(
            site=site.url,
            mail=mail,
            ca_file=server.ca_file,
            account=f"anna@{HOST}:{server.port}",
            password=PASSWORD,
        )
        (ingestq.folder / "ingestq.toml").write_text(tables)
        with serving(ingestq, "up") as served:
            await eventually(documents, lambda count: count == 2, SECONDS)
            assert await found("lamp") == [lamps]
            for name, outcome in (("rules", "indexed"), ("sent", "indexed"), ("sent", "unchanged")):
                ran = await ingestq.ended("schedule", "run", name, "--json")
                assert (ran.code, ran.json["documents"][outcome]) == (0, 1), ran.err
            assert await found("Visitors") == [f"{site.url}/rules"]
            assert [one.startswith(f"{mail}/Sent/;") for one in await found("Monday")] == [True]

            site.page("/trees", "<p>The oldest trees grow in the valley behind the harbour.</p>")
            site.sitemap("/trees")
            mailbox.put("INBOX", letter("Gull", "The gull sits on the roof."))
            mailbox.expunge("INBOX", 1)
            await eventually(lambda: found("valley"), seconds=SECONDS)
            await eventually(lambda: found("gull"), seconds=SECONDS)
            await eventually(documents, lambda count: count == 4, SECONDS)
            assert await found("lamp") == await found("heron") == []

            site.answers["/sitemap.xml"] = Answer(status=410)
            await server.stop()
            watched = (f"{site.url}/sitemap.xml", f"{mail}/INBOX")
            away = dict.fromkeys(watched, True)
            await eventually(unavailable, lambda folders: folders == away, SECONDS)
            refused = await ingestq.ended("schedule", "run", "sent")
            assert refused.code != 0
            assert f"{HOST}:{server.port}" in refused.err + refused.out
            assert await documents() == 4
            await server.start()
            site.sitemap("/trees")
            back = dict.fromkeys(watched, False)
            await eventually(unavailable, lambda folders: folders == back, SECONDS)
            assert await documents() == 4
            await asyncio.to_thread(served.stop)  # the site answers meanwhile
        assert PASSWORD not in served.said()
