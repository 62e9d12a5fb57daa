"""The artefacts that a service can choose from, read again while it serves."""

from collections.abc import Sequence
from pathlib import Path

import grpc
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from predictor_service import metrics
from predictor_service.artefact import MANIFEST, Artefact, ArtefactError, load
from sidecar.errors import Refused

Fingerprint = tuple[tuple[str, int, int, int], ...]


class Catalogue:
    """Artefacts by name. A folder is an artefact itself or holds some, one a folder.

    To deliver one while the service runs, write it into a folder whose name begins with a dot, which is not looked
    at, and rename that; or write manifest.json last. A name once served stays served, even where its folder is gone,
    and keeps its layers: engines are tapping them. Without a `default` the first name that was found is it.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        default: str = "",
        threads: int = 1,
        int8: bool = True,
        signed_by: Ed25519PublicKey | None = None,
    ) -> None:
        """`signed_by`: artefacts without its signature are bad ones."""
        self._folders = folders
        self._default = default
        self._threads, self._int8, self._signed_by = threads, int8, signed_by
        self._artefacts: dict[str, Artefact] = {}
        self._holds: dict[Path, str] = {}
        self._read: dict[Path, Fingerprint] = {}
        self._doubtful: dict[Path, Fingerprint] = {}
        self._taken_names: dict[Path, str] = {}  # folders refused because another one holds their name
        self._orphans: set[str] = set()
        self._told_problem = ""
        self._log = structlog.get_logger("models")

    def refresh(self, *, settled: bool = True) -> None:
        """Reads the folders that changed. May run in a thread, one call at a time.

        A bad artefact never replaces a good one of its name; it is logged and counted once. Unless `settled`, a folder
        may be in the middle of being written: it is bad only if the next look finds it so, and unchanged.
        """
        present = self._artefact_folders()
        self._forget_all_but(present)
        # First those that hold a name: one that changes its own sets the old one free for the others.
        for folder in sorted(present, key=lambda folder: folder not in self._holds):
            fingerprint = _fingerprint(folder)
            known = fingerprint == self._read.get(folder) and not self._may_hold_now(folder)
            if known and (folder in self._holds or not settled):
                continue
            problem = self._take(folder)
            if problem and not settled and fingerprint != self._doubtful.get(folder):
                self._doubtful[folder] = fingerprint
                self._read.pop(folder, None)
                continue
            self._read[folder] = fingerprint
            if problem:
                metrics.BAD_ARTEFACTS.inc()
                self._log.error("bad artefact", error=problem)
        self._default = self._default or next(iter(self.names), "")
        self._tell_orphans()
        self._tell_problem()

    def get(self, name: str = "") -> Artefact:
        """The artefact of that name; empty: the default one. Raises Refused (NOT_FOUND) listing the names."""
        wanted = name or self._default
        if wanted not in self._artefacts:
            known = ", ".join(self.names) or "none"
            what = f"{wanted!r} is not loaded" if wanted else "there is no default"
            raise Refused(grpc.StatusCode.NOT_FOUND, f"model: {what} (loaded: {known})")
        return self._artefacts[wanted]

    def serves(self, artefact: Artefact) -> bool:
        """Whether it is the one of its name now, and not what that name meant before."""
        return self._artefacts.get(artefact.name) is artefact

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

    @property
    def degraded(self) -> str:
        """Which models serve slower than they did, and why."""
        found = [(name, model) for name in self.names for model in self._artefacts[name].classifiers]
        return "; ".join(f"degraded: {name}: {model.device}" for name, model in found if model.degraded)

    def _artefact_folders(self) -> list[Path]:
        found: list[Path] = []
        for folder in self._folders:
            inside = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
            visible = [path for path in inside if not path.name.startswith(".")]
            found += [folder] if (folder / MANIFEST).exists() else visible
        return found

    def _forget_all_but(self, present: Sequence[Path]) -> None:
        """A folder that went and comes back is looked at as a new one: what it held may be another's by then."""
        self._holds = {folder: name for folder, name in self._holds.items() if folder in present}
        self._read = {folder: fingerprint for folder, fingerprint in self._read.items() if folder in present}
        self._doubtful = {folder: fingerprint for folder, fingerprint in self._doubtful.items() if folder in present}
        self._taken_names = {folder: name for folder, name in self._taken_names.items() if folder in present}

    def _may_hold_now(self, folder: Path) -> bool:
        """Whether it was refused for a name that no folder holds any more."""
        name = self._taken_names.get(folder)
        return name is not None and name not in self._holds.values()

    def _take(self, folder: Path) -> str:
        """Serves the artefact in `folder` from now on; or why not."""
        self._taken_names.pop(folder, None)
        try:
            artefact = read(folder, threads=self._threads, int8=self._int8, signed_by=self._signed_by)
        except ArtefactError as error:
            return str(error)
        problem = self._clash(folder, artefact)
        if problem:
            return f"{folder}: {MANIFEST}: {problem}"
        self._holds[folder] = artefact.name
        before = self._artefacts.get(artefact.name)
        if before is None or before.manifest != artefact.manifest:
            self._artefacts[artefact.name] = artefact
            event = "artefact" if before is None else "artefact replaced"
            served, device = artefact.manifest.served_model, artefact.classifier.device
            self._log.info(event, name=artefact.name, served_model=served, folder=str(folder), device=device)
        return ""

    def _clash(self, folder: Path, artefact: Artefact) -> str:
        name, before = artefact.name, self._artefacts.get(artefact.name)
        others = [str(other) for other, held in self._holds.items() if held == name and other != folder]
        if others:
            self._taken_names[folder] = name
            return f"name: {name!r} is that of {others[0]} already"
        if before is not None and not same_layout(before, artefact):
            return (
                f"layers: {artefact.manifest.layers} of {artefact.manifest.hidden_size}, but engines that use {name!r} "
                f"tap {before.manifest.layers} of {before.manifest.hidden_size}: give it another name"
            )
        return ""

    def _tell_orphans(self) -> None:
        orphans = self._artefacts.keys() - self._holds.values()
        for name in sorted(orphans - self._orphans):
            self._log.warning("the folder is gone; its artefact is served until the service ends", name=name)
        self._orphans = orphans

    def _tell_problem(self) -> None:
        """A default that is missing may be misspelt or yet to come: said at the start and when the names change."""
        problem, before = self.problem, self._told_problem
        if problem and problem != before:
            folders = [str(folder) for folder in self._folders]
            self._log.warning("streams that name no model are refused", reason=problem, looked_in=folders)
        elif before and not problem:
            self._log.info("the default model is there", name=self.get().name)
        self._told_problem = problem


def read(folder: Path, *, threads: int = 1, int8: bool = True, signed_by: Ed25519PublicKey | None = None) -> Artefact:
    """As `artefact.load`, where a graph can also load and fail in its first run, by whatever exception."""
    try:
        return load(folder, threads=threads, int8=int8, signed_by=signed_by)
    except ArtefactError:
        raise
    except Exception as error:
        raise ArtefactError(f"{folder}: {type(error).__name__}: {error}") from error


def same_layout(one: Artefact, other: Artefact) -> bool:
    """Whether both read the same hidden states, so that an engine can go from one to the other."""
    a, b = one.manifest, other.manifest
    return (a.layers, a.hidden_size) == (b.layers, b.hidden_size)


def _fingerprint(folder: Path) -> Fingerprint:
    """Changes with any file of the folder; empty where a file vanished under our eyes."""
    try:
        stats = [(str(path.relative_to(folder)), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    except OSError:
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)
