"""``ingestq token``: make, list and revoke tokens of the HTTP API."""

from functools import partial
from typing import Annotated

import typer

from ingestq.app.composition import open_broker
from ingestq.app.settings import Settings
from ingestq.broker.tokens import ApiTokens
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import Json, require_text
from ingestq.cli.output import error_line, line, print_json
from ingestq.core.errors import UsageError
from ingestq.core.tokens import Right, TokenGrant, TokenInfo

token = typer.Typer(
    name="token",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make, list and revoke tokens of the HTTP API.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the token.", show_default=False)]


@token.command()
def create(
    name: Name,
    tenant: Annotated[
        str | None,
        typer.Option(
            metavar="TENANT",
            help="Only documents of this tenant exist for it; by default those of all.",
            show_default=False,
        ),
    ] = None,
    right: Annotated[
        list[Right] | None,
        typer.Option(
            metavar="read|write|admin",
            help="What it may do; repeat for several. By default read. admin includes the others.",
            show_default=False,
        ),
    ] = None,
    collection: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only these collections exist for it; repeat for several. By default all.",
            show_default=False,
        ),
    ] = None,
    expires: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS", help="It is valid for so long; by default until it is revoked."
        ),
    ] = None,
    per_minute: Annotated[
        int | None,
        typer.Option(metavar="N", help="The most requests a minute; by default no limit."),
    ] = None,
    json: Json = False,
) -> None:
    """Make a token and print it, this once: only its hash is stored."""
    run_command(
        partial(_create, name, tenant, right, collection, expires, per_minute, json), as_json=json
    )


@token.command("list")
def list_tokens(json: Json = False) -> None:
    """List tokens: what each is for, and when it was last used."""
    run_command(partial(_list, json), as_json=json)


@token.command()
def revoke(name: Name, json: Json = False) -> None:
    """Delete a token: the next request with it is refused."""
    run_command(partial(_revoke, name, json), as_json=json)


async def _create(
    name: str,
    tenant: str | None,
    rights: list[Right] | None,
    collections: list[str] | None,
    expires_days: float | None,
    per_minute: int | None,
    as_json: bool,
    settings: Settings,
) -> ExitCode:
    require_text(name, tenant or "", *(collections or ()))
    try:
        grant = TokenGrant(
            name,
            tenant,
            frozenset(rights or {Right.READ}),
            frozenset(collections) if collections else None,
            expires_days,
            per_minute,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    async with open_broker(settings) as broker:
        created = await ApiTokens(broker.redis, broker.config).create(grant)
    if created is None:
        raise UsageError(
            f"there is a token {name!r} already; choose another name, or revoke it first with "
            "`ingestq token revoke`"
        )
    info, text = created
    if as_json:
        print_json(info.as_json() | {"token": text})
        return ExitCode.OK
    line(text)
    for described in _described(info):
        error_line(described)
    error_line("The token is shown this once: only its hash is stored.")
    return ExitCode.OK


async def _list(as_json: bool, settings: Settings) -> ExitCode:
    async with open_broker(settings) as broker:
        tokens = await ApiTokens(broker.redis, broker.config).listed()
    if as_json:
        print_json({"tokens": [info.as_json() for info in tokens]})
        return ExitCode.OK
    for info in tokens:
        name, *described = _described(info)
        line(name, style="bold")
        for each in described:
            line(each)
    if not tokens:
        line("there are no tokens; `ingestq token create NAME` makes one")
    return ExitCode.OK


def _described(info: TokenInfo) -> list[str]:
    """Return the lines that say what a token is for."""
    known = info.as_json()
    lines = [
        f"{info.name}: {', '.join(known['rights'])}",
        f"  tenant       {'all' if info.tenant is None else repr(info.tenant)}",
        f"  collections  {'all' if info.collections is None else ', '.join(info.collections)}",
        f"  made         {known['made']}",
        f"  last used    {known['last_used'] or 'never'}",
    ]
    if info.per_minute is not None:
        lines.append(f"  limit        {info.per_minute} requests a minute")
    if info.expires_ms is not None:
        lines.append(f"  {'expired' if info.is_expired else 'expires'}      {known['expires']}")
    return lines


async def _revoke(name: str, as_json: bool, settings: Settings) -> ExitCode:
    require_text(name)
    async with open_broker(settings) as broker:
        left = await ApiTokens(broker.redis, broker.config).revoke(name)
    if left is None:
        raise UsageError(f"there is no token {name!r}; see `ingestq token list`")
    opens = left == 0 and settings.api_token is None
    if as_json:
        print_json({"revoked": name, "left": left, "opens": opens})
        return ExitCode.OK
    line(f"{name} is revoked; tokens left: {left}")
    if opens:
        line(
            "Without tokens and without INGESTQ_API_TOKEN, a server that is started from now on "
            "answers everybody on this machine.",
            style="yellow",
        )
    return ExitCode.OK
