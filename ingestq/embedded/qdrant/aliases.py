"""Requests that change aliases."""

from msgspec import Struct

from ingestq.embedded.qdrant.catalog import Catalog
from ingestq.embedded.qdrant.errors import Refused, invalid, not_found


class CreateAlias(Struct, frozen=True):
    """Points an alias to a collection."""

    collection_name: str
    alias_name: str


class RenameAlias(Struct, frozen=True):
    """Gives an alias another name."""

    old_alias_name: str
    new_alias_name: str


class DeleteAlias(Struct, frozen=True):
    """Removes an alias."""

    alias_name: str


class AliasAction(Struct, frozen=True, kw_only=True):
    """One of these."""

    create_alias: CreateAlias | None = None
    rename_alias: RenameAlias | None = None
    delete_alias: DeleteAlias | None = None


class ChangeAliases(Struct, frozen=True):
    """Changes aliases, all in one step."""

    actions: list[AliasAction]


def with_action(catalog: Catalog, action: AliasAction) -> Catalog:
    """Return the catalog after ``action``. Raises Refused."""
    match action:
        case AliasAction(create_alias=CreateAlias(target, alias)):
            if target not in catalog.collections:
                raise not_found(f"Collection `{target}` doesn't exist!")
            _check_alias(catalog, alias)
            return catalog.with_alias(alias, target)
        case AliasAction(rename_alias=RenameAlias(old, new)):
            if old not in catalog.aliases:
                raise not_found(f"Alias {old} does not exists!")
            _check_alias(catalog, new)
            return catalog.without_alias(old).with_alias(new, catalog.aliases[old])
        case AliasAction(delete_alias=DeleteAlias(alias)):
            return catalog.without_alias(alias)
        case _:
            raise invalid("actions: an action is create_alias, rename_alias or delete_alias")


def _check_alias(catalog: Catalog, alias: str) -> None:
    if alias in catalog.collections:
        raise Refused(409, f"Wrong input: Collection `{alias}` already exists!")
