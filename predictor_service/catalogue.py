"""The artefacts that a service can choose from."""

from collections.abc import Sequence
from pathlib import Path

import grpc
import structlog

from predictor_service.artefact import MANIFEST, Artefact, ArtefactError, load
from sidecar.errors import Refused


class Catalogue:
    """Artefacts by name. A folder is an artefact itself or holds some, one a folder."""

    def __init__(self, folders: Sequence[Path], *, default: str = "", threads: int = 1) -> None:
        self._folders = folders
        self._default = default
        self._threads = threads
        self._artefacts: dict[str, Artefact] = {}
        self._log = structlog.get_logger("models")

    def refresh(self) -> None:
        """Reads all folders again. A bad artefact is logged and never replaces a good one of its name."""
        for folder in self._artefact_folders():
            try:
                artefact = load(folder, threads=self._threads)
            except ArtefactError as error:
                self._log.error("bad artefact", error=str(error))
                continue
            self._artefacts[artefact.name] = artefact
            self._log.info("artefact", name=artefact.name, served_model=artefact.manifest.served_model)

    def get(self, name: str = "") -> Artefact:
        """The artefact of that name; empty: the default one. Raises Refused (NOT_FOUND) listing the names."""
        wanted = name or self._default or next(iter(self.names), "")
        if wanted not in self._artefacts:
            known = ", ".join(self.names) or "none"
            raise Refused(grpc.StatusCode.NOT_FOUND, f"model: {wanted!r} is not loaded (loaded: {known})")
        return self._artefacts[wanted]

    @property
    def names(self) -> list[str]:
        return sorted(self._artefacts)

    @property
    def problem(self) -> str:
        """Why nothing can be predicted; empty when the default model is there."""
        try:
            self.get()
        except Refused as refusal:
            return str(refusal)
        return ""

    def _artefact_folders(self) -> list[Path]:
        found: list[Path] = []
        for folder in self._folders:
            inside = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
            found += [folder] if (folder / MANIFEST).exists() else inside
        return found
