"""What a scan saw: after it has ended, what it did not see is gone."""

from broker.contract import Sweep
from broker.seen import SeenBuilder


class Sightings:
    """Keeps eight bytes a document, and the folders that were scanned."""

    def __init__(self) -> None:
        self._seen = SeenBuilder()
        self._folders: dict[str, int] = {}

    def begin(self, folder: str, version: int) -> None:
        """A folder is scanned as of ``version``: what was observed later is newer."""
        self._folders.setdefault(folder, version)

    def add(self, doc_id: str) -> None:
        """A document was seen; or a folder that cannot be read, so nothing in it is gone."""
        self._seen.add(doc_id)

    def sweeps(
        self, *, allow_mass_delete: bool, tenant: str = "", collection: str = ""
    ) -> list[Sweep]:
        """A sweep for each folder, once all of them were scanned to the end."""
        seen = self._seen.pack()
        return [
            Sweep(
                doc_id=folder,
                version=version,
                seen=seen,
                tenant=tenant,
                allow_mass_delete=allow_mass_delete,
                collection=collection,
            )
            for folder, version in self._folders.items()
        ]
