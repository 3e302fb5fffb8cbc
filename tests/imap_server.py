"""Dovecot as a server of IMAP, and the mailbox of a user on it, which tests change."""

import asyncio
import grp
import imaplib
import os
import pwd
import re
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trustme

from ingestq.core.mailboxes import MailConfig, account_of
from tests.redis_servers import HOST, free_port
from tests.waiting import eventually

PASSWORD = "secret-of-anna"
CONFIG = """
base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/log
protocols = imap
ssl = {ssl}
ssl_cert = <{folder}/cert.pem
ssl_key = <{folder}/key.pem
disable_plaintext_auth = no
mail_location = maildir:{folder}/home/%u
mail_uid = {uid}
mail_gid = {gid}
first_valid_uid = 0
first_valid_gid = 0
auth_failure_delay = 0
{users}
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    address = 127.0.0.1
    port = {port}
  }}
  inet_listener imaps {{
    address = 127.0.0.1
    port = {tls_port}
    ssl = yes
  }}
}}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/home/%u
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
"""
NOT_AS_ROOT = """
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
"""
"""Root leaves these to the users that the package brings."""


@dataclass
class ImapServer:
    """A server with its files in ``folder``, which any user may enter. All have one password."""

    binary: str
    folder: Path
    port: int
    tls_port: int
    process: "asyncio.subprocess.Process | None" = None

    @property
    def ca_file(self) -> Path:
        """The authority of the certificate of the server."""
        return self.folder / "ca.pem"

    def configure(self, *, offers_tls: bool) -> None:
        """Write the configuration; without ``offers_tls``, there is none on the plain port."""
        me = pwd.getpwuid(os.getuid())
        group = grp.getgrgid(me.pw_gid).gr_name
        own = "" if me.pw_uid == 0 else NOT_AS_ROOT.format(user=me.pw_name, group=group)
        uid, gid = _owner()
        config = CONFIG.format(
            folder=self.folder,
            port=self.port,
            tls_port=self.tls_port,
            uid=uid,
            gid=gid,
            ssl="yes" if offers_tls else "no",
            users=own,
            password=PASSWORD,
        )
        (self.folder / "dovecot.conf").write_text(config, "utf-8")

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        quiet = asyncio.subprocess.DEVNULL
        config = str(self.folder / "dovecot.conf")
        self.process = await asyncio.create_subprocess_exec(
            self.binary, "-F", "-c", config, stdout=quiet, stderr=quiet, start_new_session=True
        )
        await eventually(self._answers)

    async def stop(self) -> None:
        """End it, with all its connections."""
        if self.process is not None:
            group = self.process.pid
            self.process.terminate()
            await self.process.wait()
            with suppress(ProcessLookupError):  # its processes end soon after it, or by then
                os.killpg(group, signal.SIGKILL)
            self.process = None
            await eventually(self._is_gone)

    async def _is_gone(self) -> bool:
        """Return whether nobody listens, so that the ports are free."""
        for port in (self.port, self.tls_port):
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except ConnectionRefusedError:
                continue
            except OSError:  # it was ending just now
                return False
            writer.close()
            return False
        return True

    async def _answers(self) -> bool:
        try:
            greeting, writer = await asyncio.open_connection(HOST, self.port)
            line = await greeting.readline()
        except OSError:
            return False
        writer.close()
        return line.startswith(b"* OK")


@dataclass(frozen=True)
class Mailbox:
    """The mailbox of ``user`` on ``server``."""

    server: ImapServer
    user: str

    @property
    def url(self) -> str:
        return f"imap://{self.user}@{HOST}:{self.server.port}"

    @property
    def tls_url(self) -> str:
        return f"imaps://{self.user}@{HOST}:{self.server.tls_port}"

    def config(self, password: str = PASSWORD) -> MailConfig:
        places = (self.server.port, self.server.tls_port)
        passwords = {account_of(f"{self.user}@{HOST}:{port}"): password for port in places}
        return MailConfig(passwords, self.server.ca_file)

    def client(self) -> imaplib.IMAP4:
        """Return a connection of Python's own client."""
        client = imaplib.IMAP4(HOST, self.server.port)
        client.login(self.user, PASSWORD)
        return client

    def put(self, folder: str, *messages: bytes) -> None:
        """Create ``folder`` unless it exists, and append ``messages`` to it."""
        with self.client() as client:
            client.create(f'"{folder}"')
            for message in messages:
                client.append(f'"{folder}"', "", "", message)

    def expunge(self, folder: str, *uids: int) -> None:
        """Delete messages."""
        with self.client() as client:
            client.select(f'"{folder}"')
            client.uid("STORE", ",".join(map(str, uids)), "+FLAGS", r"(\Deleted)")
            client.expunge()

    def flag(self, folder: str, uid: int, flags: str) -> None:
        """Give a message ``flags``."""
        with self.client() as client:
            client.select(f'"{folder}"')
            client.uid("STORE", str(uid), "+FLAGS", f"({flags})")

    def delete(self, folder: str) -> None:
        """Delete ``folder``."""
        with self.client() as client:
            client.delete(f'"{folder}"')

    def unseen(self, folder: str) -> int:
        """Return how many messages nobody has read."""
        with self.client() as client:
            _, [answer] = client.status(f'"{folder}"', "(UNSEEN)")
        found = re.search(rb"UNSEEN (\d+)", answer or b"")
        assert found is not None
        return int(found[1])


def _owner() -> tuple[int, int]:
    """Return the user to whom mailboxes belong: Dovecot opens none as root."""
    user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    return user.pw_uid, user.pw_gid


def _folder(name: str) -> Path:
    folder = Path(name)
    folder.chmod(0o755)
    (folder / "home").mkdir()
    os.chown(folder / "home", *_owner())
    return folder


@asynccontextmanager
async def imap_server(binary: str) -> AsyncIterator[ImapServer]:
    """Run a server with a certificate for its address."""
    # Its processes have users of their own, and its sockets short names.
    with tempfile.TemporaryDirectory(prefix="imap-") as name:
        folder = _folder(name)
        authority = trustme.CA()
        issued = authority.issue_cert(HOST)
        server = ImapServer(binary, folder, free_port(), free_port())
        authority.cert_pem.write_to_path(str(server.ca_file))
        issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        issued.private_key_pem.write_to_path(str(folder / "key.pem"))
        server.configure(offers_tls=True)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
