"""``ingestq webhooks``: see what waits for webhooks, try it again, and test them."""

from functools import partial
from typing import Annotated, Any

import typer

from ingestq.app.composition import open_broker
from ingestq.app.settings import Settings
from ingestq.app.webhooks import try_webhooks, webhooks_named
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import Json, require_text
from ingestq.cli.output import line, print_json
from ingestq.core.errors import UsageError

webhooks = typer.Typer(
    name="webhooks",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See what waits for webhooks, try it again, and test them.",
)

OneOrAll = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Name of a webhook; by default all.", show_default=False),
]
One = Annotated[str, typer.Argument(metavar="NAME", help="Name of a webhook.", show_default=False)]


@webhooks.command("list")
def list_webhooks(json: Json = False) -> None:
    """List webhooks, and the messages that wait for them or failed."""
    run_command(partial(_list, json), as_json=json)


@webhooks.command()
def retry(name: OneOrAll = None, json: Json = False) -> None:
    """Try all messages again at once, also failed ones.

    A webhook that had answered 410 is told of events again.
    """
    run_command(partial(_retry, name, json), as_json=json)


@webhooks.command("test")
def send_test(name: OneOrAll = None, json: Json = False) -> None:
    """Post a message of the type webhook.test, and show the answer.

    Exits with 3 if a webhook does not take it.
    """
    run_command(partial(_test, name, json), as_json=json)


@webhooks.command()
def purge(name: One, json: Json = False) -> None:
    """Delete all messages of a webhook, such as one that was removed."""
    run_command(partial(_purge, name, json), as_json=json)


async def _list(as_json: bool, settings: Settings) -> ExitCode:
    targets = {target.name: target for target in settings.webhooks}
    async with open_broker(settings) as broker:
        backlogs, messages = await broker.webhooks.listed()
    known = {backlog.target: backlog.as_json() for backlog in backlogs}
    listed: list[dict[str, Any]] = []
    for name in dict.fromkeys((*targets, *known)):
        target = targets.get(name)
        listed.append(
            {"target": name, "configured": target is not None}
            | {
                "place": None if target is None else target.place,
                "events": [] if target is None else [event.value for event in target.events],
            }
            | known.get(name, NOTHING | {"target": name})
        )
    if as_json:
        print_json({"webhooks": listed, "messages": [message.as_json() for message in messages]})
        return ExitCode.OK
    for each in listed:
        _print_webhook(each)
        for message in (found.as_json() for found in messages):
            if message["target"] == each["target"]:
                _print_message(message)
    if not listed:
        line("no webhook is configured: add a [[webhook]] table to ingestq.toml")
    return ExitCode.OK


NOTHING = {
    "waiting": 0,
    "failed": 0,
    "delivered": 0,
    "dropped": 0,
    "oldest_waiting_seconds": 0.0,
    "gone": False,
    "error": "",
}
"""The state of a webhook that was never to be told anything."""


def _print_webhook(webhook: dict[str, Any]) -> None:
    what = f"{webhook['place']}, {', '.join(webhook['events'])}"
    line(f"{webhook['target']}: {what if webhook['configured'] else 'no longer configured'}")
    line(
        f"  {webhook['waiting']} waiting, {webhook['failed']} failed, "
        f"{webhook['delivered']} delivered, {webhook['dropped']} dropped"
        + (
            f"; oldest waits {webhook['oldest_waiting_seconds']:.0f} s"
            if webhook["waiting"]
            else ""
        )
    )
    if webhook["gone"]:
        line("  it answered 410, and is told nothing: `ingestq webhooks retry`", style="red")
    elif webhook["error"]:
        line(f"  last attempt: {webhook['error']}", style="yellow")


def _print_message(message: dict[str, Any]) -> None:
    state = message["state"]
    if state == "waiting":
        state = f"next attempt in {message['next_attempt_seconds']:.0f} s"
    line(
        f"  {message['at']}  {message['event']}  {message['id']}: {state}, "
        f"attempts: {message['attempts']}" + (f"; {message['error']}" if message["error"] else "")
    )


async def _retry(name: str | None, as_json: bool, settings: Settings) -> ExitCode:
    targets = webhooks_named(settings, name)
    async with open_broker(settings) as broker:
        retried = sum([await broker.webhooks.retry(target.name) for target in targets])
    if as_json:
        print_json({"retried": retried})
    else:
        line(f"{retried} messages are tried again")
    return ExitCode.OK


async def _test(name: str | None, as_json: bool, settings: Settings) -> ExitCode:
    results = await try_webhooks(settings, webhooks_named(settings, name))
    if as_json:
        print_json({"webhooks": [result.as_json() for result in results]})
    else:
        for result in results:
            line(
                f"{result.target.name}: {result.target.place}: "
                + (result.error or f"took the message in {result.seconds:.2f} s"),
                style="red" if result.error else None,
            )
    failed = any(result.error for result in results)
    return ExitCode.SERVICE_UNREACHABLE if failed else ExitCode.OK


async def _purge(name: str, as_json: bool, settings: Settings) -> ExitCode:
    require_text(name)
    async with open_broker(settings) as broker:
        known = {backlog.target for backlog in (await broker.queue.overview()).webhooks}
        if name not in known:
            raise UsageError(f"there are no messages for {name!r}; see `ingestq webhooks list`")
        purged = await broker.webhooks.purge(name)
    if as_json:
        print_json({"purged": purged})
    else:
        line(f"{purged} messages deleted")
    return ExitCode.OK
