"""The local mode of qdrant-client, as strict as a server. Used from one thread only."""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from qdrant_client import QdrantClient, models

LARGEST_ID: Final = 2**64 - 1
INTEGERS: Final = range(-(2**63), 2**63)
UUID: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
DEFAULT_LIMIT: Final = 10


class Refused(Exception):
    """Raised for a request that the server answers with the error ``status``."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class StrictQdrant:
    """The server's operations on well-formed requests; each returns the result to answer with.

    Raises Refused, or what the local mode raises: ValueError, and KeyError for a missing point.
    """

    def __init__(self) -> None:
        self._local = QdrantClient(":memory:")
        self._indexes: dict[str, dict[str, models.PayloadIndexInfo]] = {}
        self._created: dict[str, models.CreateCollection] = {}
        self._largest_upserts: dict[str, int] = {}

    def collections(self, _name: str, _wanted: None) -> object:
        return self._local.get_collections()

    def collection(self, name: str, _wanted: None) -> object:
        real = self._existing(name)
        info, wanted = self._local.get_collection(real), self._created[real]
        stored_on_disk = True if wanted.on_disk_payload is None else wanted.on_disk_payload
        params = info.config.params.model_copy(update={"on_disk_payload": stored_on_disk})
        kept = {"params": params, "quantization_config": wanted.quantization_config}
        config = info.config.model_copy(update=kept)
        return info.model_copy(update={"config": config, "payload_schema": self._indexes[real]})

    def exists(self, name: str, _wanted: None) -> object:
        return {"exists": self._local.collection_exists(name)}

    def create(self, name: str, wanted: models.CreateCollection) -> object:
        self._check_free(name)
        if name in self._aliases():
            text = f"Can't create collection with name {name}. Alias with the same name"
            raise Refused(400, f"Wrong input: {text} already exists")
        self._limit(name, wanted.strict_mode_config)
        created = self._local.create_collection(
            name,
            wanted.vectors or {},
            sparse_vectors_config=wanted.sparse_vectors,
            metadata=wanted.metadata,
        )
        self._indexes[name], self._created[name] = {}, wanted
        return created

    def update(self, name: str, wanted: models.UpdateCollection) -> object:
        if wanted.model_fields_set - {"strict_mode_config", "metadata"}:
            raise Refused(501, "the stand-in changes only a collection's strict mode and metadata")
        real = self._existing(name)
        if "strict_mode_config" in wanted.model_fields_set:
            self._limit(real, wanted.strict_mode_config)
        self._local.update_collection(real, metadata=wanted.metadata)
        return True

    def delete_collection(self, name: str, _wanted: None) -> object:
        self._indexes.pop(name, None)
        self._created.pop(name, None)
        self._largest_upserts.pop(name, None)
        return self._local.delete_collection(name)

    def create_index(self, name: str, wanted: models.CreateFieldIndex) -> object:
        schema = wanted.field_schema
        if schema is None:
            raise Refused(501, "the stand-in cannot guess the schema of an index")
        kind = schema if isinstance(schema, models.PayloadSchemaType) else schema.type
        self._indexes[self._existing(name)][wanted.field_name] = models.PayloadIndexInfo(
            data_type=models.PayloadSchemaType(kind.value), points=0
        )
        return _completed()

    def aliases(self, _name: str, _wanted: None) -> object:
        return self._local.get_aliases()

    def change_aliases(self, _name: str, wanted: models.ChangeAliasesOperation) -> object:
        for action in wanted.actions:  # an action that fails does not undo those before it
            match action:
                case models.CreateAliasOperation(create_alias=new):
                    self._existing(new.collection_name, or_alias=False)
                    self._check_free(new.alias_name)
                case models.RenameAliasOperation(rename_alias=names):
                    if names.old_alias_name not in self._aliases():
                        text = f"Alias {names.old_alias_name} does not exists!"
                        raise Refused(404, f"Not found: {text}")
                    self._check_free(names.new_alias_name)
            self._local.update_collection_aliases([action])
        return True

    def upsert(self, name: str, wanted: models.PointInsertOperations) -> object:
        points: list[models.PointStruct] | models.Batch
        if isinstance(wanted, models.PointsBatch):
            points = wanted.batch
            _check_ids(points.ids)
        else:
            points = wanted.points
            _check_ids(point.id for point in points)
        self._check_number(name, len(points.ids if isinstance(points, models.Batch) else points))
        self._local.upsert(
            self._existing(name),
            points,
            update_filter=wanted.update_filter,
            update_mode=wanted.update_mode,
        )
        return _completed()

    def delete_points(self, name: str, wanted: models.PointsSelector) -> object:
        if isinstance(wanted, models.PointIdsList):
            _check_ids(wanted.points)
        self._local.delete(self._existing(name), wanted)
        return _completed()

    def set_payload(self, name: str, wanted: models.SetPayload) -> object:
        points = _chosen(wanted)
        self._local.set_payload(self._existing(name), wanted.payload, points, wanted.key)
        return _completed()

    def overwrite_payload(self, name: str, wanted: models.SetPayload) -> object:
        self._local.overwrite_payload(self._existing(name), wanted.payload, _chosen(wanted))
        return _completed()

    def batch(self, name: str, wanted: models.UpdateOperations) -> object:
        """Apply the operations in order; those before a refused one stay applied."""
        self._existing(name)
        for operation in wanted.operations:
            match operation:
                case models.UpsertOperation(upsert=points):
                    self.upsert(name, points)
                case models.DeleteOperation(delete=chosen):
                    self.delete_points(name, chosen)
                case models.SetPayloadOperation(set_payload=payload):
                    self.set_payload(name, payload)
                case models.OverwritePayloadOperation(overwrite_payload=payload):
                    self.overwrite_payload(name, payload)
                case _:
                    kind = type(operation).__name__
                    raise Refused(501, f"the stand-in knows no {kind} in a batch")
        return [_completed() for _ in wanted.operations]

    def retrieve(self, name: str, wanted: models.PointRequest) -> object:
        _check_ids(wanted.ids)
        real = self._existing(name)
        return self._local.retrieve(real, wanted.ids, **self._parts(real, wanted, True))

    def scroll(self, name: str, wanted: models.ScrollRequest) -> object:
        _check_ids(() if wanted.offset is None else (wanted.offset,))
        real = self._existing(name)
        points, following = self._local.scroll(
            real,
            wanted.filter,
            limit=_limit(wanted.limit),
            order_by=wanted.order_by,
            offset=wanted.offset,
            **self._parts(real, wanted, True),
        )
        return models.ScrollResult(points=points, next_page_offset=following)

    def count(self, name: str, wanted: models.CountRequest) -> object:
        return self._local.count(self._existing(name), wanted.filter)

    def query(self, name: str, wanted: models.QueryRequest) -> object:
        _check_ids((wanted.query,) if isinstance(wanted.query, int | str) else ())
        _check_integers(wanted.model_dump(include={"filter", "prefetch"}))
        real = self._existing(name)
        return self._local.query_points(
            real,
            wanted.query,
            using=wanted.using,
            prefetch=wanted.prefetch,
            query_filter=wanted.filter,
            limit=_limit(wanted.limit),
            offset=wanted.offset,
            score_threshold=wanted.score_threshold,
            **self._parts(real, wanted, False),
        )

    def _parts(
        self,
        name: str,
        wanted: models.PointRequest | models.ScrollRequest | models.QueryRequest,
        payload: bool,
    ) -> dict[str, Any]:
        """Return which parts of the points to answer with; ``payload`` is the request's default."""
        vectors = wanted.with_vector or False
        for vector in () if isinstance(vectors, bool) else vectors:
            if vector not in self._vector_names(name):
                raise Refused(400, f"Wrong input: Not existing vector name error: {vector}")
        return {
            "with_payload": payload if wanted.with_payload is None else wanted.with_payload,
            "with_vectors": vectors,
        }

    def _vector_names(self, name: str) -> set[str]:
        params = self._local.get_collection(name).config.params
        dense = params.vectors if isinstance(params.vectors, dict) else {"": params.vectors}
        return {*dense, *(params.sparse_vectors or {})}

    def _existing(self, name: str, *, or_alias: bool = True) -> str:
        """Return the collection called ``name``, or the one that the alias ``name`` points to."""
        real = self._aliases().get(name, name) if or_alias else name
        if real not in self._collection_names():
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return real

    def _limit(self, name: str, limits: models.StrictModeConfig | None) -> None:
        if limits is None:
            return
        if limits.model_fields_set != {"enabled", "upsert_max_batchsize"} or not limits.enabled:
            raise Refused(501, "the stand-in knows no strict mode but that of upsert_max_batchsize")
        assert limits.upsert_max_batchsize is not None
        self._largest_upserts[name] = limits.upsert_max_batchsize

    def _check_number(self, name: str, points: int) -> None:
        most = self._largest_upserts.get(self._existing(name))
        if most is not None and points > most:
            text = f'Limit exceeded {points} > {most} for "upsert limit"'
            solution = f'Reduce the "upsert limit" parameter to or below {most}.'
            raise Refused(400, f"Bad request: {text}. Help: {solution}")

    def _check_free(self, name: str) -> None:
        if name in self._collection_names():
            raise Refused(409, f"Wrong input: Collection `{name}` already exists!")

    def _aliases(self) -> dict[str, str]:
        return {a.alias_name: a.collection_name for a in self._local.get_aliases().aliases}

    def _collection_names(self) -> set[str]:
        return {collection.name for collection in self._local.get_collections().collections}


Operation = Callable[[str, Any], object]


def _completed() -> models.UpdateResult:
    return models.UpdateResult(operation_id=1, status=models.UpdateStatus.COMPLETED)


def _chosen(wanted: models.SetPayload) -> list[models.ExtendedPointId] | models.Filter:
    if wanted.points is not None:
        _check_ids(wanted.points)
        return wanted.points
    if wanted.filter is None:
        raise Refused(422, "Validation error in JSON body: No filter or points provided")
    return wanted.filter


def _limit(limit: int | None) -> int:
    if limit is not None and limit < 1:
        text = f"[limit: value {limit} invalid, must be 1 or larger]"
        raise Refused(422, f"Validation error in JSON body: {text}")
    return DEFAULT_LIMIT if limit is None else limit


def _check_ids(ids: Iterable[models.ExtendedPointId]) -> None:
    for id_ in ids:
        if not (0 <= id_ <= LARGEST_ID if isinstance(id_, int) else UUID.fullmatch(str(id_))):
            text = f"value {id_} is not a valid point ID, valid values are either an unsigned"
            raise Refused(400, f"Format error in JSON body: {text} integer or a UUID")


def _check_integers(part: object) -> None:
    """Raise Refused for integers in a condition that exceed 64 bits."""
    if isinstance(part, int) and part not in INTEGERS:
        text = "data did not match any variant of untagged enum Condition"
        raise Refused(400, f"Format error in JSON body: {text}")
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for value in inner:
        _check_integers(value)
